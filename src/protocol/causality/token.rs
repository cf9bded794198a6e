//! Context tokens: a context, sealed for one key, in the hands of a client.
//!
//! A token is the base64url, without padding, of: the version (1 byte), the canonical bytes of the
//! context, and 16 bytes of a keyed BLAKE3 over the key's path and all that stands before.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::context::Context;
use super::wire::Malformed;
use crate::types::{ClusterId, KeyPath};

#[cfg(test)]
mod tests;

/// The longest token, in characters.
pub const MAX_TOKEN_CHARS: usize = 8 * 1024;

/// The shortest token, in characters, as the API promises. The empty context makes 24.
const MIN_TOKEN_CHARS: usize = 16;

/// The largest context that a token can hold, in canonical bytes.
pub(super) const MAX_CONTEXT_BYTES: usize = MAX_TOKEN_CHARS / 4 * 3 - 1 - TAG_BYTES;

const VERSION: u8 = 1;
const TAG_BYTES: usize = 16;

/// What the tags of a cluster's tokens are made with.
#[derive(Clone)]
pub struct TokenKey([u8; blake3::KEY_LEN]);

/// Why a text is not a token for this key. The client reads again to get one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Shorter than 16 or longer than 8,192 characters.
    #[error("a context has {MIN_TOKEN_CHARS} to {MAX_TOKEN_CHARS} characters, not {0}")]
    Length(usize),
    /// Not base64url without padding.
    #[error("the context is not base64url")]
    Base64,
    /// Made by another release.
    #[error("the context has version {0}, which this node does not know")]
    Version(u8),
    /// Altered, or made by another cluster, or for another key.
    #[error("the context was not made by this cluster for this key")]
    Tag,
    /// Its tag is right and what it holds is not a context.
    #[error("the context is malformed: {0}")]
    Malformed(#[from] Malformed),
}

impl TokenKey {
    /// From `cluster.secret`: tokens can't be forged by who does not know it.
    pub fn from_secret(secret: &[u8]) -> Self {
        Self(blake3::derive_key("starling 2026 context tokens from cluster.secret", secret))
    }

    /// From the cluster's id, where there is no secret. The id is no secret: this guards against
    /// accidents, not against attackers.
    pub fn from_cluster_id(cluster: ClusterId) -> Self {
        let id = cluster.get().to_be_bytes();
        Self(blake3::derive_key("starling 2026 context tokens from the cluster id", &id))
    }

    fn tag(&self, path: &KeyPath, payload: &[u8]) -> [u8; TAG_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        let path = path.to_bytes();
        // The length keeps the end of a key and the start of a payload apart.
        hasher.update(&(path.len() as u64).to_be_bytes()).update(&path).update(payload);
        let mut tag = [0; TAG_BYTES];
        hasher.finalize_xof().fill(&mut tag);
        tag
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

/// Makes and opens context tokens.
#[derive(Clone, Copy, Debug)]
pub struct ContextToken;

impl ContextToken {
    /// Seals a context for the readers and writers of one key: 24 to [`MAX_TOKEN_CHARS`]
    /// characters.
    ///
    /// The covers of this module always fit. Of any other context, what does not fit is left out,
    /// whole actors at a time: the token then covers less, which may leave siblings standing and
    /// never removes one unseen.
    pub fn seal(context: &Context, path: &KeyPath, key: &TokenKey) -> String {
        if context.encoded_len() > MAX_CONTEXT_BYTES {
            let fitting = context.clone().fitted(MAX_CONTEXT_BYTES, std::iter::empty());
            return seal_bytes(&fitting.to_bytes(), path, key);
        }
        seal_bytes(&context.to_bytes(), path, key)
    }

    /// Opens a token that was sealed for this key.
    ///
    /// # Errors
    /// [`TokenError`] for anything that [`ContextToken::seal`] never returned for this path and
    /// this key.
    pub fn open(text: &str, path: &KeyPath, key: &TokenKey) -> Result<Context, TokenError> {
        if !(MIN_TOKEN_CHARS..=MAX_TOKEN_CHARS).contains(&text.len()) {
            return Err(TokenError::Length(text.len()));
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Base64)?;
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&other) => return Err(TokenError::Version(other)),
            None => return Err(TokenError::Base64),
        }
        let (payload, tag) = bytes.split_last_chunk().ok_or(TokenError::Tag)?;
        if !same_tag(&key.tag(path, payload), tag) {
            return Err(TokenError::Tag);
        }
        let context = payload.get(1..).ok_or(Malformed::Truncated)?;
        Ok(Context::from_bytes(context)?)
    }
}

fn seal_bytes(context: &[u8], path: &KeyPath, key: &TokenKey) -> String {
    let mut bytes = Vec::with_capacity(1 + context.len() + TAG_BYTES);
    bytes.push(VERSION);
    bytes.extend_from_slice(context);
    let tag = key.tag(path, &bytes);
    bytes.extend_from_slice(&tag);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Compares in a time that does not depend on where the tags differ: by BLAKE3's own comparison,
/// which takes 32 bytes.
fn same_tag(expected: &[u8; TAG_BYTES], given: &[u8; TAG_BYTES]) -> bool {
    let widened = |tag: &[u8; TAG_BYTES]| {
        let mut wide = [0; blake3::OUT_LEN];
        wide[..TAG_BYTES].copy_from_slice(tag);
        blake3::Hash::from_bytes(wide)
    };
    widened(expected) == widened(given)
}
