//! Levels and the other parameters, by query and by header.

use crate::cluster::Cluster;
use crate::http::Request;

const KEY: &str = "/v1/kv/levels/k";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_levels_are_refused_and_name_n() {
    let cluster = Cluster::start(3).await;
    let reads = [
        "r=0",
        "r=4",
        "r=abc",
        "r=-1",
        "r=",
        "r=1&r=2",
        "w=1",
        "consistency=any",
        "consistency=most",
        "consistency=",
        "r=1&w=1",
        "r=256",
        "r=99999999999999999999",
    ];
    for query in reads {
        let answer = cluster.ask(0, Request::get(format!("{KEY}?{query}"))).await;
        let answer = answer.expect_problem(400, "invalid-parameter");
        let is_twice = query == "r=1&r=2";
        let detail = answer.json()["detail"].as_str().expect("a text").to_owned();
        assert!(is_twice || detail.contains('3'), "{query}: {detail}");
    }
    let writes = [
        "w=0",
        "w=4",
        "w=abc",
        "w=1&w=3",
        "r=1",
        "consistency=most",
        "sloppy=maybe",
        "timeout=0s",
        "timeout=61s",
        "timeout=5",
        "version=x",
        "unknown=1",
        "consistency=one&consistency=all",
    ];
    for query in writes {
        for request in [
            Request::put(format!("{KEY}?{query}"), "value"),
            Request::delete(format!("{KEY}?{query}")),
        ] {
            let answer = cluster.ask(1, request).await.expect_problem(400, "invalid-parameter");
            assert_eq!(answer.json()["maybe_applied"], false, "{query}");
        }
    }
    cluster.assert_untouched("levels", "k").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_ask_like_parameters_and_contradictions_are_refused() {
    let cluster = Cluster::start(3).await;
    let put = || Request::put(format!("{KEY}?w=2"), "value");
    for (name, value) in [
        ("Starling-W", "3"),
        ("Starling-R", "1"),
        ("Starling-W", "0"),
        ("Starling-Consistency", "most"),
        ("Starling-Consistancy", "one"),
        ("Starling-Timeout", "1h"),
    ] {
        let answer = cluster.ask(0, put().header(name, value)).await;
        answer.expect_problem(400, "invalid-parameter");
    }
    cluster.assert_untouched("levels", "k").await;
    let answer = cluster.ask(0, put().header("Starling-W", "2")).await.expect(204);
    assert!(answer.header("Starling-Acks").is_some_and(|acks| acks.ends_with("/2/3")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_level_that_fits_works() {
    let cluster = Cluster::start(3).await;
    for level in [
        "consistency=one",
        "consistency=two",
        "consistency=three",
        "consistency=quorum",
        "consistency=all",
    ] {
        let target = format!("{KEY}?{level}");
        cluster.ask(0, Request::put(&target, level)).await.expect(204);
        let written = cluster.ask(1, Request::get(format!("{KEY}?consistency=all"))).await;
        assert_eq!(written.expect(200).text(), level);
        cluster.ask(2, Request::get(target)).await.expect(200);
    }
    for (number, query) in [(1, "1"), (2, "2"), (3, "3")] {
        let request = Request::get(format!("{KEY}?r={query}&consistency=all"));
        let answer = cluster.ask(0, request).await.expect(200);
        let acks = answer.header("Starling-Acks").expect("acks");
        assert!(acks.ends_with(&format!("/{number}/3")), "{acks}");
    }
    for query in ["consistency=any", "sloppy=true", "consistency=any&sloppy=true"] {
        let target = format!("{KEY}?{query}");
        cluster.ask(0, Request::put(target, query)).await.expect(204);
        let read = cluster.ask(1, Request::get(format!("{KEY}?sloppy=true&r=3"))).await;
        assert_eq!(read.expect(200).text(), query);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_alone_has_n_1() {
    let cluster = Cluster::start(1).await;
    cluster.ask(0, Request::put(format!("{KEY}?consistency=all"), "value")).await.expect(204);
    for query in ["w=2", "consistency=two", "consistency=three"] {
        let request = Request::put(format!("{KEY}?{query}"), "other");
        let answer = cluster.ask(0, request).await.expect_problem(400, "invalid-parameter");
        assert!(answer.json()["detail"].as_str().is_some_and(|text| text.contains('1')));
    }
    assert_eq!(cluster.ask(0, Request::get(KEY)).await.expect(200).text(), "value");
}
