//! GET and HEAD: 200, 300, 304 or 404, by what the key holds.

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::siblings::{self, Form};
use crate::http::answer::{self, Answer, Payload};
use crate::http::app::{App, Call};
use crate::http::error::{Code, Failure};
use crate::http::headers;
use crate::http::parameters::{Asked, Kind};
use crate::http::preconditions::{self, Tags};
use crate::node::operation::{EtagSet, Get, GetAnswer, OperationError};
use crate::protocol::causality::{Content, Shown, Value, Version};
use crate::types::KeyPath;

/// The type of a value that was stored without one.
pub const DEFAULT_TYPE: &str = "application/octet-stream";

/// What a client expects of the present state: `If-Match`, `If-None-Match`.
type Conditions<'a> = (Option<Tags<'a>>, Option<Tags<'a>>);

/// Reads a key.
///
/// # Errors
/// All that api.md lists for reads.
pub async fn get(app: &App, call: &mut Call<'_>, path: KeyPath) -> Result<Answer, Failure> {
    let head = call.head;
    let asked = Asked::collect(head.uri.query(), &head.headers, Kind::Read)?;
    let conditions = preconditions::of_read(&head.headers)?;
    let terms = super::terms(app, call, &asked, (Kind::Read, &path))?;
    let version = asked.version().map(str::to_owned);
    let is_version = version.is_some();
    let mut got = app.service.get(Get { path, version, terms }).await?;
    let shown = std::mem::replace(&mut got.shown, Shown::Nothing { deleted: false });
    let mut answer = match shown {
        Shown::Nothing { deleted } => {
            let failure = Failure::not_found(deleted).with_context(&got.context);
            return Err(failure.with_answers(got.reached, got.epoch));
        }
        Shown::One(version) => {
            // With `?version=`, the tag names this content only where it is all there is.
            let tag = (!is_version || got.siblings == 1).then_some(got.set);
            one(version, tag, &conditions, &got)?
        }
        Shown::Siblings(versions) => several(call, &versions, &conditions, &got, app)?,
    };
    let headers = answer.headers_mut();
    headers.insert(headers::SIBLINGS.clone(), HeaderValue::from(got.siblings));
    headers.insert(headers::ACKS.clone(), answer::acks(got.reached.acks));
    headers.insert(headers::EPOCH.clone(), HeaderValue::from(got.epoch.get()));
    headers.insert(headers::CONTEXT.clone(), answer::text(&got.context));
    Ok(answer)
}

fn one(
    version: Version,
    set: Option<EtagSet>,
    conditions: &Conditions<'_>,
    got: &GetAnswer,
) -> Result<Answer, Failure> {
    let tag = set.map(|set| answer::etag(set, ""));
    let mut answer = match unmodified(conditions, tag.as_ref(), got)? {
        true => not_modified(),
        false => Answer::new(Payload::default()),
    };
    let is_whole = answer.status() == StatusCode::OK;
    let headers = answer.headers_mut();
    headers.reserve(20);
    headers.insert(headers::VERSION.clone(), version_name(&version));
    if let Some(tag) = tag {
        headers.insert(ETAG, tag);
    }
    if is_whole {
        put_date(headers, version.stamp().wall_ms());
        match version.into_content() {
            Content::Value(value) => {
                put_metadata(headers, &value);
                *answer.body_mut() = Payload::from(value.body);
            }
            Content::Tombstone => {
                headers.insert(headers::DELETED.clone(), HeaderValue::from_static("true"));
            }
        }
    }
    Ok(answer)
}

fn several(
    call: &Call<'_>,
    versions: &[Version],
    conditions: &Conditions<'_>,
    got: &GetAnswer,
    app: &App,
) -> Result<Answer, Failure> {
    let Some(form) = siblings::negotiate(&call.head.headers) else {
        let detail = "the key has siblings; accept application/json or multipart/mixed";
        let failure = Failure::new(Code::NotAcceptable, detail).with_context(&got.context);
        return Err(failure.with_answers(got.reached.clone(), got.epoch));
    };
    let suffix = match form {
        Form::Json => ".j",
        Form::Multipart => ".m",
    };
    let tag = answer::etag(got.set, suffix);
    let mut answer = if unmodified(conditions, Some(&tag), got)? {
        not_modified()
    } else if call.is_head() {
        Answer::new(Payload::default())
    } else {
        match form {
            Form::Json => siblings::as_json(versions, &got.context),
            Form::Multipart => siblings::as_multipart(versions, || app.service.new_request_id()),
        }
    };
    if answer.status() == StatusCode::OK {
        *answer.status_mut() = StatusCode::MULTIPLE_CHOICES;
        if let Some(newest) = versions.iter().map(|version| version.stamp().wall_ms()).max() {
            put_date(answer.headers_mut(), newest);
        }
    }
    answer.headers_mut().insert(ETAG, tag);
    Ok(answer)
}

/// Whether the client has this representation already (RFC 9110, section 13.2.2).
fn unmodified(
    (if_match, if_none_match): &Conditions<'_>,
    tag: Option<&HeaderValue>,
    got: &GetAnswer,
) -> Result<bool, Failure> {
    let tag = tag.map(HeaderValue::as_bytes).unwrap_or_default();
    if if_match.as_ref().is_some_and(|tags| !tags.match_strongly(tag)) {
        return Err(Failure::from(OperationError::PreconditionFailed {
            set: Some(got.set),
            context: got.context.clone(),
            reached: got.reached.clone(),
            epoch: got.epoch,
        }));
    }
    Ok(if_none_match.as_ref().is_some_and(|tags| tags.match_weakly(tag)))
}

fn not_modified() -> Answer {
    let mut answer = Answer::new(Payload::default());
    *answer.status_mut() = StatusCode::NOT_MODIFIED;
    answer
}

fn put_date(headers: &mut HeaderMap, wall_ms: u64) {
    if let Some(date) = answer::http_date(wall_ms) {
        headers.insert(LAST_MODIFIED, date);
    }
}

/// Type, encoding and metadata, as they were stored. A text that can't be a header's value (it
/// did not come in through this API) is left out.
fn put_metadata(headers: &mut HeaderMap, value: &Value) {
    let content_type = match &value.content_type {
        None => Ok(HeaderValue::from_static(DEFAULT_TYPE)),
        Some(content_type) => HeaderValue::from_str(content_type),
    };
    if let Ok(content_type) = content_type {
        headers.insert(CONTENT_TYPE, content_type);
    }
    if let Some(Ok(encoding)) = value.content_encoding.as_deref().map(HeaderValue::from_str) {
        headers.insert(CONTENT_ENCODING, encoding);
    }
    for (name, value) in &value.meta {
        let name = HeaderName::try_from(format!("starling-meta-{name}"));
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
}

fn version_name(version: &Version) -> HeaderValue {
    answer::formatted(format_args!("{}", version.dot()))
}
