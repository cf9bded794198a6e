//! What operators and machines ask: health, readiness, metrics, errors explained.

use http::HeaderValue;
use serde::Serialize;

use super::answer::{self, Answer};
use super::app::{App, Call};
use super::error::{self, Code, Failure};
use super::query;
use crate::node::view::Readiness;

/// Prometheus's text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

/// `GET /healthz`: that there is an answer is the answer.
///
/// # Errors
/// `invalid-parameter`.
pub fn health(call: &Call<'_>) -> Result<Answer, Failure> {
    query::none(call.head.uri.query())?;
    Ok(answer::json(&Status { status: "ok" }))
}

/// `GET /readyz`.
///
/// # Errors
/// `not-ready`.
pub fn readiness(app: &App, call: &Call<'_>) -> Result<Answer, Failure> {
    query::none(call.head.uri.query())?;
    match app.service.readiness() {
        Readiness::Ready => Ok(answer::json(&Status { status: "ready" })),
        Readiness::NotReady(why) => Err(Failure::new(Code::NotReady, why)),
    }
}

/// `GET /metrics`.
///
/// # Errors
/// `invalid-parameter`.
pub fn metrics(app: &App, call: &Call<'_>) -> Result<Answer, Failure> {
    query::none(call.head.uri.query())?;
    let text = app.observer.metrics_text();
    Ok(answer::with_type(HeaderValue::from_static(METRICS_TYPE), text))
}

/// `GET /errors/{code}`.
///
/// # Errors
/// `no-such-route` where there is no such code.
pub fn error_page(call: &Call<'_>, name: &str) -> Result<Answer, Failure> {
    query::none(call.head.uri.query())?;
    error::error_page(name)
}
