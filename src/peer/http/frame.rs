//! What is spoken on a connection after the upgrade: frames.
//!
//! ```text
//! length u32 | kind u8 | correlation u64 | checksum u32 | payload of `length` bytes
//! ```
//! All numbers are big-endian. The checksum is the low half of xxh3 over the head's other fields,
//! xored with that of xxh3 over the payload: two hashes rather than one, so that the payload is
//! hashed where it is queued and the head, with its number, where it is written.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a frame before its payload.
pub(super) const HEAD_BYTES: usize = 17;
/// Bytes of the head that the checksum covers: all but itself.
const CHECKED_HEAD_BYTES: usize = 13;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// Wants an answer with the same correlation number.
    Request,
    Answer,
    /// Wants none; its correlation number means nothing.
    OneWay,
    /// Answered by the transport itself, so that a slow handler does not look like a dead process.
    Ping,
    Pong,
}

impl FrameKind {
    const fn byte(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Answer => 2,
            Self::OneWay => 3,
            Self::Ping => 4,
            Self::Pong => 5,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Request),
            2 => Some(Self::Answer),
            3 => Some(Self::OneWay),
            4 => Some(Self::Ping),
            5 => Some(Self::Pong),
            _ => None,
        }
    }
}

/// Why bytes are no frame. The connection is of no use after it: where the next frame begins is
/// unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {0} bytes is larger than allowed")]
    TooLarge(u32),
    #[error("no frame has the kind {0}")]
    UnknownKind(u8),
    #[error("a frame's checksum is wrong")]
    Checksum,
    #[error("a frame of a kind that this side never gets")]
    WrongDirection,
}

/// One message on its way, with its payload's share of the checksum.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) kind: FrameKind,
    pub(super) correlation: u64,
    pub(super) payload: Bytes,
    payload_hash: u64,
}

impl Frame {
    /// A frame to send. Hashes the payload, so call it outside of any lock.
    pub(super) fn new(kind: FrameKind, correlation: u64, payload: Bytes) -> Self {
        let payload_hash = xxh3_64(&payload);
        Self { kind, correlation, payload, payload_hash }
    }

    /// Bytes on the wire.
    pub(super) fn wire_bytes(&self) -> usize {
        HEAD_BYTES + self.payload.len()
    }

    /// Appends the head.
    pub(super) fn put_head(&self, buffer: &mut BytesMut) {
        let start = buffer.len();
        let length = u32::try_from(self.payload.len()).expect("queues refuse larger payloads");
        buffer.put_u32(length);
        buffer.put_u8(self.kind.byte());
        buffer.put_u64(self.correlation);
        let head_hash = xxh3_64(&buffer[start..]);
        buffer.put_u32(checksum(head_hash, self.payload_hash));
    }
}

fn checksum(head_hash: u64, payload_hash: u64) -> u32 {
    let [.., a, b, c, d] = (head_hash ^ payload_hash).to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// What the front of a buffer holds.
#[derive(Debug)]
pub(super) enum Parsed {
    Frame(Frame),
    /// Not a whole frame yet; its size on the wire, as far as it is known.
    Partial(usize),
}

/// Takes the first frame off a buffer, without copying the payload.
///
/// # Errors
/// [`FrameError`] as soon as the head shows it, so that no memory is set aside for a wrong length.
pub(super) fn parse(buffer: &mut BytesMut, max_payload: usize) -> Result<Parsed, FrameError> {
    if buffer.len() < HEAD_BYTES {
        return Ok(Parsed::Partial(HEAD_BYTES));
    }
    let mut head = &buffer[..HEAD_BYTES];
    let (length, kind, correlation) = (head.get_u32(), head.get_u8(), head.get_u64());
    let expected = head.get_u32();
    let kind = FrameKind::from_byte(kind).ok_or(FrameError::UnknownKind(kind))?;
    let size = usize::try_from(length).ok().filter(|size| *size <= max_payload);
    let size = HEAD_BYTES + size.ok_or(FrameError::TooLarge(length))?;
    if buffer.len() < size {
        return Ok(Parsed::Partial(size));
    }
    let mut whole = buffer.split_to(size);
    let head_hash = xxh3_64(&whole[..CHECKED_HEAD_BYTES]);
    whole.advance(HEAD_BYTES);
    let frame = Frame::new(kind, correlation, whole.freeze());
    if checksum(head_hash, frame.payload_hash) != expected {
        return Err(FrameError::Checksum);
    }
    Ok(Parsed::Frame(frame))
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{Frame, FrameError, FrameKind, HEAD_BYTES, Parsed, parse};

    const KINDS: [FrameKind; 5] = [
        FrameKind::Request,
        FrameKind::Answer,
        FrameKind::OneWay,
        FrameKind::Ping,
        FrameKind::Pong,
    ];

    fn encoded(frame: &Frame) -> BytesMut {
        let mut buffer = BytesMut::new();
        frame.put_head(&mut buffer);
        buffer.extend_from_slice(&frame.payload);
        buffer
    }

    proptest! {
        #[test]
        fn a_frame_survives_the_wire(kind in 0..KINDS.len(), number: u64, payload: Vec<u8>) {
            let sent = Frame::new(KINDS[kind], number, payload.into());
            let mut buffer = encoded(&sent);
            buffer.extend_from_slice(b"next");
            let Parsed::Frame(got) = parse(&mut buffer, 1 << 20).expect("valid") else {
                panic!("partial");
            };
            prop_assert_eq!((got.kind, got.correlation), (sent.kind, sent.correlation));
            prop_assert_eq!(got.payload, sent.payload);
            prop_assert_eq!(&buffer[..], b"next");
        }

        #[test]
        fn a_part_of_a_frame_is_no_frame(payload: Vec<u8>, cut in any::<usize>()) {
            let mut buffer = encoded(&Frame::new(FrameKind::Answer, 7, payload.into()));
            buffer.truncate(cut % buffer.len());
            let before = buffer.clone();
            prop_assert!(matches!(parse(&mut buffer, 1 << 20), Ok(Parsed::Partial(_))));
            prop_assert_eq!(buffer, before);
        }

        #[test]
        fn a_flipped_bit_is_never_taken_for_a_frame(payload: Vec<u8>, bit in any::<usize>()) {
            let mut buffer = encoded(&Frame::new(FrameKind::Request, 7, payload.into()));
            let bit = bit % (buffer.len() * 8);
            buffer[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!matches!(parse(&mut buffer, 1 << 20), Ok(Parsed::Frame(_))));
        }

        #[test]
        fn any_bytes_parse_without_panic(bytes: Vec<u8>) {
            let _ = parse(&mut BytesMut::from(&bytes[..]), 1 << 20);
        }
    }

    #[test]
    fn a_length_above_the_limit_is_refused_by_the_head_alone() {
        let frame = Frame::new(FrameKind::Request, 1, Bytes::from(vec![0; 101]));
        let mut head = encoded(&frame).split_to(HEAD_BYTES);
        assert_eq!(parse(&mut head, 100).map(|_| ()), Err(FrameError::TooLarge(101)));
    }
}
