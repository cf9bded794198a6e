//! Levels as arguments.

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::types::Level;

const OF_READS: [&str; 5] = ["one", "two", "three", "quorum", "all"];

/// Takes the levels of reads.
pub(super) fn of_reads() -> impl TypedValueParser<Value = Level> {
    named(OF_READS)
}

/// Takes the levels of writes.
pub(super) fn of_writes() -> impl TypedValueParser<Value = Level> {
    named(OF_READS.into_iter().chain(["any"]))
}

fn named(names: impl IntoIterator<Item = &'static str>) -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(names).try_map(|name| Level::parse_name(&name))
}
