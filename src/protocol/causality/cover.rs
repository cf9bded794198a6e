//! What a context token given to a client stands for.
//!
//! A token may name any superseded version, seen by this client or not: it is gone already, under
//! some write that had seen it, and naming it keeps the token small. What it must never name is a
//! surviving version that the client has not seen: the next write would remove it unseen.
//!
//! Every cover fits into a token. Where a context is too large for one, superseded versions are
//! left out first (a replica that still holds one shows it as a sibling until it has merged with
//! the others), then shown ones (which the next write then leaves standing).

use super::context::Context;
use super::dot::Dot;
use super::record::Record;
use super::survivors::{Entry, Survivors};
use super::token::MAX_CONTEXT_BYTES;
use super::version::Version;

#[cfg(test)]
mod tests;

/// For a GET that shows the whole record (in an `lww` bucket too: the next write removes the
/// losers): all of its context.
pub fn token_cover_for_get<E: Entry>(shown: &Survivors<E>) -> Context {
    shown.context().clone().fitted(MAX_CONTEXT_BYTES, shown.dots())
}

/// For a GET of one version: the context less the siblings that are not shown. Twins of that
/// version are one with it. `None` where it does not survive.
pub fn token_cover_for_version(record: &Record, shown: Dot) -> Option<Context> {
    let content = record.version(shown)?.content();
    let hidden = record.versions().iter().filter(|other| other.content() != content);
    let hidden = hidden.map(Version::dot);
    Some(less(record.context().clone(), hidden, std::iter::once(shown).chain(record.dots())))
}

/// For a PUT or DELETE: what is in the record after it, less the surviving versions that this
/// client has not seen. It has seen what its own token names, what its write replaced, and its
/// write.
///
/// The entry of an actor so ends just below the lowest of its surviving versions that is not seen.
/// Above that come the client's own dots, and with them whatever is superseded there: else the
/// cover of a client that goes on writing beside a sibling that it never reads would gain an entry
/// with every write.
pub fn token_cover_after_write<E: Entry>(
    record_after: &Survivors<E>,
    seen_by_client: &Context,
    replaced: &[Dot],
    own: Dot,
) -> Context {
    let mut seen = seen_by_client.clone();
    seen.extend(replaced.iter().copied());
    seen.insert(own);
    let mut cover = record_after.context().clone();
    cover.join(&seen);
    let unseen = record_after.dots().filter(|dot| !seen.contains(*dot));
    // Where a token has too little room, the own write is the last to go.
    let must_stay = std::iter::once(own).chain(record_after.dots());
    less(cover, unseen, must_stay)
}

fn less(
    mut cover: Context,
    hidden: impl Iterator<Item = Dot>,
    must_stay: impl Iterator<Item = Dot>,
) -> Context {
    for dot in hidden {
        cover.remove(dot);
    }
    cover.fitted(MAX_CONTEXT_BYTES, must_stay)
}
