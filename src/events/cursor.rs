//! Opaque tokens that name a place in the journal.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// First byte of a token, so that another form can come later.
const VERSION: u8 = 1;
const LENGTH: usize = 1 + 8 + 8 + 4;

/// The place after one event of one journal.
///
/// The text is base64url of: version, epoch of the journal, sequence, and a CRC-32 of these, all big endian.
/// Clients must not parse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Which journal.
    pub epoch: u64,
    /// The event before the place; 0 before the first.
    pub sequence: i64,
}

/// Why a text is no cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a cursor of an event stream; use one that the stream gave, unchanged")]
pub struct CursorError(String);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend(self.epoch.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let bad = || CursorError(text.chars().take(64).collect());
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
        if bytes.len() != LENGTH || bytes[0] != VERSION {
            return Err(bad());
        }
        let (body, crc) = bytes.split_at(LENGTH - 4);
        if crc != crc32fast::hash(body).to_be_bytes() {
            return Err(bad());
        }
        let number = |range: std::ops::Range<usize>| {
            body[range].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let sequence = i64::try_from(number(9..17)).map_err(|_| bad())?;
        Ok(Self { epoch: number(1..9), sequence })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_and_back(epoch: u64, sequence in 0..i64::MAX) {
            let cursor = Cursor { epoch, sequence };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn no_text_is_taken_for_another_place(epoch: u64, sequence in 0..i64::MAX, at in 0_usize..28, to in "[A-Za-z0-9_-]") {
            let cursor = Cursor { epoch, sequence };
            let mut text = cursor.to_string();
            text.replace_range(at..at + 1, &to);
            prop_assert!(text.parse::<Cursor>().map_or(true, |read| read == cursor));
        }

        #[test]
        fn garbage_is_an_error(text in ".{0,80}") {
            let _ = text.parse::<Cursor>();
        }
    }

    #[test]
    fn the_format_does_not_change() {
        let cursor = Cursor { epoch: 0x0123_4567_89ab_cdef, sequence: 42 };
        assert_eq!(cursor.to_string(), "AQEjRWeJq83vAAAAAAAAACpTRNCS");
    }
}
