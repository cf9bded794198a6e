//! Calls that take JSON.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;

use super::app::Call;
use super::body::RequestBody;
use super::error::{Code, Failure};

/// The largest JSON body.
pub const MAX_JSON_BYTES: usize = 1024 * 1024;

/// Reads the body of a call that takes JSON.
///
/// # Errors
/// `unsupported-media-type` first, then all of [`RequestBody::read`].
pub async fn read(call: &Call<'_>, body: &mut RequestBody) -> Result<Bytes, Failure> {
    let content_type = call.head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|text| text.split(';').next()).unwrap_or_default();
    if !essence.trim().eq_ignore_ascii_case("application/json") {
        let detail = "this call takes JSON; send it with Content-Type: application/json";
        return Err(Failure::new(Code::UnsupportedMediaType, detail));
    }
    body.read(MAX_JSON_BYTES).await
}

/// Reads the body of a call as what it should be.
///
/// # Errors
/// Those of [`read`]; `invalid-request` with where it is wrong.
pub async fn parse<T: DeserializeOwned>(
    call: &Call<'_>,
    body: &mut RequestBody,
) -> Result<T, Failure> {
    let bytes = read(call, body).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let detail = format!("the body is not what this call takes: {error}; see /openapi.json");
        Failure::new(Code::InvalidRequest, detail)
    })
}
