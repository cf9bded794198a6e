//! `/openapi.json`: the description of the API (OpenAPI 3.1). Kept by hand, in JSON that reads like
//! the document that it makes; tests hold it to the router's table and to the table of errors.

mod parts;
mod schemas;

use std::sync::OnceLock;

use bytes::Bytes;
use http::HeaderValue;
use serde_json::{Value, json};

use self::parts::{body, json_body, kv_read, kv_write, one_of, parameters, reply, with_errors};
use super::answer::{self, Answer};
use super::app::Call;
use super::error::Failure;
use super::query;

/// `GET /openapi.json`.
///
/// # Errors
/// `invalid-parameter`.
pub fn document(call: &Call<'_>) -> Result<Answer, Failure> {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    query::none(call.head.uri.query())?;
    let bytes = DOCUMENT.get_or_init(|| Bytes::from(describe().to_string()));
    Ok(answer::with_type(HeaderValue::from_static("application/json"), bytes.clone()))
}

/// The document.
pub fn describe() -> Value {
    let paths = [keys(), explain(), buckets(), cluster(), operations(), documents()];
    let paths: serde_json::Map<String, Value> = paths.into_iter().flatten().collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Starling",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "A leaderless key-value store. Concurrent writes stay side by side as \
                siblings until a write with their context replaces them. Conditional writes are \
                checked against a read at the request's level; they are not linearizable. \
                Parameters are percent-decoded once; in queries as in keys, + is a plus. Any other \
                parameter than those named is a 400, and so is one that is asked for twice (also \
                as a header) with different values."
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "keys", "description": "Values by bucket and key."},
            {"name": "buckets", "description": "Properties of buckets."},
            {"name": "cluster", "description": "Nodes, layout, repair."},
            {"name": "operations", "description": "Health, metrics, documents."}
        ],
        "paths": paths,
        "components": {
            "schemas": schemas::schemas(),
            "parameters": parts::shared_parameters(),
            "headers": parts::shared_headers(),
            "responses": parts::error_responses()
        }
    })
}

type Paths = Vec<(String, Value)>;

/// The operation's id is the method and the name of the path.
fn operation(tag: &str, id: &str, summary: &str, parameters: Value, responses: Value) -> Value {
    json!({
        "tags": [tag], "operationId": id, "summary": summary,
        "parameters": parameters, "responses": responses
    })
}

/// A GET and the HEAD that goes with it.
fn reading(get: Value) -> serde_json::Map<String, Value> {
    let mut head = get.clone();
    let id = get["operationId"].as_str().unwrap_or_default().replacen("get", "head", 1);
    head["operationId"] = id.into();
    head["summary"] = "Status and headers of GET".into();
    for (_, response) in head["responses"].as_object_mut().into_iter().flatten() {
        if let Some(response) = response.as_object_mut() {
            response.remove("content");
        }
    }
    [("get".to_owned(), get), ("head".to_owned(), head)].into_iter().collect()
}

fn keys() -> Paths {
    let forms = [("kv", "Kv", "Key"), ("kv64", "Kv64", "Key64")];
    forms
        .map(|(path, id, key)| (format!("/v1/{path}/{{bucket}}/{{key}}"), key_path(id, key)))
        .into()
}

fn key_path(id: &str, key: &str) -> Value {
    let read = parameters(&[
        "Bucket",
        key,
        "Consistency",
        "ConsistencyHeader",
        "R",
        "RHeader",
        "Timeout",
        "TimeoutHeader",
        "Sloppy",
        "SloppyHeader",
        "Version",
        "IfMatch",
        "IfNoneMatch",
        "RequestId",
    ]);
    let write = parameters(&[
        "Bucket",
        key,
        "WriteConsistency",
        "WriteConsistencyHeader",
        "W",
        "WHeader",
        "Timeout",
        "TimeoutHeader",
        "Sloppy",
        "SloppyHeader",
        "Context",
        "IfMatch",
        "IfNoneMatch",
        "RequestId",
    ]);
    let mut path = reading(operation(
        "keys",
        &format!("get{id}"),
        "Read a key",
        read,
        with_errors(kv_read(), &[400, 404, 405, 406, 408, 412, 414, 429, 431, 500, 501, 503, 504]),
    ));
    let mut put = operation(
        "keys",
        &format!("put{id}"),
        "Store a value",
        write.clone(),
        with_errors(
            kv_write(),
            &[400, 405, 408, 409, 412, 413, 414, 429, 431, 500, 501, 503, 504, 507],
        ),
    );
    if let Some(parameters) = put["parameters"].as_array_mut() {
        let more = ["ContentEncoding", "Meta"];
        parameters.extend(more.map(parts::parameter));
    }
    put["requestBody"] = body("The value: any bytes, up to max_value_bytes", "*/*", None);
    let delete = operation(
        "keys",
        &format!("delete{id}"),
        "Delete a value: write a tombstone",
        write,
        with_errors(kv_write(), &[400, 405, 408, 409, 412, 414, 429, 431, 500, 501, 503, 504, 507]),
    );
    path.insert("put".into(), put);
    path.insert("delete".into(), delete);
    path.into()
}

fn explain() -> Paths {
    let forms = [("explain", "Explain", "Key"), ("explain64", "Explain64", "Key64")];
    let path = |(path, id, key): (&str, &str, &str)| {
        let get = operation(
            "cluster",
            &format!("get{id}"),
            "Where a key lies, and what each replica holds",
            parameters(&["Bucket", key, "Timeout", "RequestId"]),
            with_errors(reply("What was found", "Explain"), &[400, 405, 429, 500, 503]),
        );
        (format!("/v1/{path}/{{bucket}}/{{key}}"), Value::from(reading(get)))
    };
    forms.map(path).into()
}

fn buckets() -> Paths {
    let changed = || {
        let mut responses = reply("What the bucket has now", "Bucket");
        let moves = one_of(202, "Its data moves", "application/json", parts::schema("Bucket"));
        let both = responses.as_object_mut().expect("responses by status");
        both.extend(moves.as_object().expect("responses by status").clone());
        responses
    };
    let list = operation(
        "buckets",
        "getBuckets",
        "The buckets with properties of their own",
        parameters(&["RequestId"]),
        with_errors(reply("The buckets", "Buckets"), &[400, 405, 429, 500]),
    );
    let mut one = reading(operation(
        "buckets",
        "getBucket",
        "A bucket's properties",
        parameters(&["Bucket", "RequestId"]),
        with_errors(reply("The properties", "Bucket"), &[400, 405, 429, 500]),
    ));
    let mut put = operation(
        "buckets",
        "putBucket",
        "Change a bucket's properties",
        parameters(&["Bucket", "RequestId"]),
        with_errors(changed(), &[400, 405, 408, 409, 413, 415, 429, 500, 503]),
    );
    put["requestBody"] = json_body("BucketChange");
    let delete = operation(
        "buckets",
        "deleteBucket",
        "Return a bucket to the defaults",
        parameters(&["Bucket", "RequestId"]),
        with_errors(changed(), &[400, 405, 409, 429, 500, 503]),
    );
    one.insert("put".into(), put);
    one.insert("delete".into(), delete);
    vec![("/v1/buckets".into(), reading(list).into()), ("/v1/buckets/{bucket}".into(), one.into())]
}

fn cluster() -> Paths {
    let show = operation(
        "cluster",
        "getCluster",
        "The cluster, as far as this node knows",
        parameters(&["RequestId"]),
        with_errors(reply("The cluster", "Cluster"), &[400, 405, 429, 500, 503]),
    );
    let ring = operation(
        "cluster",
        "getRing",
        "A table of the ring",
        parameters(&["RingN", "RequestId"]),
        with_errors(reply("The table", "Ring"), &[400, 405, 429, 500, 503]),
    );
    let change = |id: &str, summary: &str, response: Value, body: &str| {
        let codes = [400, 405, 408, 409, 413, 415, 429, 500, 503];
        let responses = with_errors(response, &codes);
        let mut post = operation("cluster", id, summary, parameters(&["RequestId"]), responses);
        post["requestBody"] = json_body(body);
        json!({"post": post})
    };
    let begun = |schema: &str| one_of(202, "Begun", "application/json", parts::schema(schema));
    let bare = |id: &str, summary: &str| {
        let responses = with_errors(begun("Accepted"), &[400, 405, 409, 429, 500, 503]);
        operation("cluster", id, summary, parameters(&["RequestId"]), responses)
    };
    let mut repair = reading(operation(
        "cluster",
        "getRepair",
        "How far this node's replicas agree with others, and what it keeps for them",
        parameters(&["RequestId"]),
        with_errors(reply("What is known", "Repair"), &[400, 405, 429, 500, 503]),
    ));
    let accepted = one_of(202, "Begun", "application/json", parts::schema("RepairBegun"));
    let post = operation(
        "cluster",
        "postRepair",
        "Compare all shared vnodes now",
        parameters(&["AcceptLoss", "RequestId"]),
        with_errors(accepted, &[400, 405, 429, 500, 503]),
    );
    repair.insert("post".into(), post);
    let abort = json!({"post": bare("abortLayout", "Return to the old layout")});
    vec![
        ("/v1/cluster".into(), reading(show).into()),
        ("/v1/cluster/ring".into(), reading(ring).into()),
        (
            "/v1/cluster/plan".into(),
            change(
                "planLayout",
                "What a change would do",
                reply("What it would move", "Plan"),
                "LayoutChange",
            ),
        ),
        (
            "/v1/cluster/apply".into(),
            change("applyLayout", "Change the layout", begun("Plan"), "LayoutChange"),
        ),
        ("/v1/cluster/abort".into(), abort),
        (
            "/v1/cluster/recover".into(),
            change(
                "recoverCluster",
                "Go on without a majority that is lost for good; can lose acknowledged writes",
                begun("Accepted"),
                "Recovery",
            ),
        ),
        ("/v1/repair".into(), repair.into()),
    ]
}

fn operations() -> Paths {
    let plain = |id: &str, summary: &str, response: Value, errors: &[u16]| {
        let responses = with_errors(response, errors);
        let get = operation("operations", id, summary, parameters(&["RequestId"]), responses);
        Value::from(reading(get))
    };
    let metrics = one_of(200, "All metrics", "text/plain", json!({"type": "string"}));
    vec![
        (
            "/healthz".into(),
            plain(
                "getHealth",
                "Whether the process works",
                reply("It does", "Status"),
                &[400, 405],
            ),
        ),
        (
            "/readyz".into(),
            plain(
                "getReadiness",
                "Whether the node can serve",
                reply("It can", "Status"),
                &[400, 405, 503],
            ),
        ),
        ("/metrics".into(), plain("getMetrics", "Prometheus metrics", metrics, &[400, 405])),
    ]
}

fn documents() -> Paths {
    let document = one_of(200, "This", "application/json", json!({"type": "object"}));
    let openapi = operation(
        "operations",
        "getOpenApi",
        "This description",
        parameters(&["RequestId"]),
        with_errors(document, &[400, 405, 429]),
    );
    let page = operation(
        "operations",
        "getErrorPage",
        "What an error means and what to do",
        parameters(&["ErrorCode", "RequestId"]),
        with_errors(reply("About the error", "ErrorPage"), &[400, 404, 405, 429]),
    );
    vec![
        ("/openapi.json".into(), reading(openapi).into()),
        ("/errors/{code}".into(), reading(page).into()),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::error::ABOUT;
    use crate::http::router::ROUTES;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let document = describe();
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .expect("paths")
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().expect("a path item").keys();
                methods.map(|method| (path.clone(), method.to_uppercase())).collect::<Vec<_>>()
            })
            .collect();
        let routed: BTreeSet<(String, String)> = ROUTES
            .iter()
            .flat_map(|route| {
                let methods = route.allow.split(", ");
                methods.map(|method| (route.template.to_owned(), method.to_owned()))
            })
            .collect();
        assert_eq!(described, routed);
    }

    #[test]
    fn every_error_code_is_listed_under_its_status() {
        let document = describe();
        let codes = &document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
        for about in &ABOUT {
            assert!(codes.as_array().expect("a list").contains(&about.name.into()));
            let response =
                &document["components"]["responses"][format!("E{}", about.status.as_u16())];
            let text = response["description"].as_str().expect("described");
            assert!(text.contains(about.name), "{}", about.name);
        }
    }

    #[test]
    fn references_lead_somewhere_and_operations_have_ids_of_their_own() {
        let document = describe();
        let mut ids = BTreeSet::new();
        walk(&document, &mut |name, value| {
            if name == "$ref" {
                let pointer = value.as_str().and_then(|text| text.strip_prefix('#'));
                assert!(document.pointer(pointer.expect("local")).is_some(), "{value}");
            }
            if name == "operationId" {
                assert!(ids.insert(value.to_string()), "{value} twice");
            }
        });
    }

    fn walk(value: &Value, look: &mut dyn FnMut(&str, &Value)) {
        for (name, inner) in value.as_object().into_iter().flatten() {
            look(name, inner);
            walk(inner, look);
        }
        value.as_array().into_iter().flatten().for_each(|inner| walk(inner, look));
    }
}
