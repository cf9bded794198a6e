//! Which path is what, and which methods it takes. The one table of routes: the description in
//! `openapi` is tested against it.
//!
//! No router of a framework, because keys are raw bytes of the path (`//`, `..`, `%2F` and all),
//! which routers normalise, match by segment, or decode; what is left is a dozen fixed paths.

use http::{HeaderValue, Method};

use super::target::KeyForm;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A key.
    Kv(KeyForm),
    /// Where a key lies.
    Explain(KeyForm),
    /// All buckets with properties of their own.
    Buckets,
    /// One bucket's properties.
    Bucket,
    /// The cluster.
    Cluster,
    /// A table of the ring.
    Ring,
    /// What a change of the layout would do.
    Plan,
    /// A change of the layout.
    Apply,
    /// The end of a transition.
    Abort,
    /// `POST /v1/cluster/recover`
    Recover,
    /// Anti-entropy.
    Repair,
    /// Whether the process works.
    Health,
    /// Whether the node can serve.
    Readiness,
    /// Prometheus metrics.
    Metrics,
    /// The description of all of this.
    OpenApi,
    /// What an error means.
    ErrorPage,
}

/// One route.
#[derive(Debug)]
pub struct Route {
    /// The path, as OpenAPI writes it.
    pub template: &'static str,
    /// What it leads to.
    pub endpoint: Endpoint,
    /// `Allow`.
    pub allow: &'static str,
}

const fn route(template: &'static str, endpoint: Endpoint, allow: &'static str) -> Route {
    Route { template, endpoint, allow }
}

const READ: &str = "GET, HEAD";
const KEY: &str = "GET, HEAD, PUT, DELETE";

/// All routes. A template that ends in a parameter takes all of the rest of the path.
pub static ROUTES: [Route; 18] = [
    route("/v1/kv/{bucket}/{key}", Endpoint::Kv(KeyForm::Raw), KEY),
    route("/v1/kv64/{bucket}/{key}", Endpoint::Kv(KeyForm::Base64), KEY),
    route("/v1/explain/{bucket}/{key}", Endpoint::Explain(KeyForm::Raw), READ),
    route("/v1/explain64/{bucket}/{key}", Endpoint::Explain(KeyForm::Base64), READ),
    route("/v1/buckets", Endpoint::Buckets, READ),
    route("/v1/buckets/{bucket}", Endpoint::Bucket, KEY),
    route("/v1/cluster", Endpoint::Cluster, READ),
    route("/v1/cluster/ring", Endpoint::Ring, READ),
    route("/v1/cluster/plan", Endpoint::Plan, "POST"),
    route("/v1/cluster/apply", Endpoint::Apply, "POST"),
    route("/v1/cluster/abort", Endpoint::Abort, "POST"),
    route("/v1/cluster/recover", Endpoint::Recover, "POST"),
    route("/v1/repair", Endpoint::Repair, "GET, HEAD, POST"),
    route("/healthz", Endpoint::Health, READ),
    route("/readyz", Endpoint::Readiness, READ),
    route("/metrics", Endpoint::Metrics, READ),
    route("/openapi.json", Endpoint::OpenApi, READ),
    route("/errors/{code}", Endpoint::ErrorPage, READ),
];

impl Route {
    /// Whether the path takes a method.
    pub fn allows(&self, method: &Method) -> bool {
        self.allow.split(", ").any(|allowed| allowed == method.as_str())
    }

    /// The value of `Allow`.
    pub fn allow_value(&self) -> HeaderValue {
        HeaderValue::from_static(self.allow)
    }

    /// The fixed part of the template, up to its first parameter.
    fn prefix(&self) -> &'static str {
        self.template.split('{').next().expect("a split has a first piece")
    }

    /// What follows the fixed part in a path; `None`: not this route.
    fn rest_of<'a>(&self, path: &'a str) -> Option<&'a str> {
        let prefix = self.prefix();
        let rest = path.strip_prefix(prefix)?;
        let is_fixed = prefix.len() == self.template.len();
        let takes = match self.endpoint {
            _ if is_fixed => rest.is_empty(),
            Endpoint::Kv(_) | Endpoint::Explain(_) => true,
            _ => !rest.is_empty() && !rest.contains('/'),
        };
        takes.then_some(rest)
    }
}

/// Finds the route of a path, and what follows its fixed part.
pub fn find(path: &str) -> Option<(&'static Route, &str)> {
    ROUTES.iter().find_map(|route| route.rest_of(path).map(|rest| (route, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str) -> Option<(Endpoint, &str)> {
        find(path).map(|(route, rest)| (route.endpoint, rest))
    }

    #[test]
    fn keys_take_the_raw_rest_of_the_path() {
        let raw = Endpoint::Kv(KeyForm::Raw);
        assert_eq!(found("/v1/kv/b//a/../%2F"), Some((raw, "b//a/../%2F")));
        assert_eq!(found("/v1/kv/b"), Some((raw, "b")));
        assert_eq!(found("/v1/kv64/b/aw"), Some((Endpoint::Kv(KeyForm::Base64), "b/aw")));
        assert_eq!(found("/v1/explain/b/k"), Some((Endpoint::Explain(KeyForm::Raw), "b/k")));
    }

    #[test]
    fn trailing_slashes_and_strangers_are_not_forgiven() {
        for path in [
            "",
            "/",
            "*",
            "/v1",
            "/v1/kv",
            "/v1/buckets/",
            "/v1/buckets/b/",
            "/v1/cluster/",
            "/healthz/",
            "/errors/",
            "/errors/internal/",
            "//v1/cluster",
            "/V1/cluster",
            "/v1/cluster/ring/3",
        ] {
            assert_eq!(found(path), None, "{path}");
        }
        assert_eq!(found("/v1/buckets/b"), Some((Endpoint::Bucket, "b")));
        assert_eq!(found("/errors/internal"), Some((Endpoint::ErrorPage, "internal")));
    }
}
