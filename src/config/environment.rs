//! Settings from `STARLING_` variables: the key in capitals, its dots as underscores.

use std::ffi::OsString;

use super::error::{Origin, nearest};
use super::value::{Sourced, Table, Value};

/// Every setting that has one value, by its dotted key. Buckets of their own are for the file only:
/// the name of a bucket does not fit into the name of a variable.
pub(super) const KEYS: [&str; 44] = [
    "id",
    "http",
    "peer",
    "advertise_http",
    "advertise_peer",
    "data_dir",
    "pid_file",
    "zone",
    "weight",
    "initial_nodes",
    "join",
    "auto_join",
    "partitions",
    "replication_factor",
    "cluster.secret",
    "durability",
    "read_repair",
    "max_value_bytes",
    "max_siblings",
    "max_connections",
    "max_requests",
    "header_timeout",
    "body_timeout",
    "gc_grace",
    "allow_short_gc_grace",
    "hints.max_bytes",
    "hints.max_age",
    "hints.max_bytes_per_second",
    "repair.interval",
    "repair.max_bytes_per_second",
    "repair.scrub_interval",
    "streaming.max_bytes_per_second",
    "storage.min_free_bytes",
    "storage.block_cache_bytes",
    "storage.memtable_bytes",
    "membership.probe_period",
    "membership.probe_timeout",
    "membership.suspicion",
    "log.format",
    "log.filter",
    "default_bucket.r",
    "default_bucket.w",
    "default_bucket.resolve",
    "default_bucket.sloppy",
];

/// Variables that are no settings, but ours all the same.
const OTHERS: [&str; 1] = ["STARLING_NODE"];

/// The variable that holds the setting with this key.
pub(super) fn variable_of(key: &str) -> String {
    format!("STARLING_{}", key.replace('.', "_").to_uppercase())
}

/// Puts the settings of the environment over those of `table`; returns a warning for each
/// `STARLING_` variable that is no setting.
pub(super) fn overlay(
    table: &mut Table,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with("STARLING_")) else {
            continue;
        };
        match KEYS.iter().find(|key| variable_of(key) == name) {
            Some(key) => set(table, key, Origin::Variable(name.into()), word(value)),
            None if OTHERS.contains(&name) => {}
            None => warnings.push(unknown(name)),
        }
    }
    warnings
}

/// Text of a variable. What is no UTF-8 is kept visible, and fails as a value.
fn word(value: OsString) -> Value {
    value.into_string().map_or_else(|raw| Value::Other(format!("{raw:?}")), Value::Word)
}

/// Puts a value over what the table has under a dotted key.
pub(super) fn set(table: &mut Table, key: &str, origin: Origin, value: Value) {
    let Some((section, rest)) = key.split_once('.') else {
        table.insert(key.into(), Sourced { value, origin });
        return;
    };
    let empty = || Sourced { value: Value::Table(Table::new()), origin: origin.clone() };
    let entry = table.entry(section.into()).or_insert_with(empty);
    // Where the file has something else than a table there, that is reported; it is not replaced.
    if let Value::Table(inner) = &mut entry.value {
        set(inner, rest, origin, value);
    }
}

fn unknown(name: &str) -> String {
    let names: Vec<String> = KEYS.iter().map(|key| variable_of(key)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let hint = nearest(name, &names).map(|near| format!("; did you mean {near}?"));
    format!("environment variable {name} is no setting and is ignored{}", hint.unwrap_or_default())
}
