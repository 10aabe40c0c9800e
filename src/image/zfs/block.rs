//! The blocks of a ZFS stream as they lie on the sender's disk: compressed, each by a method of its own.

use std::io::{Cursor, Read};

use flate2::read::ZlibDecoder;

use crate::image::fault::{Fault, FaultKind};

/// The largest block, and so the most that is unpacked at once.
pub(super) const MAX_BLOCK: usize = 16 << 20;

/// Unpacks a block to exactly `size` bytes. Bytes behind the compressed data are the sender's padding.
pub(super) fn unpack(method: u8, packed: &[u8], size: usize, at: u64) -> Result<Vec<u8>, Fault> {
    let damaged = |what: &str| Fault::at(FaultKind::BadCompressed, at, format!("a block is damaged: {what}"));
    let block = match method {
        0 | 2 => packed.get(..size).map(<[u8]>::to_vec).ok_or_else(|| damaged("it is too short"))?,
        3 => lzjb(packed, size).ok_or_else(|| damaged("lzjb"))?,
        5..=13 => read_exactly(ZlibDecoder::new(packed), size).ok_or_else(|| damaged("gzip"))?,
        14 => zle(packed, size).ok_or_else(|| damaged("zle"))?,
        15 => {
            let data = counted(packed, 4).ok_or_else(|| damaged("the length before its lz4 data"))?;
            let mut block = vec![0; size];
            let count = lz4_flex::block::decompress_into(data, &mut block).map_err(|_| damaged("lz4"))?;
            if count != size {
                return Err(damaged("its lz4 data fill only a part of it"));
            }
            block
        }
        16 => {
            let data = counted(packed, 8).ok_or_else(|| damaged("the length before its zstd data"))?;
            zstd_frame(data, size).ok_or_else(|| damaged("zstd"))?
        }
        other => {
            let what = format!("a block is compressed by method {other}, which nobody knows");
            return Err(Fault::at(FaultKind::Unsupported, at, what));
        }
    };
    Ok(block)
}

/// The data behind a header of `header` bytes that begins with their length, always big-endian.
fn counted(packed: &[u8], header: usize) -> Option<&[u8]> {
    let length = u32::from_be_bytes(packed.get(..4)?.try_into().ok()?);
    packed.get(header..)?.get(..usize::try_from(length).ok()?)
}

/// The frame lacks its magic number.
fn zstd_frame(data: &[u8], size: usize) -> Option<Vec<u8>> {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let frame = Cursor::new(MAGIC).chain(Cursor::new(data));
    let mut decoder = zstd::stream::read::Decoder::new(frame).ok()?.single_frame();
    decoder.window_log_max(24).ok()?;
    read_exactly(decoder, size)
}

/// Reads exactly `size` bytes; `None` if there are fewer or more.
fn read_exactly(mut decoder: impl Read, size: usize) -> Option<Vec<u8>> {
    let mut block = vec![0; size];
    decoder.read_exact(&mut block).ok()?;
    match decoder.read(&mut [0]) {
        Ok(0) => Some(block),
        _ => None,
    }
}

/// Items, eight to a mask byte: a literal, or a copy of what was written, by length and distance.
fn lzjb(packed: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut input = packed.iter().copied();
    let mut block = Vec::with_capacity(size);
    while block.len() < size {
        let mask = input.next()?;
        for bit in 0..8 {
            if block.len() >= size {
                break;
            }
            if mask & (1 << bit) == 0 {
                block.push(input.next()?);
                continue;
            }
            let (first, second) = (input.next()?, input.next()?);
            let length = usize::from(first >> 2) + 3;
            let distance = (usize::from(first & 3) << 8) | usize::from(second);
            let from = block.len().checked_sub(distance).filter(|_| distance > 0)?;
            // The copy may read what it has just written.
            for index in from..from + length {
                if block.len() < size {
                    block.push(*block.get(index)?);
                }
            }
        }
    }
    Some(block)
}

/// Runs of literals, and of zeros.
fn zle(packed: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut block = Vec::with_capacity(size);
    let mut rest = packed;
    while block.len() < size {
        let (first, behind) = rest.split_first()?;
        let count = usize::from(*first);
        if count < 64 {
            let (literals, behind) = behind.split_at_checked(count + 1)?;
            block.extend_from_slice(literals);
            rest = behind;
        } else {
            block.resize(block.len() + count - 63, 0);
            rest = behind;
        }
    }
    (block.len() == size).then_some(block)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_runs() {
        assert_eq!(zle(&[1, 7, 8, 66, 99], 5), Some(vec![7, 8, 0, 0, 0]));
        assert_eq!(zle(&[70], 5), None, "more than the block");
        assert_eq!(zle(&[3, 1], 4), None, "too short");
        // A literal, and a copy of it that overlaps itself.
        assert_eq!(lzjb(&[0b10, 7, 2 << 2, 1], 6), Some(vec![7; 6]));
        assert_eq!(lzjb(&[0b1, 2 << 2, 1], 6), None, "before the beginning");
        assert_eq!(lzjb(&[0b10, 7, 2 << 2, 0], 6), None, "no distance");
    }

    proptest! {
        /// Whatever the bytes: an error, or a block of exactly that size.
        #[test]
        fn anything_is_read(method in 0_u8..18, packed in proptest::collection::vec(any::<u8>(), 0..300), size in 1_usize..5000) {
            if let Ok(block) = unpack(method, &packed, size, 0) {
                prop_assert_eq!(block.len(), size);
            }
        }
    }
}
