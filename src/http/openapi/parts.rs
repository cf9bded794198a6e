//! What several paths share: parameters, headers, answers.

use serde_json::{Map, Value, json};

use crate::http::error::ABOUT;

/// A reference to a shared parameter.
pub fn parameter(name: &str) -> Value {
    json!({"$ref": format!("#/components/parameters/{name}")})
}

/// References to shared parameters.
pub fn parameters(names: &[&str]) -> Value {
    names.iter().map(|name| parameter(name)).collect()
}

pub fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn headers(names: &[&str]) -> Value {
    let reference =
        |name: &&str| ((*name).to_owned(), json!({"$ref": format!("#/components/headers/{name}")}));
    names.iter().map(reference).collect::<Map<_, _>>().into()
}

/// The one good answer of a call.
pub fn one_of(status: u16, description: &str, media_type: &str, schema: Value) -> Value {
    json!({ status.to_string(): {
        "description": description,
        "headers": headers(&["Starling-Request-Id"]),
        "content": { media_type: { "schema": schema } }
    }})
}

/// 200 with JSON.
pub fn reply(description: &str, name: &str) -> Value {
    one_of(200, description, "application/json", schema(name))
}

/// Adds the errors with these statuses.
pub fn with_errors(mut responses: Value, statuses: &[u16]) -> Value {
    for status in statuses {
        let reference = json!({"$ref": format!("#/components/responses/E{status}")});
        responses[status.to_string()] = reference;
    }
    responses
}

/// A request's body.
pub fn body(description: &str, media_type: &str, schema: Option<Value>) -> Value {
    let media = schema.map_or(json!({}), |schema| json!({ "schema": schema }));
    json!({"description": description, "required": true, "content": { media_type: media }})
}

/// A request's JSON body.
pub fn json_body(name: &str) -> Value {
    body("At most 1 MiB", "application/json", Some(schema(name)))
}

const PROTECTION: [&str; 4] =
    ["Cache-Control", "Vary", "X-Content-Type-Options", "Content-Security-Policy"];

fn kv_headers(more: &[&str]) -> Value {
    let common = ["Starling-Context", "Starling-Acks", "Starling-Epoch", "Starling-Request-Id"];
    headers(&[&common[..], &PROTECTION, more].concat())
}

/// The good answers to reads of keys.
pub fn kv_read() -> Value {
    let value_headers = [
        "Starling-Version",
        "Starling-Siblings",
        "Starling-Deleted",
        "Starling-Meta-name",
        "ETag",
        "Last-Modified",
        "Content-Encoding",
    ];
    json!({
        "200": {
            "description": "The value, with the Content-Type it was stored with",
            "headers": kv_headers(&value_headers),
            "content": {"*/*": {}}
        },
        "300": {
            "description": "Siblings, at least one of them live. HEAD: without length and type",
            "headers": kv_headers(&["Starling-Siblings", "ETag", "Last-Modified"]),
            "content": {
                "application/json": {"schema": schema("Siblings")},
                "multipart/mixed": {"schema": {
                    "type": "array",
                    "description": "One part a sibling, raw, each with its Content-Type and \
                        Starling-Version; a deleted one is empty, with Starling-Deleted: true",
                    "items": {}
                }}
            }
        },
        "304": {
            "description": "The client has this already: If-None-Match names it",
            "headers": kv_headers(&["Starling-Siblings", "ETag"])
        }
    })
}

/// The good answer to writes of keys.
pub fn kv_write() -> Value {
    json!({"204": {
        "description": "Done to the level; ETag where one version stands",
        "headers": kv_headers(&["Starling-Version", "Starling-Siblings", "ETag"])
    }})
}

/// One response for each status that errors have.
pub fn error_responses() -> Value {
    let mut responses = Map::new();
    for about in &ABOUT {
        let name = format!("E{}", about.status.as_u16());
        let line = format!("`{}`: {}", about.name, about.meaning);
        let response = responses.entry(name).or_insert_with(|| {
            json!({
                "description": "",
                "headers": headers(&error_headers(about.status.as_u16())),
                "content": {"application/problem+json": {"schema": schema("Problem")}}
            })
        });
        let before = response["description"].as_str().unwrap_or_default();
        let gap = if before.is_empty() { "" } else { "\n\n" };
        response["description"] = format!("{before}{gap}{line}").into();
    }
    responses.into()
}

fn error_headers(status: u16) -> Vec<&'static str> {
    let mut names = vec!["Starling-Error", "Starling-Request-Id"];
    names.extend(match status {
        404 => &["Starling-Context", "Starling-Deleted", "Starling-Acks", "Starling-Epoch"][..],
        405 => &["Allow"],
        409 => &["Starling-Context"],
        412 => &["Starling-Context", "ETag", "Starling-Acks", "Starling-Epoch"],
        429 | 507 => &["Retry-After"],
        503 => &["Retry-After", "Starling-Acks", "Starling-Epoch"],
        504 => &["Starling-Context", "Starling-Acks", "Starling-Epoch"],
        _ => &[],
    });
    names
}

const LEVELS: [&str; 5] = ["one", "two", "three", "quorum", "all"];
const WRITE_LEVELS: [&str; 6] = ["any", "one", "two", "three", "quorum", "all"];

/// A parameter that can be asked for in the query and as a header.
fn both(name: &str, header: &str, description: &str, schema: Value) -> [Value; 2] {
    let one = |place: &str, name: &str| json!({"name": name, "in": place, "description": description, "schema": schema});
    [one("query", name), one("header", header)]
}

/// `components.parameters`.
pub fn shared_parameters() -> Value {
    let count = json!({"type": "integer", "minimum": 1, "maximum": 255});
    let timeout = json!({"type": "string", "pattern": "^[1-9][0-9]*(ms|s)$", "default": "5s"});
    let level = "How many replicas answer. Default: the bucket's, else quorum";
    let asked = [
        (
            "Consistency",
            both("consistency", "Starling-Consistency", level, json!({"enum": LEVELS})),
        ),
        (
            "WriteConsistency",
            both("consistency", "Starling-Consistency", level, json!({"enum": WRITE_LEVELS})),
        ),
        ("R", both("r", "Starling-R", "1 to n; wins over consistency", count.clone())),
        ("W", both("w", "Starling-W", "1 to n; wins over consistency", count)),
        ("Timeout", both("timeout", "Starling-Timeout", "At most 60 s", timeout)),
        (
            "Sloppy",
            both(
                "sloppy",
                "Starling-Sloppy",
                "Whether other nodes may stand in for replicas that are down. Default: the \
                 bucket's, else false",
                json!({"enum": ["true", "false"]}),
            ),
        ),
    ];
    let mut all = single_parameters();
    for (name, [query, header]) in asked {
        all.insert(name.into(), query);
        all.insert(format!("{name}Header"), header);
    }
    all.into()
}

fn single_parameters() -> Map<String, Value> {
    let text = || json!({"type": "string"});
    let path = |name: &str, description: &str, schema: Value| {
        json!({
            "name": name, "in": "path", "required": true, "description": description,
            "schema": schema
        })
    };
    let header = |name: &str, description: &str| json!({"name": name, "in": "header", "description": description, "schema": text()});
    let query = |name: &str, description: &str, schema: Value| json!({"name": name, "in": "query", "description": description, "schema": schema});
    let bucket_name = json!({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"});
    let entries = [
        ("Bucket", path("bucket", "The namespace; needs not be created", bucket_name)),
        (
            "Key",
            path(
                "key",
                "The rest of the path, percent-decoded once: 1 to 2,048 bytes, any at all; \
                 slashes belong to it, + is a plus, nothing is normalised",
                text(),
            ),
        ),
        ("Key64", path("key", "The base64url of the key, with or without padding", text())),
        ("ErrorCode", path("code", "The code of the error", text())),
        ("Version", query("version", "This version alone, raw", text())),
        (
            "AcceptLoss",
            query(
                "accept_loss",
                "Give up, on all nodes, the keys whose only copies are damaged, and hints that are",
                json!({"type": "boolean", "default": false}),
            ),
        ),
        (
            "RingN",
            query("n", "Of another replication factor", json!({"type": "integer", "minimum": 1})),
        ),
        (
            "Context",
            header(
                "Starling-Context",
                "The token of what this write replaces, from an earlier answer; none: nothing is \
                 replaced; absent: what a read at the write's own level shows",
            ),
        ),
        ("ContentEncoding", header("Content-Encoding", "Stored and returned verbatim")),
        ("Meta", header("Starling-Meta-name", "Any name: stored and returned, 4 KiB in all")),
        (
            "IfMatch",
            header(
                "If-Match",
                "Entity tags or *. Writes compare the set of versions, whatever its form",
            ),
        ),
        ("IfNoneMatch", header("If-None-Match", "Entity tags, or * for writes of new keys")),
        (
            "RequestId",
            header("Starling-Request-Id", "1 to 128 of A-Z a-z 0-9 . _ -; also X-Request-Id"),
        ),
    ];
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// `components.headers`.
pub fn shared_headers() -> Value {
    let entries = [
        ("Starling-Context", "Opaque token of the versions that the client has now seen"),
        ("Starling-Version", "The version's public name"),
        ("Starling-Siblings", "How many versions stand side by side"),
        ("Starling-Deleted", "true: a tombstone is there"),
        ("Starling-Acks", "<got>/<required>/<n>, where replicas were asked"),
        ("Starling-Epoch", "The version of the cluster state"),
        ("Starling-Request-Id", "The request's, or a new one"),
        ("Starling-Error", "The code of the error"),
        ("Starling-Meta-name", "As stored; any name"),
        ("ETag", "\"<set>\" for a value, \"<set>.j\" and \"<set>.m\" for the forms of siblings"),
        ("Last-Modified", "Informative"),
        ("Content-Encoding", "As stored"),
        ("Retry-After", "Whole seconds"),
        ("Allow", "The methods that the path takes"),
        ("Cache-Control", "no-store"),
        ("Vary", "Accept"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "sandbox"),
    ];
    let header = |(name, description): (&str, &str)| {
        (name.to_owned(), json!({"description": description, "schema": {"type": "string"}}))
    };
    entries.into_iter().map(header).collect::<Map<_, _>>().into()
}
