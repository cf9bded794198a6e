//! Hash trees over the keys of a vnode, and finding where two of them differ (Dynamo, SOSP 2007,
//! section 4.7; Merkle, *A Digital Signature Based on a Conventional Encryption Function*, 1987).
//!
//! ```text
//! root ─ branches ─ leaves ─ (key, digest) lists ─ records
//! ```
//!
//! A leaf is the XOR over its keys of a hash of (key, digest), so that one record's change is one
//! XOR. Branches and the root are XORs over hashes of (place, child): a change costs the same
//! whatever the size of the vnode. All numbers are hashes of 64 bits; two vnodes that differ are
//! taken for equal with a probability of about 2^-64.

mod lists;
mod shape;
mod tree;

pub use lists::{Comparison, compare};
pub use shape::{LeafIndex, Shape};
pub use tree::{Tree, change_hash, differing, entry_hash};
