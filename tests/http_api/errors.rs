//! Every way an operation fails, as an answer.

use starling::node::operation::{OperationError, Reached};
use starling::types::{Epoch, NodeId};

use crate::node::{Server, Step, answered, reached};

fn never_asked() -> Reached {
    let mut reached = reached();
    reached.acks.got = 0;
    reached
}

/// An error, its status and code.
fn failures() -> Vec<(OperationError, u16, &'static str)> {
    let context = || Some("for-the-retry".to_owned());
    vec![
        (OperationError::Level("n is 3".into()), 400, "invalid-parameter"),
        (OperationError::NotImplemented("later".into()), 501, "not-implemented"),
        (
            OperationError::VersionNotFound {
                version: "x".into(),
                context: "of-the-key".into(),
                reached: answered(),
                epoch: Epoch::new(7),
            },
            404,
            "version-not-found",
        ),
        (
            OperationError::TooManySiblings {
                count: 100,
                context: "covers-all".into(),
                reached: answered(),
                epoch: Epoch::new(7),
            },
            409,
            "too-many-siblings",
        ),
        (OperationError::DiskFull { node: NodeId::new("a").expect("valid") }, 507, "disk-full"),
        (OperationError::NotReady("no layout".into()), 503, "not-ready"),
        (OperationError::Unavailable(never_asked()), 503, "unavailable"),
        (
            OperationError::Timeout { reached: reached(), maybe_applied: true, context: context() },
            504,
            "timeout",
        ),
        (
            OperationError::LevelNotReached {
                reached: reached(),
                maybe_applied: false,
                context: None,
            },
            504,
            "level-not-reached",
        ),
        (
            OperationError::Internal { message: "broken".into(), maybe_applied: true },
            500,
            "internal",
        ),
    ]
}

#[tokio::test]
async fn every_failure_has_its_status_and_code() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for method in ["GET", "PUT", "DELETE"] {
        for (error, status, code) in failures() {
            let maybe_applied = error.maybe_applied();
            server.script.then(Step::Fails(error));
            let reply = client.ask(method, "/v1/kv/b/k", &[]).await;
            assert_eq!((reply.status, reply.problem().as_str()), (status, code));
            let is_write = method != "GET";
            let said = reply.json().get("maybe_applied").cloned();
            assert_eq!(said, is_write.then(|| maybe_applied.into()), "{method} {code}");
            assert_eq!(reply.header("starling-epoch"), Some("7"));
            assert_eq!(reply.header("cache-control"), Some("no-store"));
        }
    }
}

#[tokio::test]
async fn what_replicas_said_is_told() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (error, ..) = failures().remove(7);
    server.script.then(Step::Fails(error));
    let reply = client.ask("PUT", "/v1/kv/b/k", &[]).await;
    assert_eq!(reply.header("starling-context"), Some("for-the-retry"));
    assert_eq!(reply.header("starling-acks"), Some("1/2/3"));
    let problem = reply.json();
    assert_eq!((&problem["required"], &problem["acknowledged"]), (&2.into(), &1.into()));
    assert_eq!(
        problem["replicas"],
        serde_json::json!([
            {"node": "a", "outcome": "ok"}, {"node": "b", "outcome": "timeout"},
            {"node": "c", "outcome": "disk-full"}
        ])
    );
    for (index, context) in [(2, "of-the-key"), (3, "covers-all")] {
        let (error, ..) = failures().remove(index);
        server.script.then(Step::Fails(error));
        let reply = client.ask("GET", "/v1/kv/b/k", &[]).await;
        assert_eq!(reply.header("starling-context"), Some(context));
    }
}

#[tokio::test]
async fn head_of_an_error_has_its_headers_and_no_body() {
    let server = Server::start().await;
    let mut client = server.client().await;
    server.script.then(Step::Fails(OperationError::Unavailable(never_asked())));
    let reply = client.ask("HEAD", "/v1/kv/b/k", &[]).await;
    assert_eq!((reply.status, reply.header("starling-error")), (503, Some("unavailable")));
    assert!(reply.header("retry-after").is_some());
    assert_eq!(client.ask("GET", "/v1/kv/b/k", &[]).await.status, 200);
}

#[tokio::test]
async fn a_panic_is_500_and_hurts_nobody_else() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (method, maybe_applied) in [("GET", None), ("PUT", Some(true)), ("DELETE", Some(true))] {
        server.script.then(Step::Panics);
        let reply = client.ask(method, "/v1/kv/b/k", &[]).await;
        assert_eq!((reply.status, reply.problem().as_str()), (500, "internal"));
        assert_eq!(reply.json().get("maybe_applied"), maybe_applied.map(Into::into).as_ref());
    }
    assert_eq!(client.ask("GET", "/v1/kv/b/k", &[]).await.status, 200);
}

#[tokio::test]
async fn the_observer_hears_of_every_request() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.ask("GET", "/v1/kv/b/k?r=2", &[]).await;
    client.ask("PUT", "/v1/kv/b/k?consistency=all", &[]).await;
    client.ask("HEAD", "/v1/kv/b/k?foo=1", &[]).await;
    client.ask("GET", "/v1/kv/b/k", &[]).await;
    client.ask("GET", "/nowhere", &[]).await;
    let seen = server.script.finished.lock().expect("no panic").clone();
    let seen: Vec<_> = seen.iter().map(|(o, l, r)| (*o, l.as_str(), r.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("get", "count", "ok"),
            ("put", "all", "ok"),
            ("head", "", "invalid-parameter"),
            ("get", "default", "ok"),
            ("other", "", "no-such-route"),
        ]
    );
}
