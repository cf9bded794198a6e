//! Imports go one way (ARCHITECTURE.md, section 3).

use std::fs;
use std::path::{Path, PathBuf};

/// Each module and those that it may import from; itself always.
const MAY_IMPORT: [(&str, &[&str]); 12] = [
    ("types", &[]),
    ("protocol", &["types"]),
    ("storage", &["types", "protocol"]),
    ("peer", &["types", "protocol"]),
    ("config", &["types", "protocol", "storage", "peer"]),
    ("telemetry", &["types", "config"]),
    ("node", &["types", "protocol", "storage", "peer", "config", "telemetry"]),
    ("sim", &["types", "protocol", "storage", "peer", "config", "telemetry", "node"]),
    ("http", &["types", "protocol", "node"]),
    ("server", &["types", "protocol", "storage", "peer", "config", "telemetry", "node", "http"]),
    ("load", &["types"]),
    ("cli", &["types", "config", "telemetry", "server", "load"]),
];

/// Crates that the pure part must not know.
const IMPURE: [&str; 6] = ["tokio", "axum", "hyper", "rocksdb", "rand", "std::time::Instant"];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn files_of(module: &str) -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let file = src.join(format!("{module}.rs"));
    if file.exists() { vec![file] } else { sources(&src.join(module)) }
}

/// Lines of code that name something of the crate, with what follows `crate::`.
fn named_modules(text: &str) -> Vec<&str> {
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    text.lines()
        .filter(is_code)
        .flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(""))
        .collect()
}

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for (module, allowed) in MAY_IMPORT {
        let files = files_of(module);
        assert!(!files.is_empty(), "{module} has no files");
        for file in files {
            let text = fs::read_to_string(&file).expect("readable");
            for named in named_modules(&text) {
                let is_module = MAY_IMPORT.iter().any(|(other, _)| *other == named);
                if is_module && named != module && !allowed.contains(&named) {
                    wrong.push(format!("{}: {module} imports {named}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_protocol_knows_no_runtime_no_clock_and_no_randomness() {
    let mut wrong = Vec::new();
    for file in files_of("protocol") {
        let text = fs::read_to_string(&file).expect("readable");
        for line in text.lines().filter(|line| line.trim_start().starts_with("use ")) {
            if IMPURE.iter().any(|name| line.contains(&format!("use {name}"))) {
                wrong.push(format!("{}: {line}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
