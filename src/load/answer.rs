//! As much of an HTTP/1.1 answer as a load generator needs.

use std::io;
use std::ops::Range;

/// More headers than any answer of a node has.
const MAX_HEADERS: usize = 48;

/// Where in a connection's buffer the parts of an answer are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub status: u16,
    pub context: Range<usize>,
    pub error: Range<usize>,
    pub body: Range<usize>,
    /// The server ends the connection after it.
    pub is_last: bool,
}

/// An answer, in the buffer of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The status.
    pub status: u16,
    /// The value, or what takes its place.
    pub body: &'a [u8],
    /// The token that stands for what was read; empty where there is none.
    pub context: &'a [u8],
    /// The code of an error; empty where there is none.
    pub error: &'a [u8],
}

impl Layout {
    /// Reads the head; none as long as it has not arrived.
    ///
    /// # Errors
    /// What is no answer of HTTP/1.1, or one whose body's length the head does not tell.
    pub fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(malformed(&error.to_string())),
        };
        let status = response.code.unwrap_or_default();
        let mut layout = Self { status, ..Self::default() };
        let mut body_bytes = matches!(status, 204 | 304).then_some(0);
        for header in response.headers.iter() {
            let name = header.name;
            if name.eq_ignore_ascii_case("content-length") {
                body_bytes = Some(number(header.value)?);
            } else if name.eq_ignore_ascii_case("starling-context") {
                layout.context = place_of(header.value, bytes);
            } else if name.eq_ignore_ascii_case("starling-error") {
                layout.error = place_of(header.value, bytes);
            } else if name.eq_ignore_ascii_case("connection") {
                layout.is_last = header.value.eq_ignore_ascii_case(b"close");
            }
        }
        let body_bytes = body_bytes.ok_or_else(|| malformed("it has no Content-Length"))?;
        let end = length.checked_add(body_bytes).ok_or_else(|| malformed("its body has no end"))?;
        layout.body = length..end;
        Ok(Some(layout))
    }

    /// The answer in the buffer that this was read from.
    pub fn of<'a>(&self, bytes: &'a [u8]) -> Answer<'a> {
        Answer {
            status: self.status,
            body: &bytes[self.body.clone()],
            context: &bytes[self.context.clone()],
            error: &bytes[self.error.clone()],
        }
    }
}

/// Where in the buffer a slice of it is.
fn place_of(slice: &[u8], buffer: &[u8]) -> Range<usize> {
    let start = slice.as_ptr().addr() - buffer.as_ptr().addr();
    start..start + slice.len()
}

fn number(digits: &[u8]) -> io::Result<usize> {
    let parsed = std::str::from_utf8(digits).ok().and_then(|text| text.trim().parse().ok());
    parsed.ok_or_else(|| malformed("its Content-Length is no number"))
}

fn malformed(why: &str) -> io::Error {
    let text = format!("the answer is not what the generator can read: {why}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::Layout;

    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\
        STARLING-ERROR: unavailable\r\nstarling-context: abc\r\nconnection: close\r\n\r\nbody and more";

    #[test]
    fn an_answer_is_read_as_soon_as_its_head_is_there() {
        let head = ANSWER.len() - b"body and more".len();
        for length in 0..head {
            let parsed = Layout::parse(&ANSWER[..length]).expect("a beginning");
            assert!(parsed.is_none(), "{length} bytes");
        }
        let layout = Layout::parse(ANSWER).expect("an answer").expect("its head");
        let answer = layout.of(ANSWER);
        assert_eq!((answer.status, answer.body), (503, b"body".as_slice()));
        assert_eq!((answer.error, answer.context), (b"unavailable".as_slice(), b"abc".as_slice()));
        assert!(layout.is_last);
    }

    #[test]
    fn an_answer_without_an_end_is_none() {
        Layout::parse(b"HTTP/1.1 200 OK\r\n\r\n").expect_err("no length");
        Layout::parse(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").expect_err("no number");
        let endless = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", usize::MAX);
        Layout::parse(endless.as_bytes()).expect_err("too long");
        Layout::parse(b"SSH-2.0-OpenSSH\r\n\r\n").expect_err("another protocol");
        let empty = Layout::parse(b"HTTP/1.1 204 No Content\r\n\r\n").expect("an answer");
        assert_eq!(empty.expect("whole").body, 27..27);
    }
}
