//! `/v1/buckets`.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde::Serialize;

use super::answer::{self, Answer};
use super::app::{App, Call};
use super::body::RequestBody;
use super::error::Failure;
use super::{json, query, target};
use crate::node::operation::BucketChange;
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

/// `PUT` and `DELETE /v1/buckets/{bucket}`: what the bucket has then; 202 if its data has to move
/// for that.
///
/// # Errors
/// `invalid-bucket`, `unsupported-media-type`, `value-too-large`, `invalid-request`,
/// `invalid-parameter`, `transition-running`.
pub async fn change(
    app: &App,
    call: &Call<'_>,
    body: &mut RequestBody,
    name: &str,
) -> Result<Answer, Failure> {
    let bucket = target::bucket(name)?;
    query::none(call.head.uri.query())?;
    let change: Option<BucketChange> = match call.head.method == Method::PUT {
        true => Some(json::parse(call, body).await?),
        false => None,
    };
    let (view, moves) = app.service.change_bucket(bucket, change).await?;
    let mut answer = answer::json(&view);
    if moves {
        *answer.status_mut() = StatusCode::ACCEPTED;
    }
    Ok(answer)
}
