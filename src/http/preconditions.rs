//! `If-Match` and `If-None-Match` (RFC 9110, section 13.1). An entity tag is `"<set>"`, with `.j`
//! or `.m` behind the set for the two forms of siblings; writes compare by `<set>` alone.

use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName};

use super::error::{Code, Failure};
use crate::node::operation::{Condition, EtagSet};

/// One entity tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag<'a> {
    /// Whether it is marked as weak.
    pub weak: bool,
    /// What stands between the quotes.
    pub opaque: &'a [u8],
}

/// The value of one of the two headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags<'a> {
    /// `*`.
    Anything,
    /// A list.
    These(Vec<Tag<'a>>),
}

impl Tag<'_> {
    /// The set of versions that it names; `None` where it is none of ours.
    fn set(&self) -> Option<EtagSet> {
        let text = std::str::from_utf8(self.opaque).ok()?;
        let hex = text.strip_suffix(".j").or(text.strip_suffix(".m")).unwrap_or(text);
        let ours = hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        ours.then(|| u128::from_str_radix(hex, 16).ok())?.map(EtagSet)
    }
}

impl Tags<'_> {
    /// Weak comparison with one tag, as `If-None-Match` wants it. `tag` is with its quotes.
    pub fn match_weakly(&self, tag: &[u8]) -> bool {
        let opaque = tag.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        match self {
            Self::Anything => true,
            Self::These(tags) => tags.iter().any(|t| Some(t.opaque) == opaque),
        }
    }

    /// Strong comparison with one tag, as `If-Match` wants it. `tag` is strong, with its quotes.
    pub fn match_strongly(&self, tag: &[u8]) -> bool {
        let opaque = tag.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        match self {
            Self::Anything => true,
            Self::These(tags) => tags.iter().any(|t| !t.weak && Some(t.opaque) == opaque),
        }
    }
}

/// The conditions of a write.
///
/// # Errors
/// `invalid-request` for what is no list of entity tags.
pub fn of_write(headers: &HeaderMap) -> Result<Vec<Condition>, Failure> {
    let if_match = read(headers, IF_MATCH)?.map(|tags| match tags {
        Tags::Anything => Condition::SomethingLive,
        Tags::These(tags) => {
            let strong = tags.iter().filter(|tag| !tag.weak);
            Condition::SetIsOneOf(strong.filter_map(Tag::set).collect())
        }
    });
    let if_none_match = read(headers, IF_NONE_MATCH)?.map(|tags| match tags {
        Tags::Anything => Condition::NothingLive,
        Tags::These(tags) => Condition::SetIsNoneOf(tags.iter().filter_map(Tag::set).collect()),
    });
    Ok(if_match.into_iter().chain(if_none_match).collect())
}

/// The conditions of a read: `If-Match`, `If-None-Match`.
///
/// # Errors
/// `invalid-request` for what is no list of entity tags.
pub fn of_read(headers: &HeaderMap) -> Result<(Option<Tags<'_>>, Option<Tags<'_>>), Failure> {
    Ok((read(headers, IF_MATCH)?, read(headers, IF_NONE_MATCH)?))
}

fn read(headers: &HeaderMap, name: HeaderName) -> Result<Option<Tags<'_>>, Failure> {
    let malformed = || {
        let detail = format!("{name} is * or a list of entity tags in double quotes");
        Failure::new(Code::InvalidRequest, detail)
    };
    let mut lines = headers.get_all(&name).iter().peekable();
    if lines.peek().is_none() {
        return Ok(None);
    }
    let mut tags = Vec::new();
    let mut anything = false;
    for line in lines {
        if line.as_bytes().trim_ascii() == b"*" {
            anything = true;
        } else {
            parse_list(line.as_bytes(), &mut tags).ok_or_else(malformed)?;
        }
    }
    match (anything, tags.is_empty()) {
        (true, true) => Ok(Some(Tags::Anything)),
        (false, false) => Ok(Some(Tags::These(tags))),
        _ => Err(malformed()),
    }
}

/// Appends the tags of one line; `None` where it is malformed. Empty elements are allowed (RFC
/// 9110, section 5.6.1.2).
fn parse_list<'a>(line: &'a [u8], tags: &mut Vec<Tag<'a>>) -> Option<()> {
    let mut rest = line.trim_ascii();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(b",") {
            rest = after.trim_ascii_start();
            continue;
        }
        let (weak, quoted) = match rest.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let inner = quoted.strip_prefix(b"\"")?;
        let end = memchr::memchr(b'"', inner)?;
        let opaque = &inner[..end];
        if !opaque.iter().all(|b| matches!(b, 0x21 | 0x23..=0x7e | 0x80..)) {
            return None;
        }
        tags.push(Tag { weak, opaque });
        rest = inner[end + 1..].trim_ascii_start();
        if !rest.is_empty() && !rest.starts_with(b",") {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn conditions(name: HeaderName, lines: &[&'static str]) -> Result<Vec<Condition>, Failure> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name.clone(), HeaderValue::from_static(line));
        }
        of_write(&headers)
    }

    /// Three sets, and the line that names them.
    const SETS: &str = "\"00000000000000000000000000000001\", \
        \"00000000000000000000000000000002.j\",,\"00000000000000000000000000000003.m\"";
    const WEAK: &str = "W/\"00000000000000000000000000000001\", \"foreign\"";

    #[test]
    fn writes_compare_sets_and_weak_tags_never_match() {
        let sets = [1, 2, 3].map(EtagSet).to_vec();
        assert_eq!(conditions(IF_MATCH, &[SETS]).expect("valid"), [Condition::SetIsOneOf(sets)]);
        let weak = conditions(IF_MATCH, &[WEAK]).expect("valid");
        assert_eq!(weak, [Condition::SetIsOneOf(vec![])]);
        assert_eq!(conditions(IF_MATCH, &[" * "]).expect("valid"), [Condition::SomethingLive]);
        assert_eq!(conditions(IF_NONE_MATCH, &["*"]).expect("valid"), [Condition::NothingLive]);
        let weak = conditions(IF_NONE_MATCH, &[WEAK]).expect("valid");
        assert_eq!(weak, [Condition::SetIsNoneOf(vec![EtagSet(1)])]);
        let lines = conditions(IF_MATCH, &[SETS, "\"foreign\""]).expect("valid");
        assert_eq!(lines, [Condition::SetIsOneOf([1, 2, 3].map(EtagSet).to_vec())]);
    }

    #[test]
    fn malformed_lists_are_refused() {
        for bad in ["", ",", "abc", "\"abc", "*, \"a\"", "\"a\" \"b\"", "w/\"a\"", "\"a b\"", "**"]
        {
            let failure = conditions(IF_MATCH, &[bad]).expect_err(bad);
            assert_eq!(failure.code(), Code::InvalidRequest, "{bad:?}");
        }
        assert!(conditions(IF_MATCH, &["*", "\"a\""]).is_err());
    }

    #[test]
    fn reads_compare_whole_tags() {
        let mut headers = HeaderMap::new();
        headers.insert(IF_NONE_MATCH, HeaderValue::from_static("W/\"x.j\", \"y\""));
        let (_, tags) = of_read(&headers).expect("valid");
        let tags = tags.expect("there");
        assert!(tags.match_weakly(b"\"x.j\"") && !tags.match_strongly(b"\"x.j\""));
        assert!(tags.match_weakly(b"\"y\"") && tags.match_strongly(b"\"y\""));
        assert!(!tags.match_weakly(b"\"x\""));
    }
}
