//! Reading and writing bytes: numbers in one form only, lengths checked before anything is taken.

/// Why bytes are not what an encoder here would have written. Trying again does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They end within something, or a length points beyond their end.
    #[error("the bytes end too early")]
    Truncated,
    /// Something follows the end.
    #[error("bytes are left over")]
    TrailingBytes,
    /// A number of more than 64 bits, or not in its shortest form.
    #[error("a number is too long")]
    Number,
    /// A counter of 0, or above [`super::MAX_COUNTER`].
    #[error("a counter is out of range")]
    Counter,
    /// Unsorted, repeated, or not folded: there is another form for the same thing.
    #[error("not in the canonical form")]
    NotCanonical,
    /// A kind of content that this format does not have.
    #[error("an unknown kind of content")]
    Kind,
    /// A content type, encoding or metadata that is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// More metadata than any client can send.
    #[error("too many metadata entries")]
    TooManyMeta,
    /// A version whose dot its record's context lacks.
    #[error("a version is not in its context")]
    UncoveredVersion,
    /// A version whose content has another checksum than it says.
    #[error("a version's checksum is not that of its content")]
    VersionChecksum,
}

/// Seven bits to a byte, the lowest first; the top bit says that more follow.
pub(super) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// How many bytes [`put_varint`] writes: 1 to 10.
pub(super) fn varint_len(number: u64) -> usize {
    let bits = 64 - (number | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Takes things off the front of some bytes.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Checks that nothing is left.
    pub(super) fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::TrailingBytes) }
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    /// A big-endian number of 8 bytes.
    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take(8)?.try_into().expect("8 bytes were taken");
        Ok(u64::from_be_bytes(bytes))
    }

    /// What [`put_varint`] wrote; no other form of the same number.
    pub(super) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(Malformed::Number);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                let shortest = byte != 0 || shift == 0;
                return if shortest { Ok(number) } else { Err(Malformed::Number) };
            }
        }
        Err(Malformed::Number)
    }

    /// A number of things that take at least so many bytes each: refused, before anything is set
    /// aside for them, where the bytes left cannot hold them.
    pub(super) fn count(&mut self, min_bytes_each: usize) -> Result<usize, Malformed> {
        let count = usize::try_from(self.varint()?).map_err(|_| Malformed::Truncated)?;
        match count.checked_mul(min_bytes_each) {
            Some(bytes) if bytes <= self.rest.len() => Ok(count),
            _ => Err(Malformed::Truncated),
        }
    }

    /// A length and so many bytes.
    pub(super) fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.count(1)?;
        self.take(len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back_and_their_length_is_known(number in any::<u64>(), shift in 0u32..64) {
            let number = number >> shift;
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            assert_eq!(bytes.len(), varint_len(number));
            assert_eq!(Reader::new(&bytes).varint(), Ok(number));
        }

        #[test]
        fn a_number_has_one_form(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(number) = reader.varint() {
                let mut again = Vec::new();
                put_varint(&mut again, number);
                assert_eq!(again, bytes[..bytes.len() - reader.rest.len()]);
            }
        }
    }

    #[test]
    fn counts_beyond_the_bytes_are_refused() {
        assert_eq!(Reader::new(&[3, 0, 0]).count(1), Err(Malformed::Truncated));
        assert_eq!(Reader::new(&[2, 0, 0]).count(1), Ok(2));
        assert_eq!(Reader::new(&[2, 0, 0]).count(usize::MAX), Err(Malformed::Truncated));
    }
}
