//! One request from its head to its answer: routing, the limit of requests in flight, and what
//! every answer has in common.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::admission::{Admission, Class, Load, Permit};
use super::answer::{self, Answer};
use super::body::RequestBody;
use super::error::{self, Code, Failure, Told};
use super::router::{self, Endpoint, Route};
use super::target::{self, KeyForm};
use super::{buckets, cluster, headers, kv, openapi, ops};
use crate::node::operation::Service;
use crate::node::view::NodeRole;
use crate::types::{Bucket, RequestId};

/// The longest request target that is served.
pub const MAX_TARGET_BYTES: usize = 16 * 1024;

/// What bounds the clients.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// The largest value.
    pub max_value_bytes: usize,
    /// Connections at once; more are answered with 503.
    pub max_connections: usize,
    /// Requests at once, where the node is not busy; more are answered with 429.
    pub max_requests: usize,
    /// How long a request's head may take, in all; also how long a new connection may be silent.
    pub header_timeout: Duration,
    /// How long a request's body, or the client's taking in of an answer, may stand still.
    pub body_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub idle_timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_value_bytes: 8 * 1024 * 1024,
            max_connections: 4_096,
            max_requests: 1_024,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
        }
    }
}

/// What the API tells about its work.
pub trait Observer: Send + Sync + 'static {
    /// A request was answered. `level` is a level's name, `count` where a number was asked for,
    /// `default` where none was, empty where there is no level; `outcome` is `ok` or the code of
    /// the error. Few different texts each.
    fn request_finished(
        &self,
        operation: &'static str,
        level: &'static str,
        outcome: &'static str,
        seconds: f64,
    );

    /// A client connected.
    fn connection_opened(&self);

    /// One of those connections ended.
    fn connection_closed(&self);

    /// A client was turned away at `max_connections`.
    fn connection_refused(&self);

    /// How busy the node is; some times a second.
    fn load(&self, load: Load);

    /// All metrics of the node, in Prometheus's text format.
    fn metrics_text(&self) -> String;
}

/// All that answering needs.
pub struct App {
    /// The node.
    pub service: Arc<dyn Service>,
    /// Whoever counts.
    pub observer: Arc<dyn Observer>,
    /// What bounds the clients.
    pub limits: HttpLimits,
    pub(super) admission: Admission,
}

/// One request, while it is answered.
#[derive(Debug)]
pub struct Call<'a> {
    /// Method, target, headers.
    pub head: &'a Parts,
    /// Names it in logs.
    pub request_id: RequestId,
    /// When its head was complete.
    pub started: Instant,
    /// The level it asks for, as a label of metrics.
    pub level: &'static str,
    /// When all of it was there.
    pub complete: Instant,
    /// How many others were being answered when it came.
    pub others: usize,
}

impl Call<'_> {
    /// Whether only the head of the answer is wanted.
    pub fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }
}

impl App {
    /// Serves a node's API.
    pub fn new(service: Arc<dyn Service>, observer: Arc<dyn Observer>, limits: HttpLimits) -> Self {
        Self { service, observer, limits, admission: Admission::new(limits.max_requests) }
    }

    /// Answers a request. Whatever happens, there is an answer.
    pub async fn answer(&self, request: Request<Incoming>) -> Answer {
        let started = Instant::now();
        let (head, incoming) = request.into_parts();
        let request_id = self.request_id(&head.headers);
        let mut body = RequestBody::new(incoming, &head.headers, self.limits.body_timeout);
        let mut call =
            Call { head: &head, request_id, started, level: "", complete: started, others: 0 };
        let found = router::find(head.uri.path());
        let done = AssertUnwindSafe(self.dispatch(&mut call, &mut body, found));
        let done = done.catch_unwind().await.unwrap_or_else(|panic| {
            let panic = panic_text(panic.as_ref());
            tracing::error!(request_id = %call.request_id, panic, "a handler panicked");
            // It may have come as far as sending the write.
            Err(Failure::new(Code::Internal, "a bug in the node; its log has the request id")
                .maybe_applied())
        });
        let outcome = done.as_ref().err().map_or("ok", |failure| failure.code().name());
        let endpoint = found.map(|(route, _)| route.endpoint);
        if let (Ok(_), Some(class)) = (&done, class_of(endpoint, &head.method)) {
            self.admission.succeeded(class, call.others, call.complete.elapsed());
        }
        let mut answer = self.finish(&call, endpoint, done);
        self.observer.request_finished(
            operation(endpoint, &head.method),
            call.level,
            outcome,
            started.elapsed().as_secs_f64(),
        );
        if !body.skip().await {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    /// How many replicas the keys of a bucket have, for texts.
    pub fn replica_count(&self, bucket: &Bucket) -> u8 {
        let n = self.service.bucket(bucket).n;
        let Ok(cluster) = self.service.cluster() else { return n };
        let holds = |role| matches!(role, NodeRole::Member | NodeRole::Leaving);
        let holders = cluster.nodes.iter().filter(|node| holds(node.role) && node.weight > 0.0);
        u8::try_from(holders.count()).map_or(n, |holders| n.min(holders.max(1)))
    }

    /// The client's, where it is usable, else a new one.
    fn request_id(&self, headers: &HeaderMap) -> RequestId {
        let names = [&headers::REQUEST_ID, &headers::X_REQUEST_ID];
        let texts = names.into_iter().filter_map(|name| headers.get(name)?.to_str().ok());
        let mut usable = texts.filter_map(|text| RequestId::parse(text).ok());
        usable.next().unwrap_or_else(|| self.service.new_request_id())
    }

    fn admit(&self, endpoint: Endpoint) -> Result<Option<Permit<'_>>, Failure> {
        use Endpoint::{Health, Kv, Metrics, Readiness};
        let admitted = match endpoint {
            // An overloaded node must still be able to say so.
            Health | Readiness | Metrics => return Ok(None),
            Kv(_) => self.admission.admit(),
            // And to be administered.
            _ => self.admission.admit_first(),
        };
        admitted.map(Some).map_err(|limit| {
            let detail = format!(
                "this node has {limit} requests in flight, which is all it takes now; retry after \
                 a pause, or through another node"
            );
            Failure::new(Code::Overloaded, detail)
        })
    }

    async fn dispatch(
        &self,
        call: &mut Call<'_>,
        body: &mut RequestBody,
        found: Option<(&'static Route, &str)>,
    ) -> Result<Answer, Failure> {
        check_target(call.head)?;
        let Some((route, rest)) = found else {
            let detail = "there is nothing at this path; see /openapi.json for what there is";
            return Err(Failure::new(Code::NoSuchRoute, detail));
        };
        if !route.allows(&call.head.method) {
            return Err(Failure::method_not_allowed(route.allow_value()));
        }
        let permit = self.admit(route.endpoint)?;
        call.others = permit.as_ref().map_or(0, |permit| permit.before);
        let method = &call.head.method;
        match route.endpoint {
            Endpoint::Kv(form) => self.key(call, body, (rest, form)).await,
            Endpoint::Explain(form) => cluster::explain(self, call, (rest, form)).await,
            Endpoint::Buckets => buckets::list(self, call),
            Endpoint::Bucket if *method == Method::PUT || *method == Method::DELETE => {
                buckets::change(self, call, body, rest).await
            }
            Endpoint::Bucket => buckets::show(self, call, rest),
            Endpoint::Cluster => cluster::show(self, call),
            Endpoint::Ring => cluster::ring(self, call),
            Endpoint::Plan => cluster::plan(self, call, body).await,
            Endpoint::Apply => cluster::apply(self, call, body).await,
            Endpoint::Abort => cluster::abort(self, call).await,
            Endpoint::Recover => cluster::recover(self, call, body).await,
            Endpoint::Repair if call.head.method == Method::POST => {
                cluster::begin_repair(self, call).await
            }
            Endpoint::Repair => cluster::repair(self, call),
            Endpoint::Health => ops::health(call),
            Endpoint::Readiness => ops::readiness(self, call),
            Endpoint::Metrics => ops::metrics(self, call),
            Endpoint::OpenApi => openapi::document(call),
            Endpoint::ErrorPage => ops::error_page(call, rest),
        }
    }

    async fn key(
        &self,
        call: &mut Call<'_>,
        body: &mut RequestBody,
        (rest, form): (&str, KeyForm),
    ) -> Result<Answer, Failure> {
        let path = target::key_path(rest, form)?;
        match call.head.method {
            Method::PUT => kv::put(self, call, body, path).await,
            Method::DELETE => kv::delete(self, call, path).await,
            _ => kv::get(self, call, path).await,
        }
    }

    /// What all answers have in common.
    fn finish(
        &self,
        call: &Call<'_>,
        endpoint: Option<Endpoint>,
        done: Result<Answer, Failure>,
    ) -> Answer {
        let is_key = matches!(endpoint, Some(Endpoint::Kv(_)));
        let method = &call.head.method;
        let is_write = is_key && (*method == Method::PUT || *method == Method::DELETE);
        let told = Told { request_id: &call.request_id, is_write };
        let mut answer = done.unwrap_or_else(|failure| {
            if failure.code() == Code::Internal {
                let detail = failure.detail();
                tracing::error!(request_id = %call.request_id, detail, "internal error");
            }
            failure.into_answer(told)
        });
        let headers = answer.headers_mut();
        if is_key {
            answer::protect(headers);
            headers
                .entry(&headers::EPOCH)
                .or_insert_with(|| HeaderValue::from(self.service.epoch().get()));
        }
        headers.insert(headers::REQUEST_ID.clone(), answer::text(call.request_id.as_str()));
        if call.is_head() {
            answer::strip_for_head(&mut answer);
        } else if !answer.body().is_empty() {
            let len = HeaderValue::from(answer.body().len());
            answer.headers_mut().insert(CONTENT_LENGTH, len);
        }
        answer
    }

    /// The answer to a request that could not be read as far as its head. What it was to be is
    /// unknown: so it has all that the answer to a write of a key has.
    pub fn refuse(&self, code: Code, detail: &str) -> Answer {
        let request_id = self.service.new_request_id();
        let told = error::Told { request_id: &request_id, is_write: true };
        let mut answer = Failure::new(code, detail).closing().into_answer(told);
        let len = HeaderValue::from(answer.body().len());
        let headers = answer.headers_mut();
        answer::protect(headers);
        headers.insert(headers::EPOCH.clone(), HeaderValue::from(self.service.epoch().get()));
        headers.insert(headers::REQUEST_ID.clone(), answer::text(request_id.as_str()));
        headers.insert(CONTENT_LENGTH, len);
        // hyper dates the others.
        if let Some(date) = answer::http_date(self.service.wall_ms()) {
            headers.insert(DATE, date);
        }
        self.observer.request_finished("unread", "", code.name(), 0.0);
        answer
    }
}

fn check_target(head: &Parts) -> Result<(), Failure> {
    let len = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if len > MAX_TARGET_BYTES {
        return Err(target_too_long());
    }
    Ok(())
}

/// `target-too-long`.
fn target_too_long() -> Failure {
    Failure::new(Code::TargetTooLong, TARGET_TOO_LONG)
}

/// What is said about it.
pub const TARGET_TOO_LONG: &str =
    "path and query are above 16 KiB together; shorten the key or the query";

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Whether a request reads or writes a key.
fn class_of(endpoint: Option<Endpoint>, method: &Method) -> Option<Class> {
    match (endpoint?, method) {
        (Endpoint::Kv(_), &Method::PUT | &Method::DELETE) => Some(Class::Write),
        (Endpoint::Kv(_), _) => Some(Class::Read),
        _ => None,
    }
}

/// A label of metrics.
fn operation(endpoint: Option<Endpoint>, method: &Method) -> &'static str {
    match endpoint {
        Some(Endpoint::Kv(_)) => match *method {
            Method::GET => "get",
            Method::HEAD => "head",
            Method::PUT => "put",
            Method::DELETE => "delete",
            _ => "other",
        },
        Some(Endpoint::Explain(_)) => "explain",
        Some(Endpoint::Buckets | Endpoint::Bucket) => "buckets",
        Some(Endpoint::Repair) => "repair",
        Some(Endpoint::Health | Endpoint::Readiness | Endpoint::Metrics) => "operations",
        Some(Endpoint::OpenApi | Endpoint::ErrorPage) => "documents",
        Some(_) => "cluster",
        None => "other",
    }
}
