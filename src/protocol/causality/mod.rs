//! Which write has seen which: dots, contexts, records, and how replicas join them.
//!
//! What holds here, and is checked by the properties in `tests`:
//! - Every version of a [`Record`] has a [`Dot`] of its own, and the record's [`Context`] contains
//!   that dot.
//! - [`Record::merge`] is commutative, associative and idempotent, and a version disappears in it
//!   only where the other side has seen that version's dot and no longer holds it.
//! - [`Record::update`] removes exactly the versions that the write has seen.
//! - Equal states have equal bytes: contexts and records have one canonical encoding, so digests
//!   and "is a write needed?" compare bytes.
//!
//! No clock is read and no random number drawn; actors, floors and stamps are handed in.
//!
//! Sources: Preguiça, Baquero, Almeida et al., *Dotted Version Vectors* (2012); Almeida et al.,
//! *Scalable and Accurate Causality Tracking for Eventually Consistent Stores* (2014, sections 4
//! and 5: update and sync on sets of dots); Almeida, Shoker, Baquero, *Delta State Replicated Data
//! Types* (2018, section 7.2: causal contexts); Kulkarni et al., *Logical Physical Clocks* (2014,
//! section 3). Retired actors and the floor close what Riak's kv679 showed: a vnode that lost
//! history must not count on from what it remembers.

mod codec;
mod content;
mod context;
mod cover;
mod dot;
mod hlc;
mod record;
mod shown;
mod summary;
mod survivors;
mod token;
mod version;
mod wire;

#[cfg(test)]
mod tests;

pub use codec::{DecodeError, FORMAT};
pub use content::{Content, Text, Value};
pub use context::Context;
pub use cover::{token_cover_after_write, token_cover_for_get, token_cover_for_version};
pub use dot::{Dot, DotError, MAX_COUNTER};
pub use hlc::{Drift, Hlc, MAX_DRIFT_MS};
pub use record::Record;
pub use shown::{Resolve, Shown};
pub use summary::Summary;
pub use survivors::{Entry, Merge, Survivors};
pub use token::{ContextToken, MAX_TOKEN_CHARS, TokenError, TokenKey};
pub use version::{Version, VersionHead};
pub use wire::Malformed;
