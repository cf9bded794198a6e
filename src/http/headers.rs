//! The names of the API's own headers. Header names are case-insensitive; these are lower-case, as
//! they are compared and written.

use http::HeaderName;

/// What the names of all of the API's own headers begin with.
pub const PREFIX: &str = "starling-";
/// What the names of a value's metadata begin with, after [`PREFIX`].
pub const META_PREFIX: &str = "meta-";

/// `<got>/<required>/<n>`.
pub static ACKS: HeaderName = HeaderName::from_static("starling-acks");
/// The opaque token of what the client has seen.
pub static CONTEXT: HeaderName = HeaderName::from_static("starling-context");
/// A tombstone is there.
pub static DELETED: HeaderName = HeaderName::from_static("starling-deleted");
/// The epoch of the cluster state that the answer was made in.
pub static EPOCH: HeaderName = HeaderName::from_static("starling-epoch");
/// The code of the error.
pub static ERROR: HeaderName = HeaderName::from_static("starling-error");
/// Names the request in logs.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("starling-request-id");
/// What others call [`REQUEST_ID`]; read, never written.
pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How many versions stand beside one another.
pub static SIBLINGS: HeaderName = HeaderName::from_static("starling-siblings");
/// The public name of a version.
pub static VERSION: HeaderName = HeaderName::from_static("starling-version");
