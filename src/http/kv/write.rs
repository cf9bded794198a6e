//! PUT and DELETE: 204 with what the key holds now.

use http::header::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;

use super::get::DEFAULT_TYPE;
use crate::http::answer::{self, Answer, Payload};
use crate::http::app::{App, Call};
use crate::http::body::RequestBody;
use crate::http::error::{Code, Failure};
use crate::http::headers;
use crate::http::parameters::{Asked, Kind, plain};
use crate::http::preconditions;
use crate::node::operation::{Seen, Write, WriteAnswer};
use crate::protocol::causality::{Content, Text, Value};
use crate::types::KeyPath;

/// Names and values of `Starling-Meta-*` together.
const MAX_META_BYTES: usize = 4 * 1024;
/// The longest context token that is looked at.
const MAX_CONTEXT_BYTES: usize = 8 * 1024;

/// Stores a value.
///
/// # Errors
/// All that api.md lists for writes.
pub async fn put(
    app: &App,
    call: &mut Call<'_>,
    body: &mut RequestBody,
    path: KeyPath,
) -> Result<Answer, Failure> {
    let head = call.head;
    if head.headers.contains_key(CONTENT_RANGE) {
        let detail = "values are stored whole; send the whole value, without Content-Range";
        return Err(Failure::new(Code::InvalidRequest, detail));
    }
    let mut write = prepare(app, call, path, |asked| value_head(&head.headers, asked))?;
    // Only now: what is wrong with the head is said before the body is asked for.
    let bytes = body.read(app.limits.max_value_bytes).await?;
    if let Content::Value(value) = &mut write.content {
        value.body = bytes;
    }
    // Time counts from the whole request: a slow upload is not the replicas' fault.
    call.complete = Instant::now();
    write.terms.deadline += call.complete - call.started;
    Ok(done(app.service.write(write).await?))
}

/// Deletes a value. A body means nothing and is dropped.
///
/// # Errors
/// All that api.md lists for writes.
pub async fn delete(app: &App, call: &mut Call<'_>, path: KeyPath) -> Result<Answer, Failure> {
    let write = prepare(app, call, path, |_| Ok(Content::Tombstone))?;
    Ok(done(app.service.write(write).await?))
}

fn prepare(
    app: &App,
    call: &mut Call<'_>,
    path: KeyPath,
    content: impl FnOnce(&Asked<'_>) -> Result<Content, Failure>,
) -> Result<Write, Failure> {
    let head = call.head;
    let asked = Asked::collect(head.uri.query(), &head.headers, Kind::Write)?;
    let terms = super::terms(app, call, &asked, (Kind::Write, &path))?;
    let conditions = preconditions::of_write(&head.headers)?;
    let seen = seen(app, asked.context(), &path)?;
    let content = content(&asked)?;
    Ok(Write { path, content, seen, conditions, terms })
}

fn seen(app: &App, context: Option<&str>, path: &KeyPath) -> Result<Seen, Failure> {
    let invalid = |detail: String| Failure::new(Code::InvalidContext, detail);
    match context {
        None => Ok(Seen::OwnRead),
        Some("none") => Ok(Seen::Nothing),
        Some(token) if token.len() > MAX_CONTEXT_BYTES => Err(invalid(
            "the context token is longer than any that was handed out; send it unchanged".into(),
        )),
        Some(token) => app.service.open_context(token, path).map(Seen::Token).map_err(invalid),
    }
}

/// A value without its bytes.
fn value_head(headers: &HeaderMap, asked: &Asked<'_>) -> Result<Content, Failure> {
    let content_type = single(headers, &CONTENT_TYPE)?;
    Ok(Content::Value(Value {
        // The default is not stored, so that naming it and leaving it out are the same value.
        content_type: content_type.filter(|text| *text != DEFAULT_TYPE).map(Text::from),
        content_encoding: single(headers, &CONTENT_ENCODING)?.map(Text::from),
        meta: meta(asked)?,
        body: bytes::Bytes::new(),
    }))
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Failure> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) => plain(name.as_str(), line).map(Some),
        (Some(_), Some(_)) => {
            let detail = format!("{name} came more than once; send it as one line");
            Err(Failure::new(Code::InvalidRequest, detail))
        }
    }
}

/// In the order of their names, so that the same metadata is always the same value.
fn meta(asked: &Asked<'_>) -> Result<Vec<(Text, Text)>, Failure> {
    let mut pairs = asked.meta().to_vec();
    let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_META_BYTES {
        let detail = format!(
            "the Starling-Meta-* headers have {bytes} bytes; at most {MAX_META_BYTES} are stored"
        );
        return Err(Failure::new(Code::HeadersTooLarge, detail));
    }
    pairs.sort_unstable();
    let twice = pairs.windows(2).any(|pair| pair[0].0 == pair[1].0);
    if twice || pairs.first().is_some_and(|(name, _)| name.is_empty()) {
        let detail = "each Starling-Meta-<name> needs a name, and may come once";
        return Err(Failure::new(Code::InvalidRequest, detail));
    }
    Ok(pairs.into_iter().map(|(name, value)| (Text::from(name), Text::from(value))).collect())
}

fn done(wrote: WriteAnswer) -> Answer {
    let mut answer = Answer::new(Payload::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    headers.reserve(16);
    headers.insert(headers::CONTEXT.clone(), answer::text(&wrote.context));
    headers.insert(headers::VERSION.clone(), answer::formatted(format_args!("{}", wrote.version)));
    headers.insert(headers::SIBLINGS.clone(), HeaderValue::from(wrote.siblings));
    headers.insert(headers::ACKS.clone(), answer::acks(wrote.acks));
    headers.insert(headers::EPOCH.clone(), HeaderValue::from(wrote.epoch.get()));
    if let Some(set) = wrote.set {
        headers.insert(ETAG, answer::etag(set, ""));
    }
    answer
}
