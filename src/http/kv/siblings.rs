//! The two forms of 300: JSON, and `multipart/mixed` (RFC 2046, section 5.1).

use std::collections::BTreeMap;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue};
use memchr::memmem;
use serde::Serialize;

use super::get::DEFAULT_TYPE;
use crate::http::answer::{self, Answer, Payload};
use crate::protocol::causality::{Value, Version};
use crate::types::RequestId;

/// How siblings are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One object; values in base64.
    Json,
    /// One part a sibling; values raw.
    Multipart,
}

/// Chooses the form by `Accept` (RFC 9110, section 12.5.1): the one with the greater weight, JSON
/// where they are equal. `None`: neither is acceptable. Elements that are no media range are
/// passed over.
pub fn negotiate(headers: &HeaderMap) -> Option<Form> {
    let mut ranges = Vec::new();
    for line in headers.get_all(ACCEPT) {
        ranges.extend(line.to_str().unwrap_or_default().split(',').filter_map(Range::parse));
    }
    if ranges.is_empty() {
        return Some(Form::Json);
    }
    let json = weight(&ranges, ("application", "json"));
    let multipart = weight(&ranges, ("multipart", "mixed"));
    match (json, multipart) {
        (0, 0) => None,
        (json, multipart) if json >= multipart => Some(Form::Json),
        _ => Some(Form::Multipart),
    }
}

struct Range<'a> {
    main: &'a str,
    sub: &'a str,
    thousandths: u16,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut pieces = text.split(';').map(str::trim);
        let (main, sub) = pieces.next()?.split_once('/')?;
        let mut thousandths = 1_000;
        for parameter in pieces {
            if let Some(("q" | "Q", weight)) = parameter.split_once('=') {
                thousandths = parse_weight(weight)?;
            }
        }
        Some(Self { main, sub, thousandths })
    }

    /// How closely it names a type: 2 is exactly, 0 is `*/*`.
    fn precision(&self, (main, sub): (&str, &str)) -> Option<u8> {
        let main_fits = self.main.eq_ignore_ascii_case(main);
        match (self.main, self.sub) {
            ("*", "*") => Some(0),
            (_, "*") if main_fits => Some(1),
            _ if main_fits && self.sub.eq_ignore_ascii_case(sub) => Some(2),
            _ => None,
        }
    }
}

/// `0`, `1`, with up to three decimals; in thousandths.
fn parse_weight(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let decimals = format!("{decimals:0<3}").parse::<u16>().ok()?;
    match whole {
        "0" => Some(decimals),
        "1" if decimals == 0 => Some(1_000),
        _ => None,
    }
}

/// The weight of the range that names a type most closely; 0: not acceptable.
fn weight(ranges: &[Range<'_>], media_type: (&str, &str)) -> u16 {
    let fitting = ranges.iter().filter_map(|range| {
        range.precision(media_type).map(|precision| (precision, range.thousandths))
    });
    fitting.max().map_or(0, |(_, thousandths)| thousandths)
}

#[derive(Serialize)]
struct Document<'a> {
    context: &'a str,
    siblings: Vec<Sibling<'a>>,
}

#[derive(Serialize)]
struct Sibling<'a> {
    version: String,
    deleted: bool,
    content_type: Option<&'a str>,
    content_encoding: Option<&'a str>,
    meta: BTreeMap<&'a str, &'a str>,
    modified: String,
    value: Option<String>,
}

impl<'a> Sibling<'a> {
    fn new(version: &'a Version) -> Self {
        let value = version.value();
        let meta = value.map(|value| &value.meta[..]).unwrap_or_default();
        Self {
            version: version.dot().to_string(),
            deleted: value.is_none(),
            content_type: value.map(type_of),
            content_encoding: value.and_then(|value| value.content_encoding.as_deref()),
            meta: meta.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            modified: answer::rfc3339(version.stamp().wall_ms()),
            value: value.map(|value| STANDARD.encode(&value.body)),
        }
    }
}

fn type_of(value: &Value) -> &str {
    value.content_type.as_deref().unwrap_or(DEFAULT_TYPE)
}

/// The JSON form; the status is left to the caller.
pub fn as_json(versions: &[Version], context: &str) -> Answer {
    answer::json(&Document { context, siblings: versions.iter().map(Sibling::new).collect() })
}

/// The multipart form; the status is left to the caller. `draw` gives random names, of which the
/// first that occurs in no value becomes the boundary: nobody who writes values can foresee it.
pub fn as_multipart(versions: &[Version], draw: impl Fn() -> RequestId) -> Answer {
    let boundary = loop {
        let random = draw();
        let drawn = random.as_str();
        // A boundary has at most 70 characters.
        let candidate = format!("starling-{}", &drawn[..drawn.len().min(60)]);
        let finder = memmem::Finder::new(&candidate);
        let bodies = versions.iter().filter_map(Version::value);
        if bodies.into_iter().all(|value| finder.find(&value.body).is_none()) {
            break candidate;
        }
    };
    let mut pieces = Vec::with_capacity(2 * versions.len() + 1);
    for (index, version) in versions.iter().enumerate() {
        let line_end = if index == 0 { "" } else { "\r\n" };
        pieces.push(Bytes::from(format!("{line_end}--{boundary}\r\n{}\r\n", part_head(version))));
        pieces.extend(version.value().map(|value| value.body.clone()));
    }
    pieces.push(Bytes::from(format!("\r\n--{boundary}--\r\n")));
    let content_type = answer::formatted(format_args!("multipart/mixed; boundary=\"{boundary}\""));
    let mut answer = Answer::new(Payload::pieces(pieces));
    answer.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
    answer
}

fn part_head(version: &Version) -> String {
    let mut head = String::with_capacity(160);
    let mut line = |name: &str, value: &str| {
        // Values that came in through the API hold no line ends; nothing else may add lines here.
        if HeaderValue::from_str(value).is_ok() {
            write!(head, "{name}: {value}\r\n").expect("a String takes everything");
        }
    };
    line("Content-Type", version.value().map_or(DEFAULT_TYPE, type_of));
    line("Starling-Version", &version.dot().to_string());
    if let Some(date) = answer::http_date(version.stamp().wall_ms()) {
        line("Last-Modified", date.to_str().unwrap_or_default());
    }
    match version.value() {
        None => line("Starling-Deleted", "true"),
        Some(value) => {
            if let Some(encoding) = &value.content_encoding {
                line("Content-Encoding", encoding);
            }
            for (name, value) in &value.meta {
                line(&format!("Starling-Meta-{name}"), value);
            }
        }
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(accept: &'static str) -> Option<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        negotiate(&headers)
    }

    #[test]
    fn the_form_follows_the_weights() {
        assert_eq!(negotiate(&HeaderMap::new()), Some(Form::Json));
        for accept in [
            "",
            "*/*",
            "application/json",
            "application/*",
            "multipart/mixed, application/json",
            "multipart/mixed;q=0.5, */*",
            "APPLICATION/JSON",
            "multipart/mixed;q=0, */*;q=0.1",
            "text/html, application/json;q=0.001",
            "not a range",
        ] {
            assert_eq!(form(accept), Some(Form::Json), "{accept}");
        }
        for accept in [
            "multipart/mixed",
            "multipart/*",
            "multipart/mixed, application/json;q=0.9",
            "application/json;q=0, */*",
            "*/*;q=0.1, multipart/mixed;q=0.2",
            "Multipart/Mixed",
            "multipart/mixed; boundary=x; q=1.000, */*; q=0.1",
        ] {
            assert_eq!(form(accept), Some(Form::Multipart), "{accept}");
        }
        for accept in ["text/plain", "*/*;q=0", "application/json;q=0", "image/*, text/*;q=0.5"] {
            assert_eq!(form(accept), None, "{accept}");
        }
    }
}
