//! Identities: random or counted numbers that must never be mixed up with one another.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $int:ty, $width:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($int);

        impl $name {
            /// Takes a number that the caller drew from the node's seeded generator.
            pub const fn new(raw: $int) -> Self {
                Self(raw)
            }

            /// The raw number, for encoding.
            pub const fn get(self) -> $int {
                self.0
            }

            /// Parses what `Display` prints: lower-case hex of the full width.
            pub fn parse_hex(text: &str) -> Option<Self> {
                let lower_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
                if text.len() != $width || !text.bytes().all(lower_hex) {
                    return None;
                }
                <$int>::from_str_radix(text, 16).ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $width, "x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

random_id! {
    /// One uninterrupted history of a vnode; mints the dots of its writes. Drawn anew whenever that
    /// history may be incomplete.
    ActorId, u64, 16
}
random_id! {
    /// Names the contents of one data directory; made once, with the directory. A node whose disk
    /// was lost comes back under another one.
    DataIncarnation, u128, 32
}
random_id! {
    /// A cluster: the hash of what its founding nodes agreed on.
    ClusterId, u128, 32
}
random_id! {
    /// One client operation inside the cluster; drawn by the coordinator, never by a client.
    OperationId, u128, 32
}

macro_rules! counted_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize,
            Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a number that was counted elsewhere.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The next one.
            pub const fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("2^64 steps are never counted"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counted_id! {
    /// The version of the cluster state. Zero: no state yet.
    Epoch
}
counted_id! {
    /// The version of the ring's tables.
    LayoutVersion
}
counted_id! {
    /// How often the cluster was recovered by force; orders before the epoch.
    RecoveryNumber
}
counted_id! {
    /// How often a data directory was started; fsynced at each start and told to the peers.
    BootNumber
}
counted_id! {
    /// How often records of a vnode were purged: what was read under a lower number than a replica
    /// has is refused there.
    PurgeNumber
}

/// What names a client's request in logs and answers; for tracing only.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(Box<str>);

/// Why a text is no [`RequestId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request id is 1 to 128 of A-Z a-z 0-9 . _ -")]
pub struct RequestIdError;

impl RequestId {
    /// Checks a client's request id.
    ///
    /// # Errors
    /// [`RequestIdError`] unless it is 1 to 128 of `A-Z a-z 0-9 . _ -`.
    pub fn parse(text: &str) -> Result<Self, RequestIdError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let good = (1..=128).contains(&text.len()) && text.bytes().all(allowed);
        good.then(|| Self(text.into())).ok_or(RequestIdError)
    }

    /// A fresh one from a random number.
    pub fn from_random(raw: u128) -> Self {
        Self(format!("{raw:032x}").into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_of_an_id_parses_back_and_nothing_shorter_does() {
        let actor = ActorId::new(0xab);
        assert_eq!(actor.to_string(), "00000000000000ab");
        assert_eq!(ActorId::parse_hex(&actor.to_string()), Some(actor));
        assert_eq!(ActorId::parse_hex("ab"), None);
        assert_eq!(ActorId::parse_hex("+0000000000000ab"), None);
    }

    #[test]
    fn request_ids_are_checked() {
        assert!(RequestId::parse("a.B_9-").is_ok());
        for bad in ["", "a b", "ä", &"x".repeat(129)] {
            assert_eq!(RequestId::parse(bad), Err(RequestIdError), "{bad:?}");
        }
    }
}
