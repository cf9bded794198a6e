//! A client of one node's HTTP API.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Deserialize;

use super::exit::WrongUsage;
use crate::types::{Bucket, Key};

/// Everything but what no one ever rewrites (RFC 3986, section 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Longer than any deadline that a node accepts: the node's answer says more than our giving up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(65);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which node is asked.
#[derive(Args, Debug)]
pub(super) struct NodeArgs {
    /// The node to ask
    #[arg(
        long,
        value_name = "URL",
        env = "STARLING_NODE",
        default_value = "http://127.0.0.1:7070"
    )]
    node: String,
}

impl NodeArgs {
    /// A client of that node.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.node)
    }
}

/// A key as it was typed: any bytes but zero.
pub(super) struct KeyName {
    bucket: Bucket,
    key: Key,
}

impl KeyName {
    pub(super) fn parse(bucket: &str, key: &OsStr) -> Result<Self, WrongUsage> {
        let bucket = Bucket::new(bucket).map_err(|error| WrongUsage(error.to_string()))?;
        let key = Key::new(key.as_bytes().to_vec()).map_err(|e| WrongUsage(e.to_string()))?;
        Ok(Self { bucket, key })
    }

    /// The path of its value, encoded. `.` and `..` go through the base64 form: URLs drop them, even
    /// percent-encoded (WHATWG URL, "double-dot path segment").
    pub(super) fn path(&self, call: &str) -> String {
        let (bucket, key) = (&self.bucket, self.key.as_bytes());
        if matches!(key, b"." | b"..") {
            return format!("/v1/{call}64/{bucket}/{}", URL_SAFE_NO_PAD.encode(key));
        }
        format!("/v1/{call}/{bucket}/{}", percent_encode(key, ENCODED))
    }
}

/// A connection to one node.
#[derive(Clone, Debug)]
pub(super) struct Client {
    base: Url,
    http: reqwest::Client,
}

impl Client {
    pub(super) fn new(node: &str) -> anyhow::Result<Self> {
        let text = if node.contains("://") { node.into() } else { format!("http://{node}") };
        let wrong = |why: &str| WrongUsage(format!("--node {node}: {why}"));
        let base = Url::parse(&text).map_err(|error| wrong(&error.to_string()))?;
        if base.scheme() != "http" || !base.has_host() {
            return Err(wrong("must be http://HOST:PORT").into());
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ANSWER_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .context("can't set up an HTTP client")?;
        Ok(Self { base, http })
    }

    /// A request for a path that is encoded already.
    pub(super) fn request(&self, method: Method, path: &str) -> anyhow::Result<RequestBuilder> {
        let url = self.base.join(path).with_context(|| format!("{path} is no path"))?;
        Ok(self.http.request(method, url))
    }

    /// Sends a request. Answers of any status come back; failing to get one is an error.
    pub(super) async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        request.send().await.map_err(|error| self.unanswered(&error))
    }

    /// Fetches JSON; an error of the node is ours.
    pub(super) async fn get_json(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        let response = self.send(self.request(Method::GET, path)?).await?;
        if !response.status().is_success() {
            return Err(problem(response).await);
        }
        response.json().await.context("the node's answer is no JSON")
    }

    /// Sends JSON and fetches JSON; an error of the node is ours.
    pub(super) async fn post_json(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> anyhow::Result<serde_json::Value> {
        let response = self.send(self.request(Method::POST, path)?.json(body)).await?;
        if !response.status().is_success() {
            return Err(problem(response).await);
        }
        response.json().await.context("the node's answer is no JSON")
    }

    fn unanswered(&self, error: &reqwest::Error) -> anyhow::Error {
        let node = self.base.as_str().trim_end_matches('/');
        if error.is_connect() {
            let advice = "is the node running? Name another one with --node";
            anyhow::anyhow!("can't reach {node}: {}; {advice}", innermost(error))
        } else {
            anyhow::anyhow!("no answer from {node}: {}", innermost(error))
        }
    }
}

/// The cause that says most: the last one.
fn innermost(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .last()
        .map_or_else(String::new, ToString::to_string)
}

/// `application/problem+json`, as far as it is shown.
#[derive(Deserialize)]
struct Problem {
    code: String,
    detail: String,
    request_id: Option<String>,
}

/// An answer that says what went wrong, as an error in one line.
pub(super) async fn problem(response: Response) -> anyhow::Error {
    let status = response.status();
    let body = response.bytes().await.unwrap_or_default();
    match serde_json::from_slice::<Problem>(&body) {
        Ok(Problem { code, detail, request_id: Some(id) }) => {
            anyhow::anyhow!("{detail} ({code}, request {id})")
        }
        Ok(Problem { code, detail, request_id: None }) => anyhow::anyhow!("{detail} ({code})"),
        Err(_) => anyhow::anyhow!("the node answers {status}, which is no answer of Starling's"),
    }
}

/// A header of an answer as text.
pub(super) fn header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

/// Shows the context of an answer on stderr.
pub(super) fn show_context(response: &Response) {
    if let Some(context) = header(response, "starling-context") {
        eprintln!("context: {context}");
    }
}
