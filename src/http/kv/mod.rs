//! GET, HEAD, PUT and DELETE of keys.

mod get;
mod siblings;
mod write;

use crate::http::app::{App, Call};
use crate::http::error::Failure;
use crate::http::parameters::{Asked, Kind};
use crate::node::operation::Terms;
use crate::types::{KeyPath, Level};

pub use get::get;
pub use write::{delete, put};

/// Reads level, timeout and the like, and notes the level for the metrics.
fn terms(
    app: &App,
    call: &mut Call<'_>,
    asked: &Asked<'_>,
    (kind, path): (Kind, &KeyPath),
) -> Result<Terms, Failure> {
    let terms = asked.terms(kind, || app.replica_count(&path.bucket))?;
    call.level = terms.level.map_or("default", level_label);
    Ok(Terms {
        level: terms.level,
        sloppy: terms.sloppy,
        deadline: call.started + terms.timeout,
        request_id: call.request_id.clone(),
    })
}

/// A few texts only: they become labels of metrics.
fn level_label(level: Level) -> &'static str {
    match level {
        Level::Any => "any",
        Level::One => "one",
        Level::Two => "two",
        Level::Three => "three",
        Level::Quorum => "quorum",
        Level::All => "all",
        Level::Count(_) => "count",
    }
}
