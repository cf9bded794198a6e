//! The only map from what can go wrong to status, code, detail and headers (RFC 9457).

mod codes;
mod page;

use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, ETAG, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};
use serde::Serialize;

use super::answer::{self, Answer, Payload};
use super::headers;
use crate::node::operation::{
    Acks, EtagSet, OperationError, Reached, ReplicaReport, TopologyError,
};
use crate::types::{Epoch, RequestId};

pub use codes::{ABOUT, About, Code};
pub use page::error_page;

/// Why a request was not done.
#[derive(Debug)]
pub struct Failure(Box<Cause>);

#[derive(Debug)]
struct Cause {
    code: Code,
    detail: String,
    maybe_applied: bool,
    acks: Option<Acks>,
    replicas: Option<Vec<ReplicaReport>>,
    headers: HeaderMap,
}

/// What an error says besides its cause.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The request it answers.
    pub request_id: &'a RequestId,
    /// Whether that is a write: those always say `maybe_applied`.
    pub is_write: bool,
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    maybe_applied: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    required: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acknowledged: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<&'a [ReplicaReport]>,
}

impl Failure {
    /// A failure with a sentence that says what to do. Nothing was written.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let cause = Cause {
            code,
            detail: detail.into(),
            maybe_applied: false,
            acks: None,
            replicas: None,
            headers: HeaderMap::new(),
        };
        Self(Box::new(cause))
    }

    /// A method that the path does not take.
    pub fn method_not_allowed(allow: HeaderValue) -> Self {
        let detail = "this path does not take the method; use one of those in Allow";
        Self::new(Code::MethodNotAllowed, detail).with(ALLOW, allow)
    }

    /// Nothing is stored under the key.
    pub fn not_found(deleted: bool) -> Self {
        if !deleted {
            let detail = "nothing was ever written under this key, as far as the replicas know";
            return Self::new(Code::NotFound, detail);
        }
        let detail = "the value was deleted; to write it anew, send this answer's context";
        let yes = HeaderValue::from_static("true");
        Self::new(Code::NotFound, detail).with(headers::DELETED.clone(), yes)
    }

    /// The connection ends with this answer.
    pub fn closing(self) -> Self {
        self.with(CONNECTION, HeaderValue::from_static("close"))
    }

    /// The same, known to leave open whether the write was applied.
    pub fn maybe_applied(mut self) -> Self {
        self.0.maybe_applied = true;
        self
    }

    /// With a context token.
    pub fn with_context(self, context: &str) -> Self {
        self.with(headers::CONTEXT.clone(), answer::text(context))
    }

    /// With which replicas answered, and in which epoch.
    pub fn with_answers(self, reached: Reached, epoch: Epoch) -> Self {
        let epoch = HeaderValue::from(epoch.get());
        self.with_reached(reached).with(headers::EPOCH.clone(), epoch)
    }

    fn with(mut self, name: http::HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    fn with_reached(mut self, reached: Reached) -> Self {
        self.0.acks = Some(reached.acks);
        self.0.replicas = Some(reached.replicas);
        self
    }

    fn with_etag(self, set: Option<EtagSet>) -> Self {
        match set {
            Some(set) => self.with(ETAG, answer::etag(set, "")),
            None => self,
        }
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The sentence.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The problem answer.
    pub fn into_answer(self, told: Told<'_>) -> Answer {
        let about = self.code().about();
        let body = serde_json::to_vec(&self.problem(told)).expect("no maps with odd keys in it");
        let cause = *self.0;
        let mut answer = Answer::new(Payload::from(body));
        *answer.status_mut() = about.status;
        let headers = answer.headers_mut();
        *headers = cause.headers;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(headers::ERROR.clone(), HeaderValue::from_static(about.name));
        if let Some(seconds) = about.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(acks) = cause.acks {
            headers.insert(headers::ACKS.clone(), answer::acks(acks));
        }
        answer
    }

    fn problem<'a>(&'a self, told: Told<'a>) -> Problem<'a> {
        let cause = &*self.0;
        let about = cause.code.about();
        Problem {
            r#type: format!("/errors/{}", about.name),
            title: about.title,
            status: about.status.as_u16(),
            detail: &cause.detail,
            code: about.name,
            request_id: told.request_id.as_str(),
            maybe_applied: told.is_write.then_some(cause.maybe_applied),
            required: cause.acks.map(|acks| acks.required),
            acknowledged: cause.acks.map(|acks| acks.got),
            replicas: cause.replicas.as_deref(),
        }
    }
}

impl From<OperationError> for Failure {
    fn from(error: OperationError) -> Self {
        let failure = Self::new(code_of(&error), error.to_string());
        let failure = if error.maybe_applied() { failure.maybe_applied() } else { failure };
        match error {
            OperationError::VersionNotFound { context, reached, epoch, .. }
            | OperationError::TooManySiblings { context, reached, epoch, .. } => {
                failure.with_context(&context).with_answers(reached, epoch)
            }
            OperationError::PreconditionFailed { set, context, reached, epoch } => {
                failure.with_etag(set).with_context(&context).with_answers(reached, epoch)
            }
            OperationError::Unavailable(reached) | OperationError::Damaged(reached) => {
                failure.with_reached(reached)
            }
            OperationError::Timeout { reached, context, .. }
            | OperationError::LevelNotReached { reached, context, .. } => {
                let failure = failure.with_reached(reached);
                match context {
                    Some(context) => failure.with_context(&context),
                    None => failure,
                }
            }
            _ => failure,
        }
    }
}

impl From<TopologyError> for Failure {
    fn from(error: TopologyError) -> Self {
        let code = match error {
            TopologyError::NotServing(error) => return error.into(),
            TopologyError::Running(_) => Code::TransitionRunning,
            TopologyError::NoTransition => Code::NoTransition,
            TopologyError::EpochChanged => Code::EpochChanged,
            TopologyError::Alive(_) => Code::NodeAlive,
            TopologyError::Wrong(_) => Code::InvalidParameter,
            TopologyError::NoMajority(_) => Code::Unavailable,
        };
        let is_open = code == Code::Unavailable;
        let failure = Self::new(code, error.to_string());
        if is_open { failure.maybe_applied() } else { failure }
    }
}

fn code_of(error: &OperationError) -> Code {
    match error {
        OperationError::Level(_) => Code::InvalidParameter,
        OperationError::NotImplemented(_) => Code::NotImplemented,
        OperationError::VersionNotFound { .. } => Code::VersionNotFound,
        OperationError::PreconditionFailed { .. } => Code::PreconditionFailed,
        OperationError::TooManySiblings { .. } => Code::TooManySiblings,
        OperationError::DiskFull { .. } => Code::DiskFull,
        OperationError::NotReady(_) => Code::NotReady,
        OperationError::Unavailable(_) | OperationError::Damaged(_) => Code::Unavailable,
        OperationError::Timeout { .. } => Code::Timeout,
        OperationError::LevelNotReached { .. } => Code::LevelNotReached,
        OperationError::Internal { .. } => Code::Internal,
    }
}
