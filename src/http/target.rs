//! Keys in request targets. The key is the raw rest of the path, percent-decoded once: nothing is
//! normalised, so `//`, `.`, `..` and `%2F` all mean themselves, and `+` is a plus.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::error::{Code, Failure};
use crate::types::{Bucket, Key, KeyPath};

/// How the key is written in the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyForm {
    /// Percent-encoded bytes.
    Raw,
    /// Base64url, with or without padding.
    Base64,
}

const BASE64: GeneralPurpose = URL_SAFE_NO_PAD;

/// Reads bucket and key from what follows `/v1/kv/`.
///
/// # Errors
/// `invalid-bucket`, `invalid-key`.
pub fn key_path(rest: &str, form: KeyForm) -> Result<KeyPath, Failure> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    Ok(KeyPath { bucket: self::bucket(bucket)?, key: self::key(key, form)? })
}

/// Reads a bucket's name from its segment of the path.
///
/// # Errors
/// `invalid-bucket`.
pub fn bucket(segment: &str) -> Result<Bucket, Failure> {
    let invalid = |detail: String| Failure::new(Code::InvalidBucket, detail);
    let decoded = percent_decode(segment.as_bytes()).ok_or_else(|| invalid(bad_escape()))?;
    let name = std::str::from_utf8(&decoded).unwrap_or_default();
    Bucket::new(name).map_err(|error| invalid(error.to_string()))
}

fn key(encoded: &str, form: KeyForm) -> Result<Key, Failure> {
    let invalid = |detail: String| Failure::new(Code::InvalidKey, detail);
    let decoded = percent_decode(encoded.as_bytes()).ok_or_else(|| invalid(bad_escape()))?;
    let bytes = match form {
        KeyForm::Raw => decoded.into_owned(),
        KeyForm::Base64 => base64url_decode(&decoded).ok_or_else(|| {
            invalid("the key is no base64url; use A-Z a-z 0-9 - _ and nothing else".into())
        })?,
    };
    Key::new(bytes).map_err(|error| invalid(error.to_string()))
}

fn bad_escape() -> String {
    "a % is not followed by two hex digits; write a percent sign itself as %25".into()
}

/// Padding is taken where it is right, bits left over are not: one key has one text.
fn base64url_decode(text: &[u8]) -> Option<Vec<u8>> {
    let unpadded = match text {
        [head @ .., b'=', b'='] | [head @ .., b'='] if text.len().is_multiple_of(4) => head,
        _ => text,
    };
    BASE64.decode(unpadded).ok()
}

/// Decodes `%XX` once. `None`: a `%` without two hex digits.
pub fn percent_decode(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    if memchr::memchr(b'%', text).is_none() {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut left = text;
    while let Some(at) = memchr::memchr(b'%', left) {
        let [high, low] = *left.get(at + 1..at + 3)? else { return None };
        out.extend_from_slice(&left[..at]);
        out.push(hex_digit(high)? << 4 | hex_digit(low)?);
        left = &left[at + 3..];
    }
    out.extend_from_slice(left);
    Some(Cow::Owned(out))
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(rest: &str, form: KeyForm) -> Code {
        key_path(rest, form).expect_err(rest).code()
    }

    #[test]
    fn a_key_is_the_raw_rest_of_the_path_decoded_once() {
        for (rest, want) in [
            ("b/k", &b"k"[..]),
            ("b//", b"/"),
            ("b/a//b/../.", b"a//b/../."),
            ("b/%2F%2f", b"//"),
            ("b/%00%FF", b"\0\xff"),
            ("b/a+b%20c", b"a+b c"),
            ("b/%2541", b"%41"),
            ("b/..", b".."),
        ] {
            let path = key_path(rest, KeyForm::Raw).expect(rest);
            assert_eq!(path.key.as_bytes(), want, "{rest}");
        }
        assert_eq!(key_path("my%2Db/k", KeyForm::Raw).expect("valid").bucket.as_str(), "my-b");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for rest in ["b", "b/", "b/%", "b/%z", "b/%zz", "b/%2", "b/a%+1"] {
            assert_eq!(code(rest, KeyForm::Raw), Code::InvalidKey, "{rest}");
        }
        assert_eq!(code(&format!("b/{}", "x".repeat(2_049)), KeyForm::Raw), Code::InvalidKey);
        for rest in ["", "/k", ".b/k", "b%2Fc/k", "%zz/k", "%FF/k", "a b/k"] {
            assert_eq!(code(rest, KeyForm::Raw), Code::InvalidBucket, "{rest}");
        }
    }

    #[test]
    fn base64url_keys_have_one_text() {
        for good in ["b/_w", "b/_w==", "b/_w%3D%3D"] {
            let path = key_path(good, KeyForm::Base64).expect(good);
            assert_eq!(path.key.as_bytes(), b"\xff", "{good}");
        }
        for bad in ["b/", "b/_x", "b//w", "b/+w", "b/_w=", "b/_", "b/=", "b/a/b"] {
            assert_eq!(code(bad, KeyForm::Base64), Code::InvalidKey, "{bad}");
        }
    }
}
