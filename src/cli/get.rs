//! `starling get`.

use std::ffi::OsString;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, KeyName, NodeArgs, header, problem, show_context};
use super::exit::Outcome;
use super::{level, output};
use crate::types::Level;

/// Reads a value and writes it to stdout as it is stored. Siblings are listed with their versions,
/// and the exit code is 3.
#[derive(Args, Debug)]
pub(super) struct GetArgs {
    /// The bucket
    bucket: String,
    /// The key
    key: OsString,
    /// How many replicas must answer
    #[arg(long, value_name = "LEVEL", value_parser = level::of_reads())]
    consistency: Option<Level>,
    /// Only this version of several siblings
    #[arg(long, value_name = "VERSION")]
    only: Option<String>,
    /// Taken as by put and delete; a read needs none
    #[arg(long, value_name = "TOKEN", hide = true)]
    context: Option<String>,
    /// Show the context on stderr, for `put --context`
    #[arg(long)]
    show_context: bool,
    /// Write everything that is known of the value as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// The body of a 300.
#[derive(Deserialize)]
struct Siblings {
    context: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    version: String,
    deleted: bool,
    content_type: Option<String>,
    modified: String,
    value: Option<String>,
}

pub(super) async fn run(args: GetArgs) -> anyhow::Result<Outcome> {
    let name = KeyName::parse(&args.bucket, &args.key)?;
    let client = args.node.client()?;
    let response = ask(&client, &args, &name).await?;
    if args.show_context {
        show_context(&response);
    }
    match response.status() {
        StatusCode::OK if args.json => write_value_json(response).await,
        StatusCode::OK => {
            let value = response.bytes().await.context("the value broke off")?;
            output::write(&value)?;
            Ok(Outcome::Done)
        }
        StatusCode::MULTIPLE_CHOICES => write_siblings(response, args.json).await,
        _ => Err(problem(response).await),
    }
}

async fn ask(client: &Client, args: &GetArgs, name: &KeyName) -> anyhow::Result<Response> {
    let mut query = Vec::new();
    query.extend(args.consistency.map(|level| format!("consistency={level}")));
    let encoded = args.only.as_deref().map(|id| {
        percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC).to_string()
    });
    query.extend(encoded.map(|id| format!("version={id}")));
    let path = format!("{}?{}", name.path("kv"), query.join("&"));
    let request = client.request(Method::GET, path.trim_end_matches('?'))?;
    client.send(request.header("accept", "application/json")).await
}

async fn write_value_json(response: Response) -> anyhow::Result<Outcome> {
    let own = |name: &str| header(&response, name).map(str::to_owned);
    let (context, version) = (own("starling-context"), own("starling-version"));
    let (content_type, content_encoding) = (own("content-type"), own("content-encoding"));
    let (acks, modified) = (own("starling-acks"), own("last-modified"));
    let value = response.bytes().await.context("the value broke off")?;
    output::write_json(&json!({
        "context": context,
        "version": version,
        "siblings": 1,
        "content_type": content_type,
        "content_encoding": content_encoding,
        "modified": modified,
        "acks": acks,
        "value": STANDARD.encode(&value),
    }))?;
    Ok(Outcome::Done)
}

async fn write_siblings(response: Response, as_json: bool) -> anyhow::Result<Outcome> {
    let body = response.bytes().await.context("the answer broke off")?;
    let found: Siblings = serde_json::from_slice(&body).context("the answer can't be read")?;
    if as_json {
        output::write_json(&serde_json::from_slice(&body)?)?;
    } else {
        output::write(render(&found)?.as_bytes())?;
    }
    eprintln!(
        "starling: the key has {} siblings; write the value that resolves them with \
         put --context",
        found.siblings.len()
    );
    Ok(Outcome::Siblings)
}

fn render(found: &Siblings) -> anyhow::Result<String> {
    let count = found.siblings.len();
    let mut text = String::new();
    for (index, sibling) in found.siblings.iter().enumerate() {
        text += &format!("sibling {} of {count}\n", index + 1);
        text += &format!("  version   {}\n  modified  {}\n", sibling.version, sibling.modified);
        text += &render_content(sibling)?;
        text.push('\n');
    }
    Ok(text + &format!("context: {}\n", found.context))
}

fn render_content(sibling: &Sibling) -> anyhow::Result<String> {
    if sibling.deleted {
        return Ok("  deleted\n".into());
    }
    let value = STANDARD.decode(sibling.value.as_deref().unwrap_or_default());
    let value = value.context("a value in the answer is no base64")?;
    let content_type = sibling.content_type.as_deref().unwrap_or("unknown");
    let shown = readable(&value);
    Ok(format!("  type      {content_type}\n  value     {shown}\n"))
}

/// Text as it is, its further lines indented; what would disturb a terminal in base64.
fn readable(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\t')) => {
            text.trim_end_matches('\n').replace('\n', "\n            ")
        }
        _ => format!("(base64) {}", STANDARD.encode(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn text_is_shown_as_it_is_and_binary_as_base64() {
        assert_eq!(readable("grün\n".as_bytes()), "grün");
        assert_eq!(readable(b"a\nb"), "a\n            b");
        assert_eq!(readable(b"\x1b[31m"), "(base64) G1szMW0=");
        assert_eq!(readable(&[0xff]), "(base64) /w==");
    }
}
