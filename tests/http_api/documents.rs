//! Everything besides keys.

use serde_json::json;
use starling::http::error::ABOUT;
use starling::http::router::ROUTES;
use starling::node::operation::TopologyError;

use crate::node::Server;

#[tokio::test]
async fn health_readiness_and_metrics() {
    let server = Server::start().await;
    let mut client = server.client().await;
    assert_eq!(client.ask("GET", "/healthz", &[]).await.status, 200);
    assert_eq!(client.ask("GET", "/readyz", &[]).await.status, 200);
    let metrics = client.ask("GET", "/metrics", &[]).await;
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(metrics.body.starts_with(b"# TYPE starling_up"));
    *server.script.not_ready.lock().expect("no panic") = Some("no layout yet".into());
    let reply = client.ask("GET", "/readyz", &[]).await;
    assert_eq!((reply.status, reply.problem().as_str()), (503, "not-ready"));
    assert_eq!(reply.json()["detail"], "no layout yet");
    assert_eq!(client.ask("GET", "/healthz", &[]).await.status, 200);
    let reply = client.ask("GET", "/v1/cluster", &[]).await;
    assert_eq!((reply.status, reply.problem().as_str()), (503, "not-ready"));
}

#[tokio::test]
async fn cluster_ring_explain_and_buckets_are_json() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for target in [
        "/v1/cluster",
        "/v1/cluster/ring",
        "/v1/cluster/ring?n=3",
        "/v1/explain/b/k",
        "/v1/explain64/b/aw?timeout=2s",
        "/v1/buckets",
        "/v1/buckets/any",
        "/openapi.json",
    ] {
        let reply = client.ask("GET", target, &[]).await;
        assert_eq!(reply.status, 200, "{target}: {reply:?}");
        assert_eq!(reply.header("content-type"), Some("application/json"), "{target}");
        assert!(reply.header("starling-request-id").is_some());
        let head = client.ask("HEAD", target, &[]).await;
        let len = reply.body.len().to_string();
        assert_eq!((head.status, head.header("content-length")), (200, Some(&*len)), "{target}");
    }
    let bucket = json!({
        "n": 3, "r": "quorum", "w": 2, "resolve": "siblings", "sloppy": false
    });
    assert_eq!(client.ask("GET", "/v1/buckets/any", &[]).await.json(), bucket);
    let all = client.ask("GET", "/v1/buckets", &[]).await.json();
    assert_eq!(all, json!({"buckets": {"named": bucket}}));
    let cluster = client.ask("GET", "/v1/cluster", &[]).await.json();
    assert_eq!((&cluster["epoch"], &cluster["transition"]), (&json!(7), &json!(null)));
    assert_eq!(cluster["nodes"][0]["state"], "up");
    for n in ["0", "x", "5", "256", "+3", "03", ""] {
        let reply = client.ask("GET", &format!("/v1/cluster/ring?n={n}"), &[]).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid-parameter"), "{n}");
    }
    let reply = client.ask("GET", "/v1/buckets/.bad", &[]).await;
    assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid-bucket"));
}

#[tokio::test]
async fn changes_of_the_layout_take_json_and_are_checked_first() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let json = [("Content-Type", "application/json; charset=utf-8")];
    for (method, target) in [
        ("POST", "/v1/cluster/plan"),
        ("POST", "/v1/cluster/apply"),
        ("POST", "/v1/cluster/recover"),
        ("PUT", "/v1/buckets/b"),
    ] {
        for other in [&[][..], &[("Content-Type", "text/plain")]] {
            let reply = client.ask_with((method, target), other, "{}").await;
            assert_eq!((reply.status, reply.problem().as_str()), (415, "unsupported-media-type"));
        }
        for wrong in ["", "5", "{\"nonsense\": 1}", "{\"leave\": 5}"] {
            let reply = client.ask_with((method, target), &json, wrong).await;
            assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid-request"));
        }
        let mut large = server.client().await;
        let reply = large.ask_with((method, target), &json, vec![b' '; 1_048_577]).await;
        assert_eq!((reply.status, reply.problem().as_str()), (413, "value-too-large"));
    }
}

#[tokio::test]
async fn a_change_is_planned_applied_aborted_and_refused() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let json = [("Content-Type", "application/json")];
    let body = r#"{"join": [{"id": "d", "peer": "127.0.0.1:9", "zone": "z", "weight": 2.5}],
        "leave": ["a"], "replace": {"b": "c"}, "dead": ["b"], "weight": {"c": 0.5},
        "zone": {"c": "y"}, "accept_loss": true, "epoch": 7}"#;
    let reply = client.ask_with(("POST", "/v1/cluster/plan"), &json, body).await;
    assert_eq!((reply.status, &reply.json()["balance"]["before"]), (200, &json!(1.25)));
    let reply = client.ask_with(("POST", "/v1/cluster/apply"), &json, "{}").await;
    assert_eq!((reply.status, &reply.json()["eta_seconds"]), (202, &json!(9)));
    {
        let changes = server.script.changes.lock().expect("no panic");
        assert_eq!((changes[0].epoch, changes[0].join[0].id.as_str()), (Some(7), "d"));
        assert_eq!(changes[1], Default::default());
    }
    assert_eq!(client.ask("POST", "/v1/cluster/abort", &[]).await.status, 202);
    let named = r#"{"survivors": ["a"], "lost": ["b"]}"#;
    let reply = client.ask_with(("POST", "/v1/cluster/recover"), &json, named).await;
    assert_eq!(reply.status, 202);
    for (error, status, code) in [
        (TopologyError::Running("one runs".into()), 409, "transition-running"),
        (TopologyError::NoTransition, 409, "no-transition"),
        (TopologyError::EpochChanged, 409, "epoch-changed"),
        (TopologyError::Alive("it answers".into()), 409, "node-alive"),
        (TopologyError::Wrong("no such node".into()), 400, "invalid-parameter"),
        (TopologyError::NoMajority("nobody answers".into()), 503, "unavailable"),
    ] {
        *server.script.refused_change.lock().expect("no panic") = Some(error);
        let reply = client.ask_with(("POST", "/v1/cluster/apply"), &json, "{}").await;
        assert_eq!((reply.status, reply.problem().as_str()), (status, code));
    }
}

#[tokio::test]
async fn a_bucket_whose_data_moves_is_202() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let json = [("Content-Type", "application/json")];
    for (body, status) in [(r#"{"n": 5}"#, 202), (r#"{"r": 2, "w": "all", "sloppy": true}"#, 200)] {
        let reply = client.ask_with(("PUT", "/v1/buckets/b"), &json, body).await;
        assert_eq!(reply.status, status);
    }
    assert_eq!(client.ask("DELETE", "/v1/buckets/b", &[]).await.status, 200);
    for wrong in [r#"{"r": 0}"#, r#"{"w": "most"}"#, r#"{"resolve": "newest"}"#] {
        let reply = client.ask_with(("PUT", "/v1/buckets/b"), &json, wrong).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid-request"));
    }
}

#[tokio::test]
async fn repair_shows_what_is_owed_and_begins_on_request() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let reply = client.ask("GET", "/v1/repair", &[]).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["hints"][0]["target"], "node-2");
    assert_eq!(reply.json()["pairs"][0]["vnodes"], 1_024);
    for (query, released) in [("", 0), ("?accept_loss=false", 0), ("?accept_loss=true", 3)] {
        let reply = client.ask("POST", &format!("/v1/repair{query}"), &[]).await;
        assert_eq!((reply.status, reply.json()["released"].clone()), (202, released.into()));
    }
    for query in ["?accept_loss=yes", "?now=true"] {
        let reply = client.ask("POST", &format!("/v1/repair{query}"), &[]).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid-parameter"));
    }
}

#[tokio::test]
async fn every_code_has_its_page() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for about in &ABOUT {
        let reply = client.ask("GET", &format!("/errors/{}", about.name), &[]).await;
        assert_eq!(reply.status, 200);
        let page = reply.json();
        assert_eq!(
            (&page["code"], &page["status"]),
            (&about.name.into(), &about.status.as_u16().into())
        );
        assert!(page["what_to_do"].as_str().is_some_and(|text| !text.is_empty()));
    }
    let reply = client.ask("GET", "/errors/unheard-of", &[]).await;
    assert_eq!((reply.status, reply.problem().as_str()), (404, "no-such-route"));
}

#[tokio::test]
async fn the_description_names_what_the_server_answers() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let description = client.ask("GET", "/openapi.json", &[]).await.json();
    for route in &ROUTES {
        let filled = route.template.replace("{bucket}", "b").replace("{key}", "aw");
        let target = filled.replace("{code}", "internal");
        for method in ["GET", "HEAD", "PUT", "DELETE", "POST"] {
            let reply = client.ask(method, &target, &[]).await;
            let item = &description["paths"][route.template][method.to_lowercase()];
            if item.is_null() {
                assert_eq!(reply.status, 405, "{method} {target}");
                continue;
            }
            let described = &item["responses"][reply.status.to_string()];
            assert!(!described.is_null(), "{method} {target}: {}", reply.status);
        }
    }
}
