use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::environment::{KEYS, variable_of};
use super::{Loaded, LogFormat, Origin, Overrides, Problem, Settings, SettingsErrors};
use crate::protocol::causality::Resolve;
use crate::types::{Bucket, Level};

fn load(toml: &str) -> Result<Loaded, SettingsErrors> {
    load_all(toml, &[], Overrides::default())
}

fn load_all(
    toml: &str,
    variables: &[(&str, &str)],
    flags: Overrides,
) -> Result<Loaded, SettingsErrors> {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("starling.toml");
    std::fs::write(&file, toml).expect("written");
    let environment = variables.iter().map(|(name, value)| (name.into(), value.into()));
    Settings::load(Some(&file), environment, flags)
}

fn settings(toml: &str) -> Settings {
    load(toml).unwrap_or_else(|errors| panic!("{errors}")).settings
}

/// The lines of the errors, without their origin.
fn wrong(toml: &str) -> Vec<String> {
    let errors = load(toml).expect_err("wrong settings");
    errors.iter().map(|error| format!("`{}`: {}", error.key, error.problem)).collect()
}

#[track_caller]
fn assert_only_error(toml: &str, key: &str, part: &str) {
    let errors = wrong(toml);
    let [error] = errors.as_slice() else { panic!("not one error: {errors:#?}") };
    assert!(error.starts_with(&format!("`{key}`: ")), "{error}");
    assert!(error.contains(part), "{error}");
}

#[test]
fn without_any_source_the_defaults_hold() {
    let none = std::iter::empty::<(OsString, OsString)>();
    let loaded = Settings::load(None, none, Overrides::default()).expect("valid");
    let settings = loaded.settings;
    assert_eq!(settings.id.as_str(), "node-1");
    assert_eq!(settings.http.to_string(), "127.0.0.1:7070");
    assert_eq!(settings.advertise_peer.as_str(), "127.0.0.1:7071");
    assert_eq!(settings.partitions.get(), 1_024);
    assert_eq!(settings.max_value_bytes, 8 << 20);
    assert_eq!(settings.membership.suspicion, Duration::from_millis(2_500));
    assert_eq!(settings.log.format, LogFormat::Text);
    assert!(loaded.warnings.is_empty());
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let toml = "id = 'file'\nzone = 'file'\ndata_dir = 'file'\n[storage]\nmin_free_bytes = 1";
    let variables = [
        ("STARLING_ZONE", "variable"),
        ("STARLING_ID", "variable"),
        ("STARLING_STORAGE_MIN_FREE_BYTES", "2MiB"),
    ];
    let flags = Overrides { id: Some("flag".into()), ..Overrides::default() };

    let settings = load_all(toml, &variables, flags).expect("valid").settings;

    assert_eq!(settings.id.as_str(), "flag");
    assert_eq!(settings.zone.as_str(), "variable");
    assert_eq!(settings.data_dir, Path::new("file"));
    assert_eq!(settings.storage.min_free_bytes, 2 << 20);
}

#[test]
fn all_errors_come_at_once_with_line_key_and_what_would_be_right() {
    let toml = "id = '-x'\nhtpp = '127.0.0.1:1'\npartitions = 100\n[storage]\nmin_free = 3\n\
                [membership]\nsuspicion = 5\n";
    let variables = [("STARLING_DURABILITY", "fast")];
    let flags = Overrides { peer: Some("here".into()), ..Overrides::default() };

    let text = load_all(toml, &variables, flags).expect_err("wrong").to_string();

    for part in [
        "7 settings are wrong:",
        "starling.toml:1: `id`: \"-x\" is wrong; must be a text of 1 to 128",
        "starling.toml:2: `htpp`: there is no such setting; did you mean `http`?",
        "starling.toml:3: `partitions`: 100 is wrong; must be a power of two from 64 to 65536",
        "starling.toml:7: `membership.suspicion`: 5 is wrong; must be a text with a unit",
        "environment variable STARLING_DURABILITY: `durability`: \"fast\" is wrong; must be",
        "flag --peer: `peer`: \"here\" is wrong; must be",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(text.contains("`storage.min_free`: there is no such setting"), "{text}");
}

#[test]
fn broken_toml_is_reported_with_its_line_and_nothing_else() {
    let errors = load("id = 'a'\nzone = \nhttp = 3\n").expect_err("broken");
    let errors: Vec<_> = errors.iter().collect();
    assert!(matches!(&errors[0].origin, Origin::File(_, 2)), "{errors:?}");
    assert!(errors.iter().all(|e| matches!(e.problem, Problem::Syntax(_))), "{errors:?}");
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let none = std::iter::empty::<(OsString, OsString)>();
    let path = Path::new("/nowhere/starling.toml");
    let errors = Settings::load(Some(path), none, Overrides::default()).expect_err("missing");
    assert!(errors.to_string().contains("/nowhere/starling.toml"), "{errors}");
    assert!(errors.to_string().contains("can't be read"), "{errors}");
}

#[test]
fn each_key_of_the_environment_is_a_setting() {
    for key in KEYS {
        let variables = [(variable_of(key), "\u{1}".to_owned())];
        let pairs = variables.iter().map(|(n, v)| (n.into(), v.into()));
        let told = match Settings::load(None, pairs, Overrides::default()) {
            Ok(loaded) => loaded.warnings,
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        };
        let unknown = told.iter().any(|text| text.contains("no such setting"));
        assert!(!unknown, "{key}: {told:?}");
    }
}

#[test]
fn foreign_variables_warn_and_ours_that_are_no_settings_are_silent() {
    let variables = [("STARLING_HTPP", "x"), ("STARLING_NODE", "http://x"), ("HOME", "/root")];
    let loaded = load_all("", &variables, Overrides::default()).expect("valid");
    let [warning] = loaded.warnings.as_slice() else { panic!("{:?}", loaded.warnings) };
    assert!(warning.contains("STARLING_HTPP is no setting"), "{warning}");
    assert!(warning.contains("did you mean STARLING_HTTP?"), "{warning}");
}

#[test]
fn a_setting_in_the_wrong_section_is_pointed_to_the_right_one() {
    assert_only_error("min_free_bytes = 3", "min_free_bytes", "`storage.min_free_bytes`");
    assert_only_error("zzzzzz = 3", "zzzzzz", "remove it");
    assert_only_error("storage = 3", "storage", "must be a table");
}

#[test]
fn sizes_and_durations_take_units() {
    let got = settings(
        "max_value_bytes = '64KiB'\nheader_timeout = '500ms'\nbody_timeout = '2m'\n\
         storage = { min_free_bytes = 0, memtable_bytes = '8 MiB' }",
    );
    assert_eq!(got.max_value_bytes, 64 << 10);
    assert_eq!(got.header_timeout, Duration::from_millis(500));
    assert_eq!(got.body_timeout, Duration::from_secs(120));
    assert_eq!((got.storage.min_free_bytes, got.storage.memtable_bytes), (0, 8 << 20));
    for bad in ["0s", "10", "-1s", "1.5s", "s", "99999999999999999999s", "9999999999h"] {
        assert_only_error(&format!("body_timeout = '{bad}'"), "body_timeout", "must be");
    }
    for bad in ["'8 M'", "-1", "1.5", "'99999999TiB'", "'x'"] {
        assert_only_error(&format!("storage.min_free_bytes = {bad}"), "storage.min_free_bytes", "");
    }
}

#[test]
fn buckets_inherit_from_the_default_bucket() {
    let got = settings(
        "[default_bucket]\nw = 'all'\n[buckets.sessions]\nresolve = 'lww'\nr = 1\n\
         [buckets.\"a.b\"]\nsloppy = true\n",
    );
    let sessions = got.bucket(&Bucket::new("sessions").expect("valid"));
    assert_eq!((sessions.w, sessions.resolve), (Level::All, Resolve::Lww));
    assert_eq!(sessions.r.to_string(), "1");
    assert!(got.bucket(&Bucket::new("a.b").expect("valid")).sloppy);
    assert_eq!(got.bucket(&Bucket::new("other").expect("valid")).w, Level::All);
}

#[test]
fn levels_that_no_replica_set_can_reach_are_wrong() {
    assert_only_error("[buckets.b]\nr = 4", "buckets.b.r", "n is 3");
    assert_only_error("default_bucket.r = 'any'", "default_bucket.r", "writes only");
    assert_only_error("replication_factor = 1\n[buckets.b]\nw = 'two'", "buckets.b.w", "n is 1");
    assert_only_error("[buckets.-b]\nw = 'two'", "buckets.-b", "a bucket is 1 to 128");
    assert_only_error("[buckets.b]\nw = 'most'", "buckets.b.w", "must be one, two");
    assert_only_error("[buckets.b]\nn = 2", "buckets.b.n", "no such setting");
}

const NODES: &str = "initial_nodes = [{ id = 'node-1', peer = '127.0.0.1:7071' }, \
                     { id = 'b', peer = '127.0.0.1:7081', zone = 'z', weight = 2 }]\n";

#[test]
fn the_founding_list_names_this_node_once() {
    assert_eq!(settings(NODES).initial_nodes.len(), 2);
    assert_only_error(&format!("{NODES}id = 'c'"), "initial_nodes", "must list this node");
    let twice = NODES.replace("'b'", "'node-1'");
    assert_only_error(&twice, "initial_nodes", "the id node-1 twice");
    let same = NODES.replace("7081", "7071");
    assert_only_error(&same, "initial_nodes", "the address 127.0.0.1:7071 twice");
    assert_only_error(&format!("{NODES}join = ['x:1']"), "join", "keep one of them");
    let no_peer = "initial_nodes = [{ id = 'node-1' }]";
    assert_only_error(no_peer, "initial_nodes[0].peer", "is missing");
}

#[test]
fn the_founding_list_and_the_nodes_own_settings_agree() {
    let b = settings(&format!("{NODES}id = 'b'\nhttp = '127.0.0.1:7080'\npeer = '127.0.0.1:7081'"));
    assert_eq!(b.zone.as_str(), "z");
    assert_eq!(b.advertise_peer.as_str(), "127.0.0.1:7081");
    assert_only_error(&format!("{NODES}zone = 'y'"), "zone", "they must agree");
    assert_only_error(&format!("{NODES}weight = 3"), "weight", "they must agree");
    assert_only_error(&format!("{NODES}peer = '127.0.0.1:9'"), "peer", "make them agree");
    let named = NODES.replace("127.0.0.1:7071", "host-1:7071");
    assert_eq!(settings(&named).advertise_peer.as_str(), "host-1:7071");
    let other = format!("{named}advertise_peer = 'host-2:7071'");
    assert_only_error(&other, "advertise_peer", "they must agree");
}

#[test]
fn founding_nodes_may_come_from_the_environment() {
    let variables = [("STARLING_INITIAL_NODES", "node-1=127.0.0.1:7071, b=host:7071")];
    let loaded = load_all("", &variables, Overrides::default()).expect("valid");
    assert_eq!(loaded.settings.initial_nodes[1].peer.as_str(), "host:7071");
    assert!(loaded.warnings.iter().any(|w| w.contains("fewer than replication_factor")));
}

#[test]
fn addresses_must_be_apart_and_reachable() {
    assert_only_error("http = '127.0.0.1:7071'", "peer", "ports of their own");
    assert_only_error("http = '127.0.0.1:0'", "http", "name a port");
    let everywhere = "http = '0.0.0.0:7070'\npeer = '0.0.0.0:7071'\n";
    assert_eq!(wrong(everywhere).len(), 2);
    assert!(wrong(everywhere)[0].contains("set advertise_http"), "{:?}", wrong(everywhere));
    let told = format!("{everywhere}advertise_http = 'a:1'\nadvertise_peer = 'a:2'");
    assert_eq!(settings(&told).advertise_peer.as_str(), "a:2");
}

#[test]
fn probes_fit_into_their_period() {
    let toml = "membership.probe_timeout = '1s'";
    assert_only_error(toml, "membership.probe_timeout", "shorter than membership.probe_period");
    assert_only_error("membership.suspicion = '100ms'", "membership.suspicion", "at least");
}

#[test]
fn a_secret_is_shown_nowhere() {
    let good = settings("cluster.secret = 'correct horse battery'");
    assert!(!format!("{good:?}").contains("horse"));
    let error = wrong("cluster.secret = 'horse'").concat();
    assert!(error.contains("16 bytes or more") && !error.contains("horse"), "{error}");
}

#[test]
fn log_filters_are_checked() {
    assert_eq!(settings("log.filter = 'info,starling=debug'").log.filter, "info,starling=debug");
    assert_only_error("log.filter = 'starling=loud'", "log.filter", "must be a level");
}
