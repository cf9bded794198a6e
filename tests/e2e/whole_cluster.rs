//! Every node serves every key, and all show the same.

use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::http::{Client, Request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_answers_for_every_key() {
    let cluster = Cluster::start(5).await;
    for key in 0..25 {
        let target = format!("/v1/kv/every/key-{key}");
        let writer = key % 5;
        let value = format!("value {key} through {writer}");
        cluster.ask(writer, Request::put(&target, value.clone())).await.expect(204);
        for i in 0..5 {
            let answer = cluster.ask(i, Request::get(&target)).await.expect(200);
            assert_eq!(answer.text(), value, "key {key} through node {i}");
            assert_eq!(answer.header("Starling-Acks"), Some("2/2/3"), "key {key}, node {i}");
            let explained = cluster.ask(i, Request::get(format!("/v1/explain/every/key-{key}")));
            let replicas = explained.await.expect(200).json()["replicas"].as_array().cloned();
            assert_eq!(replicas.expect("replicas").len(), 3);
        }
        let deleter = (writer + 1) % 5;
        cluster.ask(deleter, Request::delete(&target)).await.expect(204);
        for i in 0..5 {
            let answer = cluster.ask(i, Request::get(&target)).await;
            let answer = answer.expect_problem(404, "not-found");
            assert_eq!(answer.header("Starling-Deleted"), Some("true"));
        }
    }
}

/// Every order of three nodes.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn put_put_get_through_three_nodes_gives_the_second_value() {
    const TASKS: usize = 4;
    let rounds = std::env::var("STARLING_TEST_ROUNDS").ok();
    let rounds = rounds.map_or(500, |rounds| rounds.parse().expect("a number of rounds"));
    let cluster = Cluster::start(3).await;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let mut clients: Vec<Client> = cluster.http_all().into_iter().map(Client::new).collect();
        tasks.spawn(async move {
            for round in (task..rounds).step_by(TASKS) {
                // Some keys are new, most have a history.
                let target = format!("/v1/kv/twice/task-{task}-{}", round % 40);
                let [first, second, reader] = ORDERS[round / TASKS % ORDERS.len()];
                let put = |value: String| Request::put(&target, value);
                for (node, value) in [(first, "first"), (second, "second")] {
                    let request = put(format!("{value} {round}"));
                    clients[node].send(&request).await.expect("an answer").expect(204);
                }
                let answer = clients[reader].send(&Request::get(&target)).await;
                let answer = answer.expect("an answer").expect(200);
                assert_eq!(answer.text(), format!("second {round}"));
                assert_eq!(answer.header("Starling-Siblings"), Some("1"));
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("all rounds are right");
    }
}
