//! As much of an HTTP/1.1 answer as a load generator needs: its status and its end.

use std::io;

use memchr::{memchr_iter, memmem};

/// What a connection's buffer begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Its length in bytes, the body included.
    pub length: usize,
}

/// Reads the head; none as long as it has not arrived.
///
/// # Errors
/// What is no answer of HTTP/1.1, or one whose body's length the head does not tell.
pub fn parse(bytes: &[u8]) -> io::Result<Option<Answer>> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = &bytes[..end];
    let status = head.strip_prefix(b"HTTP/1.1 ").and_then(|rest| number(rest.get(..3)?));
    let status = status.and_then(|status| u16::try_from(status).ok()).ok_or_else(malformed)?;
    let body = match status {
        204 | 304 => 0,
        _ => content_length(head).ok_or_else(malformed)?,
    };
    Ok(Some(Answer { status, length: end + 4 + body }))
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let mut lines = memchr_iter(b'\n', head).map(|newline| &head[newline + 1..]);
    let line = lines
        .find(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))?;
    let value = &line[NAME.len()..];
    let value = value.split(|byte| *byte == b'\r').next()?;
    number(value.trim_ascii())
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the answer is not what the generator can read")
}
