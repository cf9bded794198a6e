//! Tokens come back for their own key, and nothing else opens.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::collection::vec;
use proptest::prelude::{any, proptest};

use super::super::tests::dot;
use super::super::wire::put_varint;
use super::super::{Context, Malformed};
use super::{ContextToken, MAX_TOKEN_CHARS, TokenError, TokenKey, seal_bytes};
use crate::types::{Bucket, ClusterId, Key, KeyPath};

fn path(bucket: &str, key: &[u8]) -> KeyPath {
    let key = Key::new(key.to_vec()).expect("a key");
    KeyPath { bucket: Bucket::new(bucket).expect("a bucket"), key }
}

fn cluster_key(raw: u128) -> TokenKey {
    TokenKey::from_cluster_id(ClusterId::new(raw))
}

proptest! {
    #[test]
    fn what_was_sealed_opens(dots in vec((any::<u64>(), 1u64..1_000), 0..40)) {
        let context: Context = dots.into_iter().map(|(actor, n)| dot(actor, n)).collect();
        let (path, key) = (path("b", b"k"), cluster_key(1));
        let token = ContextToken::seal(&context, &path, &key);
        assert!((16..=MAX_TOKEN_CHARS).contains(&token.len()));
        assert_eq!(ContextToken::open(&token, &path, &key), Ok(context));
    }

    #[test]
    fn whatever_is_altered_is_refused(at in any::<proptest::sample::Index>(), new in any::<char>()) {
        let (path, key) = (path("b", b"k"), cluster_key(1));
        let context: Context = [dot(1, 3), dot(2, 1)].into_iter().collect();
        let token = ContextToken::seal(&context, &path, &key);
        let at = at.index(token.len());
        let altered: String =
            token.char_indices().map(|(i, old)| if i == at { new } else { old }).collect();
        if altered != token {
            assert!(ContextToken::open(&altered, &path, &key).is_err());
        }
    }

    #[test]
    fn garbage_is_refused(text in ".{0,64}") {
        assert!(ContextToken::open(&text, &path("b", b"k"), &cluster_key(1)).is_err());
    }
}

#[test]
fn having_seen_nothing_makes_a_token_too() {
    let (path, key) = (path("b", b"k"), cluster_key(1));
    let token = ContextToken::seal(&Context::empty(), &path, &key);
    assert_eq!(token.len(), 24);
    assert_eq!(ContextToken::open(&token, &path, &key), Ok(Context::empty()));
}

#[test]
fn a_token_is_for_one_cluster_bucket_and_key() {
    let context: Context = [dot(1, 3)].into_iter().collect();
    let token = ContextToken::seal(&context, &path("b", b"key"), &cluster_key(1));
    for other in [path("b", b"ke"), path("c", b"key"), path("b", b"key\0")] {
        assert_eq!(ContextToken::open(&token, &other, &cluster_key(1)), Err(TokenError::Tag));
    }
    for key in [cluster_key(2), TokenKey::from_secret(&1u128.to_be_bytes())] {
        assert_eq!(ContextToken::open(&token, &path("b", b"key"), &key), Err(TokenError::Tag));
    }
}

#[test]
fn versions_lengths_and_encodings_are_checked() {
    let open = |text: &str| ContextToken::open(text, &path("b", b"k"), &cluster_key(1));
    assert_eq!(open("AQAA"), Err(TokenError::Length(4)));
    assert_eq!(
        open(&"A".repeat(MAX_TOKEN_CHARS + 1)),
        Err(TokenError::Length(MAX_TOKEN_CHARS + 1))
    );
    assert_eq!(open(&URL_SAFE_NO_PAD.encode([2; 40])), Err(TokenError::Version(2)));
    assert_eq!(open(&URL_SAFE_NO_PAD.encode([1; 40])), Err(TokenError::Tag));
    assert_eq!(open(&URL_SAFE_NO_PAD.encode([1; 12])), Err(TokenError::Tag), "no room for a tag");
    assert_eq!(open("AQAAAAAAAAAAAAAAAAAAAA=="), Err(TokenError::Base64), "padded");
    assert_eq!(open("AQAAAAAAAAAAAAAAAAA+AA"), Err(TokenError::Base64), "not the URL alphabet");
    // The tag of a secret that leaked does not make anything else pass.
    let tagged = |context: &[u8]| open(&seal_bytes(context, &path("b", b"k"), &cluster_key(1)));
    assert_eq!(tagged(&[0, 0]), Err(TokenError::Malformed(Malformed::TrailingBytes)));
    let mut huge = vec![1, 0, 0, 0, 0, 0, 0, 0, 1];
    put_varint(&mut huge, 1 << 63);
    assert_eq!(tagged(&huge), Err(TokenError::Malformed(Malformed::Counter)));
}

#[test]
fn what_does_not_fit_is_left_out() {
    let (path, key) = (path("b", b"k"), cluster_key(1));
    let context: Context = (0..5_000).map(|actor| dot(actor, 9)).collect();
    let token = ContextToken::seal(&context, &path, &key);
    assert!(token.len() <= MAX_TOKEN_CHARS && token.len() > MAX_TOKEN_CHARS - 40);
    let opened = ContextToken::open(&token, &path, &key).expect("sealed here");
    assert!(context.covers(&opened) && opened.entries() > 500);
}
