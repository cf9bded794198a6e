//! Values as they were written, and how each kind of setting is read from them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::error::Origin;
use super::settings::{LogFormat, ReadRepair, Secret};
use crate::peer::PeerAddress;
use crate::protocol::causality::Resolve;
use crate::storage::Durability;
use crate::types::{Level, NodeId, PartitionCount, ReplicationFactor, Weight, Zone};

/// A value before it is known what it should be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Text in quotes.
    Text(String),
    /// Text from a variable or a flag: may stand for a number or a truth value as well.
    Word(String),
    /// A whole number.
    Integer(i64),
    /// A number with a point.
    Float(f64),
    /// `true` or `false`.
    Boolean(bool),
    /// Something that no setting takes, such as a date.
    Other(String),
    /// Several.
    List(Vec<Sourced>),
    /// A table.
    Table(Table),
}

/// Names and their values.
pub(super) type Table = BTreeMap<String, Sourced>;

/// A value and where it was said.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sourced {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Word(text) => write!(f, "{text:?}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number}"),
            Self::Boolean(truth) => write!(f, "{truth}"),
            Self::Other(text) => f.write_str(text),
            Self::List(_) => f.write_str("a list"),
            Self::Table(_) => f.write_str("a table"),
        }
    }
}

impl Value {
    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Word(text) => Some(text),
            _ => None,
        }
    }

    fn as_integer(&self) -> Option<u64> {
        match self {
            Self::Integer(number) => (*number).try_into().ok(),
            Self::Word(word) => word.trim().parse().ok(),
            _ => None,
        }
    }
}

/// A setting that can be read from a [`Value`].
pub(super) trait FromValue: Sized {
    /// What would be right, as the end of a sentence: "must be ...".
    const EXPECTED: &'static str;

    /// Whether the value must not be shown in an error.
    const IS_SECRET: bool = false;

    /// Reads it; `None` for anything but what [`FromValue::EXPECTED`] says.
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! from_text {
    ($($type:ty: $expected:literal),* $(,)?) => {$(
        impl FromValue for $type {
            const EXPECTED: &'static str = $expected;

            fn from_value(value: &Value) -> Option<Self> {
                value.as_text()?.parse().ok()
            }
        }
    )*};
}

from_text! {
    NodeId: "must be a text of 1 to 128 of A-Z a-z 0-9 . _ -, the first a letter or digit",
    Zone: "must be a text of 1 to 128 of A-Z a-z 0-9 . _ -, the first a letter or digit",
    SocketAddr: "must be a text \"ADDRESS:PORT\" with an IP address, such as \"127.0.0.1:7070\"",
    PeerAddress: "must be a text \"HOST:PORT\" with a name or IP address, such as \"node-1:7071\"",
}

impl FromValue for String {
    const EXPECTED: &'static str = "must be a text";

    fn from_value(value: &Value) -> Option<Self> {
        value.as_text().map(str::to_owned)
    }
}

impl FromValue for Secret {
    const EXPECTED: &'static str = "must be a text of 16 bytes or more";
    const IS_SECRET: bool = true;

    fn from_value(value: &Value) -> Option<Self> {
        value.as_text().filter(|text| text.len() >= 16).map(|text| Self::new(text.into()))
    }
}

impl FromValue for PathBuf {
    const EXPECTED: &'static str = "must be a path";

    fn from_value(value: &Value) -> Option<Self> {
        value.as_text().filter(|path| !path.is_empty()).map(Self::from)
    }
}

impl FromValue for bool {
    const EXPECTED: &'static str = "must be true or false";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Boolean(truth) => Some(*truth),
            Value::Word(word) => word.parse().ok(),
            _ => None,
        }
    }
}

/// How many of something: at least one.
pub(super) struct Count(pub(super) usize);

impl FromValue for Count {
    const EXPECTED: &'static str = "must be a whole number from 1 up";

    fn from_value(value: &Value) -> Option<Self> {
        let count = value.as_integer().filter(|count| (1..=1 << 32).contains(count))?;
        usize::try_from(count).ok().map(Self)
    }
}

/// A number of bytes.
pub(super) struct Size(pub(super) u64);

impl FromValue for Size {
    const EXPECTED: &'static str =
        "must be a number of bytes, or a text such as \"8MiB\" (B, KiB, MiB, GiB, TiB)";

    fn from_value(value: &Value) -> Option<Self> {
        if let Some(bytes) = value.as_integer() {
            return Some(Self(bytes));
        }
        let (digits, unit) = number_and_unit(value.as_text()?)?;
        let factor = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return None,
        };
        digits.checked_mul(factor).filter(|bytes| *bytes <= i64::MAX as u64).map(Self)
    }
}

impl FromValue for Duration {
    const EXPECTED: &'static str =
        "must be a text with a unit, such as \"500ms\", \"10s\" or \"5m\", more than 0";

    fn from_value(value: &Value) -> Option<Self> {
        let (number, unit) = number_and_unit(value.as_text()?)?;
        let factor_ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        // A year is more than any of these can mean, and far from overflowing anything.
        let ms = number.checked_mul(factor_ms)?;
        (1..=365 * 24 * 3_600_000).contains(&ms).then(|| Self::from_millis(ms))
    }
}

/// Splits `10s` or `8 MiB`.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

impl FromValue for PartitionCount {
    const EXPECTED: &'static str = "must be a power of two from 64 to 65536";

    fn from_value(value: &Value) -> Option<Self> {
        let count = value.as_integer().filter(|count| *count >= 64)?;
        Self::new(count.try_into().ok()?).ok()
    }
}

impl FromValue for ReplicationFactor {
    const EXPECTED: &'static str = "must be a whole number from 1 to 16";

    fn from_value(value: &Value) -> Option<Self> {
        Self::new(value.as_integer()?.try_into().ok()?).ok()
    }
}

impl FromValue for Weight {
    const EXPECTED: &'static str = "must be a number from 0 (a gateway without data) to 1000";

    fn from_value(value: &Value) -> Option<Self> {
        let number = match value {
            Value::Float(number) => *number,
            Value::Word(word) => word.parse().ok()?,
            integer => integer.as_integer()? as f64,
        };
        Self::new(number).ok()
    }
}

impl FromValue for Level {
    const EXPECTED: &'static str =
        "must be one, two, three, quorum, all, for `w` also any, or a number of replicas";

    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Integer(count) = value {
            return Self::parse_count(&count.to_string()).ok();
        }
        let text = value.as_text()?;
        Self::parse_name(text).or_else(|_| Self::parse_count(text)).ok()
    }
}

macro_rules! from_name {
    ($($type:ty { $($name:literal => $value:expr),* $(,)? } $expected:literal),* $(,)?) => {$(
        impl FromValue for $type {
            const EXPECTED: &'static str = $expected;

            fn from_value(value: &Value) -> Option<Self> {
                match value.as_text()? {
                    $($name => Some($value),)*
                    _ => None,
                }
            }
        }
    )*};
}

from_name! {
    Durability {
        "sync" => Self::Sync, "interval" => Self::Interval, "os" => Self::Os,
    } "must be \"sync\", \"interval\" or \"os\"",
    ReadRepair {
        "blocking" => Self::Blocking, "async" => Self::Async, "off" => Self::Off,
    } "must be \"blocking\", \"async\" or \"off\"",
    LogFormat {
        "text" => Self::Text, "json" => Self::Json,
    } "must be \"text\" or \"json\"",
    Resolve {
        "siblings" => Self::Siblings, "lww" => Self::Lww,
    } "must be \"siblings\" or \"lww\"",
}
