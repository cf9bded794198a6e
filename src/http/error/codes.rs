//! Every error code of the API: its status, and what `/errors/<code>` says about it.

use http::StatusCode;

/// Names an error for programs; stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The bucket's name breaks the rules.
    InvalidBucket,
    /// The key is missing, too long or wrongly encoded.
    InvalidKey,
    /// A parameter is unknown, malformed, contradictory or does not fit the request.
    InvalidParameter,
    /// The context token can't be used.
    InvalidContext,
    /// Anything else that is wrong with a request.
    InvalidRequest,
    /// Nothing is stored under the key.
    NotFound,
    /// The version asked for is no longer there.
    VersionNotFound,
    /// No such path.
    NoSuchRoute,
    /// The path takes other methods.
    MethodNotAllowed,
    /// Neither form of siblings is acceptable.
    NotAcceptable,
    /// A JSON call without JSON.
    UnsupportedMediaType,
    /// Headers or body stopped arriving.
    BodyTimeout,
    /// The write would leave too many siblings.
    TooManySiblings,
    /// A transition is under way already.
    TransitionRunning,
    /// The cluster state is another one than the call names.
    EpochChanged,
    /// There is no transition to act on.
    NoTransition,
    /// A node that was called dead answers.
    NodeAlive,
    /// A condition did not hold.
    PreconditionFailed,
    /// The body is too large.
    ValueTooLarge,
    /// The request target is too long.
    TargetTooLong,
    /// The headers are too large.
    HeadersTooLarge,
    /// Too many requests at once.
    Overloaded,
    /// Not there yet.
    NotImplemented,
    /// Too few replicas are up.
    Unavailable,
    /// The node can't serve now.
    NotReady,
    /// Too many connections at once.
    TooManyConnections,
    /// The level was not reached in time.
    Timeout,
    /// The level can no longer be reached.
    LevelNotReached,
    /// The disk is nearly full.
    DiskFull,
    /// A bug, or a failing disk.
    Internal,
}

/// What is said about a code.
#[derive(Debug)]
pub struct About {
    /// Which code.
    pub code: Code,
    /// The code's text.
    pub name: &'static str,
    /// The status it is answered with.
    pub status: StatusCode,
    /// A few words for people.
    pub title: &'static str,
    /// When it is answered.
    pub meaning: &'static str,
    /// What the client can do.
    pub what_to_do: &'static str,
    /// `Retry-After`, in seconds.
    pub retry_after_seconds: Option<u16>,
}

impl Code {
    /// Status, title and advice.
    pub fn about(self) -> &'static About {
        &ABOUT[self as usize]
    }

    /// The code's text.
    pub fn name(self) -> &'static str {
        self.about().name
    }

    /// The code with this text.
    pub fn by_name(name: &str) -> Option<Self> {
        ABOUT.iter().find(|about| about.name == name).map(|about| about.code)
    }
}

const fn about(
    code: Code,
    name: &'static str,
    status: StatusCode,
    title: &'static str,
    texts: [&'static str; 2],
) -> About {
    let [meaning, what_to_do] = texts;
    About { code, name, status, title, meaning, what_to_do, retry_after_seconds: None }
}

const fn later(about: About, seconds: u16) -> About {
    About { retry_after_seconds: Some(seconds), ..about }
}

/// One entry a code, in the order of [`Code`].
pub static ABOUT: [About; 30] = [
    about(
        Code::InvalidBucket,
        "invalid-bucket",
        StatusCode::BAD_REQUEST,
        "The bucket's name is not valid",
        [
            "A bucket is 1 to 128 of A-Z a-z 0-9 . _ -, the first a letter or digit. Nothing was \
             written.",
            "Correct the bucket's name in the path.",
        ],
    ),
    about(
        Code::InvalidKey,
        "invalid-key",
        StatusCode::BAD_REQUEST,
        "The key is not valid",
        [
            "A key is 1 to 2,048 bytes: the rest of the path after the bucket, percent-decoded \
             once; under /v1/kv64 the base64url of it. Nothing was written.",
            "Name a key, percent-encode its bytes (%00 to %FF), or use /v1/kv64.",
        ],
    ),
    about(
        Code::InvalidParameter,
        "invalid-parameter",
        StatusCode::BAD_REQUEST,
        "A parameter is not valid",
        [
            "A parameter is unknown, malformed, given twice with different values, or does not \
             fit the request or the key's replica set. Nothing was written.",
            "Read the detail: it names the parameter and what would be right.",
        ],
    ),
    about(
        Code::InvalidContext,
        "invalid-context",
        StatusCode::BAD_REQUEST,
        "The context token can't be used",
        [
            "The token can't be decoded, was not made by this cluster, or belongs to another key. \
             Nothing was written.",
            "Read the key and send the Starling-Context of that answer, unchanged.",
        ],
    ),
    about(
        Code::InvalidRequest,
        "invalid-request",
        StatusCode::BAD_REQUEST,
        "The request is not valid",
        [
            "The request breaks the rules of HTTP/1.1 or of this API. Nothing was written.",
            "Read the detail and correct the request.",
        ],
    ),
    about(
        Code::NotFound,
        "not-found",
        StatusCode::NOT_FOUND,
        "There is no value",
        [
            "The key was never written, or is deleted on all sides; Starling-Deleted: true says \
             the latter.",
            "To write it, send the Starling-Context of this answer, or none.",
        ],
    ),
    about(
        Code::VersionNotFound,
        "version-not-found",
        StatusCode::NOT_FOUND,
        "The version is not there any more",
        [
            "The version named in ?version= was replaced, deleted, or never was.",
            "Read the key without ?version= to see which versions there are.",
        ],
    ),
    about(
        Code::NoSuchRoute,
        "no-such-route",
        StatusCode::NOT_FOUND,
        "There is nothing at this path",
        [
            "The path is none of the API's. Trailing slashes are not forgiven.",
            "See /openapi.json for the paths there are.",
        ],
    ),
    about(
        Code::MethodNotAllowed,
        "method-not-allowed",
        StatusCode::METHOD_NOT_ALLOWED,
        "The path does not take this method",
        ["The path is there, but for other methods.", "Use one of the methods in Allow."],
    ),
    about(
        Code::NotAcceptable,
        "not-acceptable",
        StatusCode::NOT_ACCEPTABLE,
        "Siblings have no form that is acceptable",
        [
            "The key has siblings, and Accept allows neither application/json nor \
             multipart/mixed.",
            "Accept one of them, or read one version with ?version=.",
        ],
    ),
    about(
        Code::UnsupportedMediaType,
        "unsupported-media-type",
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "The call takes JSON",
        [
            "The call takes a JSON body, and the request's Content-Type is not application/json.",
            "Send JSON with Content-Type: application/json.",
        ],
    ),
    about(
        Code::BodyTimeout,
        "body-timeout",
        StatusCode::REQUEST_TIMEOUT,
        "The request stopped arriving",
        [
            "The headers did not all arrive in time, or the body stood still for too long. \
             Nothing was written.",
            "Send the request again, without pausing.",
        ],
    ),
    about(
        Code::TooManySiblings,
        "too-many-siblings",
        StatusCode::CONFLICT,
        "The key has too many siblings",
        [
            "This write would leave more versions than max_siblings. Nothing was written.",
            "Read the key, merge what is there, and write the result with the context of that \
             read.",
        ],
    ),
    about(
        Code::TransitionRunning,
        "transition-running",
        StatusCode::CONFLICT,
        "A transition is under way",
        [
            "The layout is changing already, and only one change can be under way at a time.",
            "Watch GET /v1/cluster until the transition is over, or abort it.",
        ],
    ),
    about(
        Code::EpochChanged,
        "epoch-changed",
        StatusCode::CONFLICT,
        "The cluster state has changed",
        [
            "The state is not the one that the call was made for, or another change was decided \
             first.",
            "Read GET /v1/cluster, plan again, and apply that.",
        ],
    ),
    about(
        Code::NoTransition,
        "no-transition",
        StatusCode::CONFLICT,
        "There is no transition",
        ["There is no transition that could be aborted.", "Nothing needs to be done."],
    ),
    about(
        Code::NodeAlive,
        "node-alive",
        StatusCode::CONFLICT,
        "A node that was called dead answers",
        [
            "Only a node whose process will never run again may be called dead, and this one \
             answered.",
            "Let it leave instead, or stop it for good first.",
        ],
    ),
    about(
        Code::PreconditionFailed,
        "precondition-failed",
        StatusCode::PRECONDITION_FAILED,
        "The condition does not hold",
        [
            "If-Match or If-None-Match did not hold for the versions that were found. Nothing was \
             written.",
            "Read the key, decide anew, and use the ETag and the context of that answer.",
        ],
    ),
    about(
        Code::ValueTooLarge,
        "value-too-large",
        StatusCode::PAYLOAD_TOO_LARGE,
        "The body is too large",
        [
            "The value is above max_value_bytes, or a JSON body above 1 MiB. Nothing was written.",
            "Split the value, or raise max_value_bytes on all nodes.",
        ],
    ),
    about(
        Code::TargetTooLong,
        "target-too-long",
        StatusCode::URI_TOO_LONG,
        "The request target is too long",
        ["Path and query together are above 16 KiB.", "Shorten the key or the query."],
    ),
    about(
        Code::HeadersTooLarge,
        "headers-too-large",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "The headers are too large",
        [
            "There are more than 100 headers, the head is above 48 KiB, or the Starling-Meta-* \
             headers are above 4 KiB. Nothing was written.",
            "Send fewer or shorter headers; large metadata belongs in the value.",
        ],
    ),
    later(
        about(
            Code::Overloaded,
            "overloaded",
            StatusCode::TOO_MANY_REQUESTS,
            "The node has too many requests in flight",
            [
                "This node has as many requests in flight as it takes now: max_requests, or fewer \
                 while all of them take long. Nothing was written.",
                "Retry after a pause that grows, or through another node.",
            ],
        ),
        1,
    ),
    about(
        Code::NotImplemented,
        "not-implemented",
        StatusCode::NOT_IMPLEMENTED,
        "This is not implemented",
        ["The call is part of the API, but this version can't do it.", "Use a newer version."],
    ),
    later(
        about(
            Code::Unavailable,
            "unavailable",
            StatusCode::SERVICE_UNAVAILABLE,
            "Too few replicas are up, or undamaged",
            [
                "The failure detector knows that too few replicas are up for the level, and nothing \
                 was sent to any of them; or copies of the key are damaged, and too few others have \
                 an undamaged one.",
                "Retry when more nodes are up, ask for a lower level, or for sloppy=true. Where \
                 copies are damaged, see the detail.",
            ],
        ),
        1,
    ),
    later(
        about(
            Code::NotReady,
            "not-ready",
            StatusCode::SERVICE_UNAVAILABLE,
            "The node is not ready",
            [
                "The node is starting or stopping, or has no layout yet.",
                "Retry later, or through another node; GET /readyz tells when.",
            ],
        ),
        1,
    ),
    later(
        about(
            Code::TooManyConnections,
            "too-many-connections",
            StatusCode::SERVICE_UNAVAILABLE,
            "The node has too many connections",
            [
                "This node is at max_connections; the connection was closed.",
                "Use fewer connections and keep them open, or connect to another node.",
            ],
        ),
        1,
    ),
    about(
        Code::Timeout,
        "timeout",
        StatusCode::GATEWAY_TIMEOUT,
        "The level was not reached in time",
        [
            "Replicas were asked, and too few answered before the deadline. A write may have been \
             applied: maybe_applied says so.",
            "Retry; a write with the Starling-Context of this answer, if there is one, so that it \
             replaces this one.",
        ],
    ),
    about(
        Code::LevelNotReached,
        "level-not-reached",
        StatusCode::GATEWAY_TIMEOUT,
        "The level can no longer be reached",
        [
            "Replicas were asked, and so many failed that the level can't be reached. A write may \
             have been applied: maybe_applied says so.",
            "Retry; a write with the Starling-Context of this answer, if there is one, so that it \
             replaces this one.",
        ],
    ),
    later(
        about(
            Code::DiskFull,
            "disk-full",
            StatusCode::INSUFFICIENT_STORAGE,
            "The disk is nearly full",
            [
                "The free space is below storage.min_free_bytes. Nothing was written; reads still \
                 work.",
                "Free some space, or write through another node.",
            ],
        ),
        30,
    ),
    about(
        Code::Internal,
        "internal",
        StatusCode::INTERNAL_SERVER_ERROR,
        "Something is wrong in the node",
        [
            "A bug, or a disk that fails; logged with the request id.",
            "Look into the node's log for the request id, and report it.",
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_codes() {
        for (index, about) in ABOUT.iter().enumerate() {
            assert_eq!(about.code as usize, index, "{}", about.name);
            assert_eq!(about.code.about().name, about.name);
            assert_eq!(Code::by_name(about.name), Some(about.code));
        }
        assert_eq!(Code::by_name("no-such-code"), None);
    }

    #[test]
    fn what_can_be_retried_later_says_when() {
        for about in &ABOUT {
            let wants = matches!(about.status.as_u16(), 429 | 503 | 507);
            assert_eq!(about.retry_after_seconds.is_some(), wants, "{}", about.name);
        }
    }
}
