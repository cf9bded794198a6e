//! `components.schemas`: the JSON bodies.

use serde_json::{Map, Value, json};

use crate::http::error::ABOUT;

fn object(properties: Value) -> Value {
    let required: Vec<String> =
        properties.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default();
    json!({"type": "object", "properties": properties, "required": required})
}

fn optional(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn number() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn maybe(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

/// All of them.
pub fn schemas() -> Value {
    let entries = [
        ("Problem", problem()),
        ("Siblings", siblings()),
        ("Explain", explain()),
        ("Bucket", object(bucket_properties())),
        ("BucketChange", optional(bucket_properties())),
        ("Buckets", buckets()),
        ("Cluster", cluster()),
        ("Ring", ring()),
        ("LayoutChange", layout_change()),
        ("Plan", plan()),
        ("Recovery", recovery()),
        ("Accepted", object(json!({}))),
        ("Repair", repair()),
        ("RepairBegun", object(json!({"released": number()}))),
        ("Status", object(json!({"status": text()}))),
        ("ErrorPage", error_page()),
    ];
    entries
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect::<Map<_, _>>()
        .into()
}

fn repair() -> Value {
    let hints = object(json!({
        "target": {"type": "string", "description": "A node, or any: whichever replica is back first"},
        "count": number(), "bytes": number(), "oldest_seconds": number()
    }));
    let pair = object(json!({
        "node": text(), "vnodes": number(),
        "oldest_proof_seconds": {"type": "number", "description":
            "How long ago the two were last proven to be the same, of the vnode where that is longest"},
        "records_repaired": number(), "bytes_moved": number()
    }));
    object(json!({
        "debt_seconds": {"type": "number", "description": "The greatest of oldest_proof_seconds"},
        "hints": {"type": "array", "items": hints},
        "pairs": {"type": "array", "items": pair}
    }))
}

fn problem() -> Value {
    let codes: Vec<&str> = ABOUT.iter().map(|about| about.name).collect();
    let outcomes =
        ["ok", "down", "timeout", "error", "stale", "incomplete", "disk-full", "not-sent"];
    let replica = object(json!({"node": text(), "outcome": {"enum": outcomes}}));
    json!({
        "type": "object",
        "description": "RFC 9457",
        "required": ["type", "title", "status", "detail", "code", "request_id"],
        "properties": {
            "type": {"type": "string", "description": "/errors/<code>, which can be read"},
            "title": text(),
            "status": number(),
            "detail": {"type": "string", "description": "What to do"},
            "code": {"type": "string", "enum": codes},
            "request_id": text(),
            "maybe_applied": {
                "type": "boolean",
                "description": "With all errors of writes: whether it may be there all the same"
            },
            "required": number(),
            "acknowledged": number(),
            "replicas": list(replica)
        }
    })
}

fn siblings() -> Value {
    let sibling = object(json!({
        "version": text(),
        "deleted": {"type": "boolean"},
        "content_type": maybe("string"),
        "content_encoding": maybe("string"),
        "meta": {"type": "object", "additionalProperties": text()},
        "modified": {"type": "string", "format": "date-time"},
        "value": {
            "type": ["string", "null"], "contentEncoding": "base64",
            "description": "null where deleted"
        }
    }));
    object(json!({"context": text(), "siblings": list(sibling)}))
}

fn explain() -> Value {
    let version = object(json!({
        "version": text(), "deleted": {"type": "boolean"}, "bytes": number(), "modified": text()
    }));
    let replica = object(json!({
        "node": text(),
        "reachable": {"type": "boolean"},
        "incomplete": {"type": "boolean"},
        "versions": {"type": ["array", "null"], "items": version},
        "leaf_hash": maybe("string"),
        "hints": number()
    }));
    object(json!({
        "token": text(), "partition": number(), "n": number(), "replicas": list(replica)
    }))
}

fn bucket_properties() -> Value {
    let level = json!({"oneOf": [
        {"enum": ["any", "one", "two", "three", "quorum", "all"]},
        {"type": "integer", "minimum": 1}
    ]});
    json!({
        "n": {"type": "integer", "minimum": 1, "maximum": 16},
        "r": level, "w": level,
        "resolve": {"enum": ["siblings", "lww"]},
        "sloppy": {"type": "boolean"}
    })
}

fn buckets() -> Value {
    let bucket = json!({"$ref": "#/components/schemas/Bucket"});
    object(json!({"buckets": {"type": "object", "additionalProperties": bucket}}))
}

fn cluster() -> Value {
    let node = object(json!({
        "id": text(), "zone": text(), "http": maybe("string"), "peer": text(),
        "weight": {"type": "number"},
        "state": {"enum": ["up", "suspect", "down"]},
        "role": {"enum": ["member", "joining", "leaving", "candidate"]},
        "vnodes": number(),
        "software": maybe("string")
    }));
    let mut transition = object(json!({
        "from_layout": number(), "to_layout": number(),
        "phase": {"enum": ["prepare", "switch", "finish", "abort"]},
        "partitions_total": number(), "partitions_done": number(), "bytes_moved": number(),
        "eta_seconds": maybe("integer"),
        "waiting_for": list(text())
    }));
    transition["type"] = json!(["object", "null"]);
    object(json!({
        "cluster_id": text(), "recovery": number(), "epoch": number(),
        "layout_version": number(), "replication_factor": number(), "partitions": number(),
        "this_node": text(), "nodes": list(node), "transition": transition,
        "under_replicated": number()
    }))
}

fn ring() -> Value {
    let partition = object(json!({
        "id": number(), "start": text(), "end": text(), "replicas": list(text())
    }));
    object(json!({"layout_version": number(), "partitions": list(partition)}))
}

fn layout_change() -> Value {
    let mut join = optional(json!({
        "id": text(), "peer": text(), "zone": text(), "weight": {"type": "number"}
    }));
    join["required"] = json!(["id"]);
    let by_node = |value: Value| json!({"type": "object", "additionalProperties": value});
    optional(json!({
        "join": list(join), "leave": list(text()), "replace": by_node(text()),
        "dead": list(text()), "weight": by_node(json!({"type": "number"})),
        "zone": by_node(text()), "accept_loss": {"type": "boolean"}, "epoch": number()
    }))
}

fn plan() -> Value {
    let moves = object(json!({
        "node": text(), "vnodes_in": number(), "vnodes_out": number(), "bytes_in": number(),
        "bytes_out": number()
    }));
    let balance = object(json!({"before": {"type": "number"}, "after": {"type": "number"}}));
    object(json!({
        "epoch": number(), "moves": list(moves), "balance": balance, "violations": list(text()),
        "eta_seconds": number()
    }))
}

fn recovery() -> Value {
    object(json!({"survivors": list(text()), "lost": list(text())}))
}

fn error_page() -> Value {
    object(json!({
        "code": text(), "status": number(), "title": text(), "meaning": text(),
        "what_to_do": text()
    }))
}
