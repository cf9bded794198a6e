//! `starling put`.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;

use anyhow::Context as _;
use clap::Args;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::json;

use super::client::{Client, KeyName, NodeArgs, header, problem, show_context};
use super::exit::Outcome;
use super::{level, output};
use crate::types::Level;

/// Writes a value.
#[derive(Args, Debug)]
pub(super) struct PutArgs {
    /// The bucket
    bucket: String,
    /// The key
    key: OsString,
    /// The value; `-` or nothing: read it from stdin
    #[arg(allow_negative_numbers = true)]
    value: Option<OsString>,
    /// What the value is, stored with it
    #[arg(long, value_name = "TYPE", default_value = "application/octet-stream")]
    content_type: String,
    #[command(flatten)]
    write: WriteArgs,
}

/// What PUT and DELETE have in common.
#[derive(Args, Debug)]
pub(super) struct WriteArgs {
    /// How many replicas must have it
    #[arg(long, value_name = "LEVEL", value_parser = level::of_writes())]
    consistency: Option<Level>,
    /// The context of a `get` (see its --show-context): replace exactly what that showed. `none`:
    /// replace nothing. Left out: replace what is there
    #[arg(long, value_name = "TOKEN")]
    context: Option<String>,
    /// Show the context of the write on stderr
    #[arg(long)]
    show_context: bool,
    /// Write what is known of the new version as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

pub(super) async fn run(args: PutArgs) -> anyhow::Result<Outcome> {
    let name = KeyName::parse(&args.bucket, &args.key)?;
    let value = value(args.value)?;
    let request = |client: &Client| {
        let request = client.request(Method::PUT, &args.write.path(&name))?;
        Ok(request.header("content-type", &args.content_type).body(value))
    };
    args.write.send(request).await
}

fn value(argument: Option<OsString>) -> anyhow::Result<Vec<u8>> {
    if let Some(value) = argument.filter(|value| value != "-") {
        return Ok(value.into_vec());
    }
    let mut value = Vec::new();
    std::io::stdin().lock().read_to_end(&mut value).context("can't read the value from stdin")?;
    Ok(value)
}

impl WriteArgs {
    /// The path of the request with what it asks for.
    pub(super) fn path(&self, name: &KeyName) -> String {
        let query = self.consistency.map(|level| format!("?consistency={level}"));
        name.path("kv") + &query.unwrap_or_default()
    }

    /// Sends the write and shows what came of it.
    pub(super) async fn send(
        &self,
        request: impl FnOnce(&Client) -> anyhow::Result<RequestBuilder>,
    ) -> anyhow::Result<Outcome> {
        let client = self.node.client()?;
        let mut request = request(&client)?;
        if let Some(context) = &self.context {
            request = request.header("starling-context", context);
        }
        let response = client.send(request).await?;
        // With a failed write too: a retry with that context replaces what it may have left.
        if self.show_context {
            show_context(&response);
        }
        if !response.status().is_success() {
            return Err(problem(response).await);
        }
        if self.json {
            output::write_json(&describe(&response))?;
        }
        Ok(Outcome::Done)
    }
}

fn describe(response: &Response) -> serde_json::Value {
    let siblings = header(response, "starling-siblings").and_then(|text| text.parse::<u64>().ok());
    json!({
        "context": header(response, "starling-context"),
        "version": header(response, "starling-version"),
        "siblings": siblings,
        "acks": header(response, "starling-acks"),
    })
}
