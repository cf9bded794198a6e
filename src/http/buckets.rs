//! `/v1/buckets`.

use std::collections::BTreeMap;

use http::Method;
use serde::Serialize;

use super::answer::{self, Answer};
use super::app::{App, Call};
use super::body::RequestBody;
use super::error::Failure;
use super::{json, ops, query, target};
use crate::node::view::BucketView;

#[derive(Serialize)]
struct Buckets {
    buckets: BTreeMap<String, BucketView>,
}

/// `GET /v1/buckets`: those with properties of their own.
///
/// # Errors
/// `invalid-parameter`.
pub fn list(app: &App, call: &Call<'_>) -> Result<Answer, Failure> {
    query::none(call.head.uri.query())?;
    let buckets = app.service.buckets().into_iter();
    let buckets = buckets.map(|(bucket, view)| (String::from(bucket), view)).collect();
    Ok(answer::json(&Buckets { buckets }))
}

/// `GET /v1/buckets/{bucket}`; a bucket that nobody named has the defaults.
///
/// # Errors
/// `invalid-bucket`, `invalid-parameter`.
pub fn show(app: &App, call: &Call<'_>, name: &str) -> Result<Answer, Failure> {
    let bucket = target::bucket(name)?;
    query::none(call.head.uri.query())?;
    Ok(answer::json(&app.service.bucket(&bucket)))
}

/// `PUT` and `DELETE /v1/buckets/{bucket}`.
///
/// # Errors
/// `invalid-bucket`, `unsupported-media-type`, `value-too-large`, `not-implemented`.
pub async fn change(
    call: &Call<'_>,
    body: &mut RequestBody,
    name: &str,
) -> Result<Answer, Failure> {
    target::bucket(name)?;
    query::none(call.head.uri.query())?;
    if call.head.method == Method::PUT {
        json::read(call, body).await?;
    }
    Err(ops::later("changing a bucket's properties over HTTP"))
}
