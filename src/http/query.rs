//! Query strings. Names and values are percent-decoded once; `+` is a plus, as it is in keys.

use std::borrow::Cow;

use super::error::{Code, Failure};
use super::target::percent_decode;

/// The pairs of a query, in their order; empty ones are skipped. A name without `=` has an empty
/// value.
pub fn pairs<'a>(
    query: Option<&'a str>,
) -> impl Iterator<Item = Result<(Cow<'a, str>, Cow<'a, str>), Failure>> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(name)?, decode(value)?))
    })
}

fn decode(text: &str) -> Result<Cow<'_, str>, Failure> {
    let undecodable = || {
        Failure::new(
            Code::InvalidParameter,
            "the query is not percent-encoded UTF-8; write a percent sign itself as %25",
        )
    };
    match percent_decode(text.as_bytes()).ok_or_else(undecodable)? {
        // Nothing was decoded, so it is still the text that it was.
        Cow::Borrowed(_) => Ok(Cow::Borrowed(text)),
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| undecodable()),
    }
}

/// The error for a parameter that a call does not take.
pub fn unknown(name: &str, takes: &str) -> Failure {
    let name = name.escape_debug();
    Failure::new(Code::InvalidParameter, format!("there is no parameter {name} here; {takes}"))
}

/// Keeps a value; the same name may come again with the same value only.
///
/// # Errors
/// `invalid-parameter`.
pub fn keep<'a>(
    slot: &mut Option<Cow<'a, str>>,
    name: &str,
    value: Cow<'a, str>,
) -> Result<(), Failure> {
    match slot {
        Some(before) if *before != value => Err(Failure::new(
            Code::InvalidParameter,
            format!("{name} is asked for twice, with different values; send it once"),
        )),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

/// Checks that there is no parameter at all.
///
/// # Errors
/// `invalid-parameter`.
pub fn none(query: Option<&str>) -> Result<(), Failure> {
    match pairs(query).next() {
        None => Ok(()),
        Some(pair) => Err(unknown(&pair?.0, "this call takes none")),
    }
}

/// The value of the one parameter that a call takes.
///
/// # Errors
/// `invalid-parameter`.
pub fn only<'a>(query: Option<&'a str>, name: &str) -> Result<Option<Cow<'a, str>>, Failure> {
    let mut found = None;
    for pair in pairs(query) {
        let (got, value) = pair?;
        if got != name {
            return Err(unknown(&got, &format!("this call takes {name}")));
        }
        keep(&mut found, name, value)?;
    }
    Ok(found)
}
