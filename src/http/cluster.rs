//! `/v1/cluster` and below, and `/v1/explain`.

use http::StatusCode;
use serde::Serialize;

use super::answer::{self, Answer};
use super::app::{App, Call};
use super::body::RequestBody;
use super::error::{Code, Failure};
use super::json;
use super::parameters::{DEFAULT_TIMEOUT, parse_timeout};
use super::query;
use super::target::{self, KeyForm};

/// `GET /v1/cluster`.
///
/// # Errors
/// `not-ready`.
pub fn show(app: &App, call: &Call<'_>) -> Result<Answer, Failure> {
    query::none(call.head.uri.query())?;
    Ok(answer::json(&app.service.cluster()?))
}

/// `GET /v1/cluster/ring?n=`.
///
/// # Errors
/// `not-ready`; `invalid-parameter` where there is no table for that n.
pub fn ring(app: &App, call: &Call<'_>) -> Result<Answer, Failure> {
    let invalid = || {
        let detail =
            "n is the replication factor of a table in use; leave it out for the cluster's";
        Failure::new(Code::InvalidParameter, detail)
    };
    let n = query::only(call.head.uri.query(), "n")?;
    let parse = |text: &str| {
        let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        plain.then(|| text.parse::<u8>().ok())?
    };
    let n = n.as_deref().map(|text| parse(text).ok_or_else(invalid)).transpose()?;
    let table = app.service.ring(n)?.ok_or_else(invalid)?;
    Ok(answer::json(&table))
}

/// `GET /v1/repair`.
///
/// # Errors
/// `not-ready`.
pub fn repair(app: &App, call: &Call<'_>) -> Result<Answer, Failure> {
    query::none(call.head.uri.query())?;
    Ok(answer::json(&app.service.repair()?))
}

/// What `POST /v1/repair` has begun.
#[derive(Serialize)]
struct Begun {
    /// Keys whose only copies were damaged, and that were given up.
    released: u64,
}

/// `POST /v1/repair?accept_loss=`.
///
/// # Errors
/// `not-ready`; `invalid-parameter`; `internal` where not all nodes have given up their damaged
/// keys.
pub async fn begin_repair(app: &App, call: &Call<'_>) -> Result<Answer, Failure> {
    let accept_loss = match query::only(call.head.uri.query(), "accept_loss")?.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            let detail = "accept_loss is true or false";
            return Err(Failure::new(Code::InvalidParameter, detail));
        }
    };
    let released = app.service.begin_repair(accept_loss).await?;
    Ok(accepted(&Begun { released }))
}

/// `POST /v1/cluster/plan`.
///
/// # Errors
/// `unsupported-media-type`, `value-too-large`, `invalid-request`, and those of a change.
pub async fn plan(app: &App, call: &Call<'_>, body: &mut RequestBody) -> Result<Answer, Failure> {
    query::none(call.head.uri.query())?;
    let request = json::parse(call, body).await?;
    Ok(answer::json(&app.service.plan(request).await?))
}

/// `POST /v1/cluster/apply`.
///
/// # Errors
/// `unsupported-media-type`, `value-too-large`, `invalid-request`, and those of a change.
pub async fn apply(app: &App, call: &Call<'_>, body: &mut RequestBody) -> Result<Answer, Failure> {
    query::none(call.head.uri.query())?;
    let request = json::parse(call, body).await?;
    Ok(accepted(&app.service.apply(request).await?))
}

/// What a call without anything to tell answers.
#[derive(Serialize)]
struct Accepted {}

/// `POST /v1/cluster/abort`.
///
/// # Errors
/// `no-transition`, and those of a change.
pub async fn abort(app: &App, call: &Call<'_>) -> Result<Answer, Failure> {
    query::none(call.head.uri.query())?;
    app.service.abort().await?;
    Ok(accepted(&Accepted {}))
}

/// `POST /v1/cluster/recover`.
///
/// # Errors
/// `unsupported-media-type`, `value-too-large`, `invalid-request`, `node-alive`, and those of a
/// change.
pub async fn recover(
    app: &App,
    call: &Call<'_>,
    body: &mut RequestBody,
) -> Result<Answer, Failure> {
    query::none(call.head.uri.query())?;
    let request = json::parse(call, body).await?;
    app.service.recover(request).await?;
    Ok(accepted(&Accepted {}))
}

fn accepted(body: &impl Serialize) -> Answer {
    let mut answer = answer::json(body);
    *answer.status_mut() = StatusCode::ACCEPTED;
    answer
}

/// `GET /v1/explain/{bucket}/{key}?timeout=`.
///
/// # Errors
/// `invalid-bucket`, `invalid-key`, `invalid-parameter`, `not-ready`.
pub async fn explain(
    app: &App,
    call: &Call<'_>,
    (rest, form): (&str, KeyForm),
) -> Result<Answer, Failure> {
    let path = target::key_path(rest, form)?;
    let timeout = query::only(call.head.uri.query(), "timeout")?;
    let timeout = timeout.as_deref().map_or(Ok(DEFAULT_TIMEOUT), parse_timeout)?;
    Ok(answer::json(&app.service.explain(path, call.started + timeout).await?))
}
