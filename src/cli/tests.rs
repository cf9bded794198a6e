use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use clap::{CommandFactory, Parser};

use super::Cli;
use super::client::KeyName;
use super::table::{Align, Cell, Table};

fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from([&["starling"], words].concat())
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn commands_of_the_contract_parse() {
    for words in [
        "server --config f --id a --http h --peer p --advertise-http h --advertise-peer p \
         --data-dir d --zone z --join a:1,b:2 --auto-join",
        "dev --nodes 5 --base-port 9000 --data-dir d --fresh",
        "get b k --consistency one --node http://h:1 --json",
        "put b k v --consistency any --context none",
        "put b k -",
        "put b k",
        "put b k -5",
        "delete b k --context t",
        "cluster status --json",
        "cluster ring --n 3",
        "cluster explain b k",
        "cluster plan --join a=h:1 --join b --leave c --replace d=e --dead d --weight f=2.5 --zone f=z",
        "cluster apply --leave a --accept-loss --yes --wait",
        "cluster abort",
        "cluster recover --survivors a,b --lost c --yes",
        "bench",
        "bench ycsb-a --node http://a:1,http://b:2 --rate 100.5 --value-bytes 1-9 --verify",
        "bench read --r 1 --count 10 --no-load --save a --chart b --histograms c --json",
        "bench --compare a b",
        "check-config f",
    ] {
        let words: Vec<&str> = words.split_whitespace().collect();
        assert!(parse(&words).is_ok(), "{words:?}: {:?}", parse(&words).err());
    }
}

#[test]
fn wrong_use_ends_with_2() {
    for words in [
        "",
        "frobnicate",
        "get b",
        "get b k --consistency any",
        "put b k v --consistency most",
        "dev --nodes 0",
        "dev --base-port 70000",
        "cluster recover",
        "bench --keys 0",
        "bench --connections 0",
        "bench --reads 101",
        "bench --consistency any",
        "bench --count 5 --duration 5",
        "bench --compare a",
    ] {
        let words: Vec<&str> = words.split_whitespace().collect();
        let error = parse(&words).expect_err("wrong use");
        assert_eq!(error.exit_code(), 2, "{words:?}: {error}");
    }
    assert_eq!(parse(&["--version"]).expect_err("stops").exit_code(), 0);
}

#[test]
fn keys_of_any_bytes_make_paths_that_no_one_rewrites() {
    for (key, path) in [
        (b"plain-key_1.~".as_slice(), "/v1/kv/b/plain-key_1.~"),
        (b"a/b//c", "/v1/kv/b/a%2Fb%2F%2Fc"),
        (b"a/../b", "/v1/kv/b/a%2F..%2Fb"),
        (b"..", "/v1/kv64/b/Li4"),
        (b".", "/v1/kv64/b/Lg"),
        (b"a+b c?d#e%f", "/v1/kv/b/a%2Bb%20c%3Fd%23e%25f"),
        (b"\xff\x01", "/v1/kv/b/%FF%01"),
    ] {
        let name = KeyName::parse("b", OsStr::from_bytes(key)).expect("a key");
        assert_eq!(name.path("kv"), path);
    }
    assert!(KeyName::parse("b", OsStr::new("")).is_err());
    assert!(KeyName::parse("-b", OsStr::new("k")).is_err());
}

#[test]
fn columns_are_aligned_whatever_their_colour() {
    let mut table = Table::new([("NODE", Align::Left), ("N", Align::Right), ("X", Align::Left)]);
    table.push([Cell::coloured("a", Some(32)), "1".into(), "end".into()]);
    table.push(["longer".into(), "1024".into(), Cell::from("")]);
    let expected = "NODE       N  X\n\x1b[32ma\x1b[0m          1  end\nlonger  1024\n";
    assert_eq!(table.render(), expected);
}
