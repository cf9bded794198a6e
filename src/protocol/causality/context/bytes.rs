//! Contexts as bytes.
//!
//! The canonical bytes: the number of actors; for each its id (8 bytes, big-endian), its entry in
//! the vector doubled, plus one if single dots follow: then the number of their runs less one, and
//! for each run its distance from what lies below and its length, both less what they have at
//! least. All numbers but the ids are varints.

use bytes::Bytes;
use smallvec::SmallVec;

use super::super::dot::{Dot, MAX_COUNTER};
use super::super::wire::{Malformed, Reader, put_varint, varint_len};
use super::{Context, Run};
use crate::types::ActorId;

impl Context {
    /// The canonical bytes: equal contexts, and only those, have equal ones.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.encoded_len());
        self.encode_into(&mut out);
        out.into()
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// [`Malformed`] for bytes that [`Context::to_bytes`] never returns.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let context = Self::decode_from(&mut reader)?;
        reader.finish()?;
        Ok(context)
    }

    pub(in crate::protocol::causality) fn encode_into(&self, out: &mut Vec<u8>) {
        put_varint(out, self.actors().count() as u64);
        for runs in self.groups() {
            encode_group(runs, out);
        }
    }

    pub(in crate::protocol::causality) fn encoded_len(&self) -> usize {
        varint_len(self.actors().count() as u64) + self.groups().map(group_len).sum::<usize>()
    }

    pub(in crate::protocol::causality) fn decode_from(
        reader: &mut Reader<'_>,
    ) -> Result<Self, Malformed> {
        let mut runs = SmallVec::new();
        let mut previous = None;
        for _ in 0..reader.count(MIN_GROUP_BYTES)? {
            let actor = ActorId::new(reader.u64()?);
            if previous.replace(actor) >= Some(actor) {
                return Err(Malformed::NotCanonical);
            }
            decode_group(actor, reader, &mut runs)?;
        }
        Ok(Self { runs })
    }
}

/// An actor's id and an entry.
const MIN_GROUP_BYTES: usize = 8 + 1;

/// An actor's entry in the vector (0: it has none) and its runs of single dots.
fn entry_and_singles(runs: &[Run]) -> (u64, &[Run]) {
    match runs {
        [Run { first: 1, last, .. }, singles @ ..] => (*last, singles),
        singles => (0, singles),
    }
}

fn encode_group(runs: &[Run], out: &mut Vec<u8>) {
    let (entry, singles) = entry_and_singles(runs);
    out.extend_from_slice(&runs[0].actor.get().to_be_bytes());
    put_varint(out, entry << 1 | u64::from(!singles.is_empty()));
    if singles.is_empty() {
        return;
    }
    put_varint(out, singles.len() as u64 - 1);
    let mut below = entry;
    for run in singles {
        put_varint(out, run.first - below - 2);
        put_varint(out, run.last - run.first);
        below = run.last;
    }
}

fn group_len(runs: &[Run]) -> usize {
    let (entry, singles) = entry_and_singles(runs);
    let mut below = entry;
    let mut len = 8 + varint_len(entry << 1);
    if !singles.is_empty() {
        len += varint_len(singles.len() as u64 - 1);
    }
    for run in singles {
        len += varint_len(run.first - below - 2) + varint_len(run.last - run.first);
        below = run.last;
    }
    len
}

fn decode_group(
    actor: ActorId,
    reader: &mut Reader<'_>,
    runs: &mut SmallVec<[Run; 3]>,
) -> Result<(), Malformed> {
    let entry_and_flag = reader.varint()?;
    let (entry, has_singles) = (entry_and_flag >> 1, entry_and_flag & 1 == 1);
    match entry {
        0 if !has_singles => return Err(Malformed::NotCanonical),
        0 => {}
        1..=MAX_COUNTER => runs.push(Run { actor, first: 1, last: entry }),
        _ => return Err(Malformed::Counter),
    }
    if !has_singles {
        return Ok(());
    }
    let mut below = entry;
    for _ in 0..=reader.count(2)? {
        // `below` is at most MAX_COUNTER, so only what was read can overflow.
        let first = (below + 2).checked_add(reader.varint()?).ok_or(Malformed::Counter)?;
        let last = first.checked_add(reader.varint()?).filter(|last| *last <= MAX_COUNTER);
        below = last.ok_or(Malformed::Counter)?;
        runs.push(Run { actor, first, last: below });
    }
    Ok(())
}

impl Context {
    /// The part of this context that fits into so many bytes; itself, if all of it does.
    ///
    /// The dots that must stay go first, in order, as far as they fit; then, actor by actor, what
    /// else does. A context that says less was seen is always safe: a write with it may leave
    /// versions standing that it could have replaced, and never removes one unseen.
    pub(in crate::protocol::causality) fn fitted(
        self,
        max_bytes: usize,
        must_stay: impl Iterator<Item = Dot>,
    ) -> Self {
        if self.encoded_len() <= max_bytes {
            return self;
        }
        let mut fitting = Self::new();
        for dot in must_stay.filter(|dot| self.contains(*dot)) {
            fitting.insert(dot);
            if fitting.encoded_len() > max_bytes {
                fitting.remove(dot);
                break;
            }
        }
        // The number of actors takes up to 10 bytes and is the only length that groups share.
        let mut room = max_bytes.saturating_sub(fitting.encoded_len() + 10);
        let mut chosen = fitting.clone();
        for runs in self.groups() {
            let actor = runs[0].actor;
            let present =
                fitting.groups().find(|group| group[0].actor == actor).map_or(0, group_len);
            let more = group_len(runs).saturating_sub(present);
            if more <= room {
                room -= more;
                runs.iter().for_each(|run| {
                    chosen.add(*run);
                });
            }
        }
        chosen
    }
}

impl TryFrom<Bytes> for Context {
    type Error = Malformed;

    fn try_from(bytes: Bytes) -> Result<Self, Malformed> {
        Self::from_bytes(&bytes)
    }
}

impl From<Context> for Bytes {
    fn from(context: Context) -> Self {
        context.to_bytes()
    }
}
