//! Building blocks of answers: the body, and header values.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::{Body, Frame, SizeHint};
use serde::Serialize;
use time::{Month, OffsetDateTime, Weekday};

use crate::node::operation::{Acks, EtagSet};

/// An answer of the API.
pub type Answer = http::Response<Payload>;

/// An answer's body: pieces that are sent one after the other without being copied together. Its
/// length is always known.
#[derive(Debug, Default)]
pub struct Payload {
    first: Bytes,
    rest: VecDeque<Bytes>,
}

impl Payload {
    /// Several pieces.
    pub fn pieces(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let mut rest: VecDeque<Bytes> =
            pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Self { first: rest.pop_front().unwrap_or_default(), rest }
    }

    /// Bytes left to send.
    pub fn len(&self) -> u64 {
        let rest: usize = self.rest.iter().map(Bytes::len).sum();
        (self.first.len() + rest) as u64
    }

    /// Whether nothing is left to send.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.rest.is_empty()
    }
}

impl<B: Into<Bytes>> From<B> for Payload {
    fn from(bytes: B) -> Self {
        Self { first: bytes.into(), rest: VecDeque::new() }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.first.has_remaining() {
            return Poll::Ready(None);
        }
        let next = self.rest.pop_front().unwrap_or_default();
        Poll::Ready(Some(Ok(Frame::data(std::mem::replace(&mut self.first, next)))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len())
    }
}

/// 200 with a JSON body.
pub fn json(body: &impl Serialize) -> Answer {
    let bytes = serde_json::to_vec(body).expect("views have string keys only");
    with_type(HeaderValue::from_static("application/json"), bytes)
}

/// 200 with a body of some type.
pub fn with_type(content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut answer = Answer::new(Payload::from(body));
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// Turns the answer of a GET into that of a HEAD: status and headers stay, with the length that
/// the body has; 300 says neither length nor type, because its form was never made.
pub fn strip_for_head(answer: &mut Answer) {
    let len = std::mem::take(answer.body_mut()).len();
    match answer.status() {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => {}
        StatusCode::MULTIPLE_CHOICES => {
            answer.headers_mut().remove(CONTENT_TYPE);
        }
        _ => {
            answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(len));
        }
    }
}

/// Every answer about a key carries these.
pub fn protect(headers: &mut HeaderMap) {
    use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, VARY, X_CONTENT_TYPE_OPTIONS};
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A stored value must not run as a page of the store's own origin.
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
}

/// A text that the node made: tokens, names, numbers. All of them are plain ASCII.
pub fn text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("what the node names is plain ASCII")
}

/// A text that is formatted first.
pub fn formatted(args: std::fmt::Arguments<'_>) -> HeaderValue {
    let mut out = String::with_capacity(40);
    out.write_fmt(args).expect("a String takes everything");
    HeaderValue::from_maybe_shared(Bytes::from(out)).expect("what the node names is plain ASCII")
}

/// `Starling-Acks`.
pub fn acks(acks: Acks) -> HeaderValue {
    formatted(format_args!("{}/{}/{}", acks.got, acks.required, acks.n))
}

/// A strong ETag; `form` is empty for a single value.
pub fn etag(set: EtagSet, form: &str) -> HeaderValue {
    formatted(format_args!("\"{set}{form}\""))
}

/// The last second of the year 9999, in milliseconds since 1970: later moments have no text.
const LAST_MS: u64 = 253_402_300_799_999;

/// A moment; `None` where it has no text in either form.
fn moment(wall_ms: u64) -> Option<OffsetDateTime> {
    let nanos = i128::from(wall_ms.min(LAST_MS)) * 1_000_000;
    (wall_ms <= LAST_MS).then(|| OffsetDateTime::from_unix_timestamp_nanos(nanos).ok())?
}

/// `Last-Modified`: an IMF-fixdate (RFC 9110, section 5.6.7).
pub fn http_date(wall_ms: u64) -> Option<HeaderValue> {
    let at = moment(wall_ms)?;
    let day = match at.weekday() {
        Weekday::Monday => "Mon",
        Weekday::Tuesday => "Tue",
        Weekday::Wednesday => "Wed",
        Weekday::Thursday => "Thu",
        Weekday::Friday => "Fri",
        Weekday::Saturday => "Sat",
        Weekday::Sunday => "Sun",
    };
    let (date, month, year) = (at.day(), month_name(at.month()), at.year());
    let (hour, minute, second) = at.to_hms();
    Some(formatted(format_args!(
        "{day}, {date:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT"
    )))
}

fn month_name(month: Month) -> &'static str {
    match month {
        Month::January => "Jan",
        Month::February => "Feb",
        Month::March => "Mar",
        Month::April => "Apr",
        Month::May => "May",
        Month::June => "Jun",
        Month::July => "Jul",
        Month::August => "Aug",
        Month::September => "Sep",
        Month::October => "Oct",
        Month::November => "Nov",
        Month::December => "Dec",
    }
}

/// An RFC 3339 text with milliseconds, as JSON shows moments. Those beyond the year 9999 are shown
/// as its end.
pub fn rfc3339(wall_ms: u64) -> String {
    let at = moment(wall_ms.min(LAST_MS)).expect("not beyond the year 9999");
    let (hour, minute, second, milli) = at.to_hms_milli();
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_both_forms() {
        let ms = 784_111_777_042;
        assert_eq!(http_date(ms).expect("in range"), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(rfc3339(ms), "1994-11-06T08:49:37.042Z");
        assert_eq!(http_date(u64::MAX), None);
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn pieces_are_sent_in_order_and_counted() {
        let pieces = ["ab", "", "c"].map(Bytes::from);
        let mut payload = Payload::pieces(pieces);
        assert_eq!(payload.len(), 3);
        let mut sent = Vec::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut payload).poll_frame(&mut cx) {
            sent.extend_from_slice(&frame.into_data().expect("only data"));
        }
        assert_eq!(sent, b"abc");
        assert!(payload.is_end_stream());
    }
}
