use super::exposition::to_prometheus_text;
use super::{Metrics, Sample};
use crate::types::NodeId;

fn node(id: &str) -> NodeId {
    NodeId::new(id).expect("a valid name")
}

#[test]
fn requests_are_counted_and_timed_by_operation_level_and_outcome() {
    let metrics = Metrics::new();
    metrics.request_finished("get", "quorum", "ok", 0.000_3);
    metrics.request_finished("get", "quorum", "ok", 4.0);
    metrics.request_finished("put", "", "level-not-reached", 0.1);

    let text = metrics.encode();

    let series = r#"{operation="get",level="quorum",outcome="ok"}"#;
    assert!(text.contains(&format!("starling_requests_total{series} 2\n")), "{text}");
    assert!(text.contains(&format!("starling_request_seconds_count{series} 2\n")), "{text}");
    let bucket = r#"bucket{le="0.0004",operation="get",level="quorum",outcome="ok"} 1"#;
    assert!(text.contains(bucket), "{text}");
    assert!(text.contains(r#"outcome="level-not-reached"} 1"#), "{text}");
}

#[test]
fn a_member_is_in_exactly_one_state() {
    let metrics = Metrics::new();
    metrics.member_state(&node("b"), "up");
    metrics.member_state(&node("b"), "down");

    let text = metrics.encode();

    assert!(text.contains(r#"starling_member_state{node="b",state="down"} 1"#), "{text}");
    assert!(text.contains(r#"starling_member_state{node="b",state="up"} 0"#), "{text}");
}

#[test]
fn counters_carry_their_full_name_in_help_and_type() {
    let openmetrics = "# HELP a_calls Calls.\n# TYPE a_calls counter\na_calls_total 1\n\
                       # HELP b Open.\n# TYPE b gauge\nb 2\n";
    let expected = "# HELP a_calls_total Calls.\n# TYPE a_calls_total counter\na_calls_total 1\n\
                    # HELP b Open.\n# TYPE b gauge\nb 2\n";
    assert_eq!(to_prometheus_text(openmetrics), expected);
}

#[test]
fn registered_samples_are_asked_at_each_scrape_and_grouped_by_name() {
    let metrics = Metrics::new();
    metrics.register_samples(|| {
        vec![
            Sample::gauge("peer_queue_bytes", "Waiting", 1.0).with_label("peer", "a"),
            Sample::counter("storage_commits", "Commits", 7.0),
            Sample::gauge("peer_queue_bytes", "Waiting", 2.5).with_label("peer", "b"),
        ]
    });

    let text = metrics.encode();

    assert_eq!(text.matches("# TYPE starling_peer_queue_bytes gauge").count(), 1, "{text}");
    assert!(text.contains("starling_peer_queue_bytes{peer=\"b\"} 2.5"), "{text}");
    assert!(text.contains("# TYPE starling_storage_commits_total counter"), "{text}");
    assert!(text.contains("starling_storage_commits_total 7"), "{text}");
}

#[test]
fn every_sample_belongs_to_a_declared_metric_of_ours() {
    let metrics = Metrics::new();
    metrics.connection_opened();
    metrics.replica_call(&node("b"), "read", "ok", 0.001);
    metrics.siblings_after_write(2);
    metrics.alarm("same-dot");
    metrics.clock_drift(&node("b"), 1_500);

    let text = metrics.encode();

    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let declared = |name: &str| text.contains(&format!("# TYPE {name} "));
        assert!(name.starts_with("starling_"), "{line}");
        assert!(declared(name) || stem.is_some_and(declared), "{line}");
    }
    assert!(text.contains("starling_process_resident_memory_bytes "), "{text}");
    assert!(text.contains("starling_process_cpu_seconds_total "), "{text}");
}

#[test]
fn no_metric_without_a_sample_is_shown_with_a_foreign_unit() {
    let text = Metrics::new().encode();
    assert!(!text.contains("# UNIT"), "{text}");
    assert!(!text.contains("# EOF"), "{text}");
}
