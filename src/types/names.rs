//! Names that people choose: nodes, zones, buckets.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a text is no valid name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {kind} is 1 to 128 of A-Z a-z 0-9 . _ -, the first a letter or digit")]
pub struct NameError {
    kind: &'static str,
}

fn check(kind: &'static str, text: &str) -> Result<(), NameError> {
    let tail = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let head = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    (head && text.len() <= 128 && text.bytes().all(tail)).then_some(()).ok_or(NameError { kind })
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// [`NameError`] unless it is 1 to 128 of `A-Z a-z 0-9 . _ -`, the first a letter or
            /// digit.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check($kind, text).map(|()| Self(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name! {
    /// A node's name, unique in its cluster.
    NodeId, "node id"
}
name! {
    /// Where a node stands: replicas of one partition are put into distinct zones as far as there
    /// are any.
    Zone, "zone"
}
name! {
    /// The namespace of a key. Needs not be created.
    Bucket, "bucket"
}

impl Default for Zone {
    /// The zone of a node that names none.
    fn default() -> Self {
        Self("default".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_their_alphabet() {
        for good in ["a", "9", "node-1", "a.b_c-D", &"x".repeat(128)] {
            assert_eq!(Bucket::new(good).map(String::from).as_deref(), Ok(good));
        }
        for bad in ["", ".a", "-a", "_a", "a b", "a/b", "ä", "a\0", &"x".repeat(129)] {
            assert!(Bucket::new(bad).is_err(), "{bad:?}");
        }
    }
}
