//! Conditional requests.

use starling::node::operation::{Condition, EtagSet, OperationError};
use starling::types::Epoch;

use crate::node::{SET, Server, Step, answered, one, siblings};

#[tokio::test]
async fn a_read_of_what_the_client_has_is_304() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (plain, json) = (format!("\"{SET}\""), format!("\"{SET}.j\""));
    let several = format!("\"x\", W/\"{SET}\"");
    for tags in [&plain, "*", &several] {
        for method in ["GET", "HEAD"] {
            server.script.then(one("value"));
            let reply = client.ask(method, "/v1/kv/b/k", &[("If-None-Match", tags)]).await;
            assert_eq!((reply.status, reply.header("etag")), (304, Some(&*plain)), "{tags}");
            assert_eq!(reply.header("starling-context"), Some("a-context-token-made-up"));
            assert_eq!(reply.header("content-type"), None);
            assert_eq!(reply.header("cache-control"), Some("no-store"));
        }
    }
    server.script.then(siblings(b"x"));
    let reply = client.ask("GET", "/v1/kv/b/k", &[("If-None-Match", &json)]).await;
    assert_eq!((reply.status, reply.header("etag")), (304, Some(&*json)));
    let multipart = [("If-None-Match", json.as_str()), ("Accept", "multipart/mixed")];
    server.script.then(siblings(b"x"));
    assert_eq!(client.ask("GET", "/v1/kv/b/k", &multipart).await.status, 300, "another form");
    let dates = [("If-Modified-Since", "Sun, 06 Nov 2094 08:49:37 GMT")];
    assert_eq!(client.ask("GET", "/v1/kv/b/k", &dates).await.status, 200);
    let reply = client.ask("GET", "/v1/kv/b/k", &[("If-None-Match", "bare")]).await;
    assert_eq!(reply.problem(), "invalid-request");
}

#[tokio::test]
async fn if_match_on_a_read_is_honoured() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let plain = format!("\"{SET}\"");
    let reply = client.ask("GET", "/v1/kv/b/k", &[("If-Match", &plain)]).await;
    assert_eq!(reply.status, 200);
    let weak = format!("W/{plain}");
    let reply = client.ask("GET", "/v1/kv/b/k", &[("If-Match", &weak)]).await;
    assert_eq!((reply.status, reply.problem().as_str()), (412, "precondition-failed"));
    assert_eq!(reply.header("etag"), Some(&*plain));
}

#[tokio::test]
async fn conditions_of_writes_reach_the_node() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let set = EtagSet(0xab);
    let all_forms = format!("\"{SET}\", \"{SET}.j\", \"{SET}.m\"");
    let weak = format!("W/\"{SET}\"");
    for (name, value, condition) in [
        ("If-None-Match", "*", Condition::NothingLive),
        ("If-Match", "*", Condition::SomethingLive),
        ("If-Match", &all_forms, Condition::SetIsOneOf(vec![set; 3])),
        ("If-Match", &weak, Condition::SetIsOneOf(vec![])),
        ("If-Match", "\"foreign\"", Condition::SetIsOneOf(vec![])),
        ("If-None-Match", &weak, Condition::SetIsNoneOf(vec![set])),
    ] {
        for method in ["PUT", "DELETE"] {
            let reply = client.ask(method, "/v1/kv/b/k", &[(name, value)]).await;
            assert_eq!(reply.status, 204, "{name}: {value}");
            let conditions = server.script.last_write().conditions;
            assert_eq!(conditions, std::slice::from_ref(&condition), "{value}");
        }
    }
    let both = [("If-Match", "*"), ("If-None-Match", "\"foreign\"")];
    assert_eq!(client.ask("PUT", "/v1/kv/b/k", &both).await.status, 204);
    assert_eq!(
        server.script.last_write().conditions,
        [Condition::SomethingLive, Condition::SetIsNoneOf(vec![])]
    );
}

#[tokio::test]
async fn a_failed_condition_is_412_with_what_is_there() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for set in [Some(EtagSet(0xab)), None] {
        server.script.then(Step::Fails(OperationError::PreconditionFailed {
            set,
            context: "what-is-there".into(),
            reached: answered(),
            epoch: Epoch::new(9),
        }));
        let reply = client.ask("PUT", "/v1/kv/b/k", &[("If-Match", "*")]).await;
        assert_eq!((reply.status, reply.problem().as_str()), (412, "precondition-failed"));
        assert_eq!(reply.header("etag"), set.map(|_| format!("\"{SET}\"")).as_deref());
        assert_eq!(reply.header("starling-context"), Some("what-is-there"));
        assert_eq!(reply.header("starling-acks"), Some("2/2/3"));
        assert_eq!(reply.header("starling-epoch"), Some("9"));
        assert_eq!(reply.json()["maybe_applied"], false);
    }
}
