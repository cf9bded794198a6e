//! What a request for a key can ask for: as query parameters, or as `Starling-*` headers. The same
//! thing asked for twice with different values, and anything unknown, is refused.

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::error::{Code, Failure};
use super::headers::{META_PREFIX, PREFIX};
use super::query::{self, keep};
use crate::types::{Level, LevelError};

/// What a client waits for where it names no timeout.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest a client can ask to wait.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// What kind of request the parameters come with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// GET and HEAD.
    Read,
    /// PUT and DELETE.
    Write,
}

/// The texts of all that was asked for, not looked at yet.
#[derive(Debug, Default)]
pub struct Asked<'a> {
    consistency: Option<Cow<'a, str>>,
    r: Option<Cow<'a, str>>,
    w: Option<Cow<'a, str>>,
    timeout: Option<Cow<'a, str>>,
    sloppy: Option<Cow<'a, str>>,
    version: Option<Cow<'a, str>>,
    context: Option<&'a str>,
    meta: Vec<(&'a str, &'a str)>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// R or W, if it was named.
    pub level: Option<Level>,
    /// Whether fallbacks may stand in, if it was said.
    pub sloppy: Option<bool>,
    /// How long the client waits.
    pub timeout: Duration,
}

impl<'a> Asked<'a> {
    /// Collects the parameters of a request.
    ///
    /// # Errors
    /// `invalid-parameter`; `invalid-request` for header values that are not plain ASCII.
    pub fn collect(
        query: Option<&'a str>,
        headers: &'a HeaderMap,
        kind: Kind,
    ) -> Result<Self, Failure> {
        let mut asked = Self::default();
        for pair in query::pairs(query) {
            let (name, value) = pair?;
            asked.take(&name, value, kind)?;
        }
        for (name, value) in headers {
            if let Some(name) = name.as_str().strip_prefix(PREFIX) {
                asked.take_header(name, value)?;
            }
        }
        Ok(asked)
    }

    fn slot(&mut self, name: &str) -> Option<&mut Option<Cow<'a, str>>> {
        Some(match name {
            "consistency" => &mut self.consistency,
            "r" => &mut self.r,
            "w" => &mut self.w,
            "timeout" => &mut self.timeout,
            "sloppy" => &mut self.sloppy,
            _ => return None,
        })
    }

    fn take(&mut self, name: &str, value: Cow<'a, str>, kind: Kind) -> Result<(), Failure> {
        if name == "version" && kind == Kind::Read {
            return keep(&mut self.version, name, value);
        }
        let takes = match kind {
            Kind::Read => "reads take consistency, r, timeout, sloppy, version",
            Kind::Write => "writes take consistency, w, timeout, sloppy",
        };
        let slot = self.slot(name).ok_or_else(|| query::unknown(name, takes))?;
        keep(slot, name, value)
    }

    fn take_header(&mut self, name: &'a str, value: &'a HeaderValue) -> Result<(), Failure> {
        // Checked where it is used: an unusable one is replaced, never refused.
        if name == "request-id" {
            return Ok(());
        }
        let value = plain(name, value)?;
        if let Some(meta) = name.strip_prefix(META_PREFIX) {
            self.meta.push((meta, value));
            return Ok(());
        }
        if name == "context" {
            return self.take_context(value);
        }
        match self.slot(name) {
            Some(slot) => keep(slot, name, Cow::Borrowed(value)),
            None => Err(query::unknown(
                &format!("Starling-{name}"),
                "the headers to ask with are Starling-Consistency, -R, -W, -Timeout, -Sloppy, \
                 -Context, -Meta-<name>, -Request-Id",
            )),
        }
    }

    fn take_context(&mut self, value: &'a str) -> Result<(), Failure> {
        match self.context.replace(value) {
            Some(before) if before != value => Err(Failure::new(
                Code::InvalidParameter,
                "Starling-Context came twice, with different values; send one",
            )),
            _ => Ok(()),
        }
    }

    /// `?version=`.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// `Starling-Context`.
    pub fn context(&self) -> Option<&'a str> {
        self.context
    }

    /// `Starling-Meta-*`: what follows that in the name, and the value.
    pub fn meta(&self) -> &[(&'a str, &'a str)] {
        &self.meta
    }

    /// Reads the texts. `n` is asked for only where an error has to name it.
    ///
    /// # Errors
    /// `invalid-parameter`.
    pub fn terms(&self, kind: Kind, n: impl Fn() -> u8) -> Result<Terms, Failure> {
        Ok(Terms {
            level: self.level(kind, n)?,
            sloppy: self.sloppy.as_deref().map(parse_sloppy).transpose()?,
            timeout: self.timeout.as_deref().map_or(Ok(DEFAULT_TIMEOUT), parse_timeout)?,
        })
    }

    fn level(&self, kind: Kind, n: impl Fn() -> u8) -> Result<Option<Level>, Failure> {
        let wrong = |what: String| {
            let detail = format!("{what} (n is {} for this key)", n());
            Failure::new(Code::InvalidParameter, detail)
        };
        let (count, other, misplaced) = match kind {
            Kind::Read => (&self.r, &self.w, "w goes with writes; reads take r, from 1 to n"),
            Kind::Write => (&self.w, &self.r, "r goes with reads; writes take w, from 1 to n"),
        };
        if other.is_some() {
            return Err(wrong(misplaced.into()));
        }
        // Both are looked at, so that a wrong one is never passed over because the other wins.
        let named = self.consistency.as_deref().map(Level::parse_name).transpose();
        let named = named.map_err(|error| wrong(error.to_string()))?;
        if kind == Kind::Read && named == Some(Level::Any) {
            let error = LevelError::AnyOnRead(n());
            return Err(Failure::new(Code::InvalidParameter, error.to_string()));
        }
        let counted = count.as_deref().map(Level::parse_count).transpose();
        Ok(counted.map_err(|error| wrong(error.to_string()))?.or(named))
    }
}

/// A header's value as text.
///
/// # Errors
/// `invalid-request` where it is not plain ASCII.
pub fn plain<'a>(name: &str, value: &'a HeaderValue) -> Result<&'a str, Failure> {
    value.to_str().map_err(|_| {
        let detail = format!("the value of the header {name} is not plain ASCII; encode it");
        Failure::new(Code::InvalidRequest, detail)
    })
}

fn parse_sloppy(text: &str) -> Result<bool, Failure> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Failure::new(Code::InvalidParameter, "sloppy is true or false")),
    }
}

/// `[1-9][0-9]*(ms|s)`, at most [`MAX_TIMEOUT`].
///
/// # Errors
/// `invalid-parameter`.
pub fn parse_timeout(text: &str) -> Result<Duration, Failure> {
    let parsed = match text.strip_suffix("ms") {
        Some(digits) => parse_positive(digits).map(Duration::from_millis),
        None => text.strip_suffix('s').and_then(parse_positive).map(Duration::from_secs),
    };
    parsed.filter(|timeout| *timeout <= MAX_TIMEOUT).ok_or_else(|| {
        let detail = "timeout is a whole number from 1 with ms or s behind it, at most 60s";
        Failure::new(Code::InvalidParameter, detail)
    })
}

fn parse_positive(digits: &str) -> Option<u64> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    plain.then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(query: &str, kind: Kind) -> Result<Terms, Failure> {
        let headers = HeaderMap::new();
        Asked::collect(Some(query), &headers, kind)?.terms(kind, || 3)
    }

    #[test]
    fn timeouts_keep_to_their_grammar() {
        for (text, ms) in [("1ms", 1), ("5s", 5_000), ("60s", 60_000), ("60000ms", 60_000)] {
            assert_eq!(parse_timeout(text).expect(text), Duration::from_millis(ms));
        }
        for bad in [
            "",
            "s",
            "ms",
            "0s",
            "05s",
            "5",
            "5m",
            "+5s",
            "-5s",
            "5 s",
            "61s",
            "60001ms",
            "1.5s",
            "99999999999999999999s",
        ] {
            assert!(parse_timeout(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn counts_win_over_names_and_both_are_checked() {
        let two = Level::parse_count("2").expect("a number");
        assert_eq!(terms("r=2&consistency=all", Kind::Read).expect("valid").level, Some(two));
        assert_eq!(terms("", Kind::Read).expect("valid").level, None);
        assert_eq!(terms("consistency=any", Kind::Write).expect("valid").level, Some(Level::Any));
        for (query, kind) in [
            ("r=2&consistency=most", Kind::Read),
            ("consistency=any", Kind::Read),
            ("consistency=any&r=1", Kind::Read),
            ("w=1", Kind::Read),
            ("r=1", Kind::Write),
            ("r=0", Kind::Read),
        ] {
            let failure = terms(query, kind).expect_err(query);
            assert_eq!(failure.code(), Code::InvalidParameter);
            assert!(failure.detail().contains("n is 3"), "{query}: {}", failure.detail());
        }
    }

    #[test]
    fn the_same_twice_is_fine_and_a_contradiction_is_not() {
        assert!(terms("r=2&r=2&&timeout=1s", Kind::Read).is_ok());
        assert!(terms("%72=%32", Kind::Read).is_ok(), "names and values are decoded");
        for bad in ["r=2&r=1", "timeout=1s&timeout=1000ms", "R=1", "foo=1", "r", "r=%zz", "r=%FF"] {
            assert!(terms(bad, Kind::Read).is_err(), "{bad}");
        }
        assert!(terms("version=x", Kind::Write).is_err());
    }

    #[test]
    fn a_header_asks_like_a_parameter() {
        let mut headers = HeaderMap::new();
        headers.insert("starling-r", HeaderValue::from_static("2"));
        headers.insert("starling-sloppy", HeaderValue::from_static("true"));
        let asked = Asked::collect(Some("r=2"), &headers, Kind::Read).expect("the same twice");
        assert_eq!(asked.terms(Kind::Read, || 3).expect("valid").sloppy, Some(true));
        assert!(Asked::collect(Some("r=1"), &headers, Kind::Read).is_err());
        headers.insert("starling-consistancy", HeaderValue::from_static("all"));
        assert!(Asked::collect(None, &headers, Kind::Read).is_err());
    }
}
