//! The raw disk that an image becomes: a sparse file, written at offsets.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use rustix::fs::FallocateFlags;

use super::fault::{Fault, FaultKind};

/// Zeros are left out in pieces of this size, the block size of most file systems.
const GRAIN: usize = 4096;

/// A disk that is being written.
pub(crate) trait Disk {
    /// Writes bytes at an offset.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Fault>;
    /// Makes a range read as zeros.
    fn zero(&mut self, offset: u64, length: u64) -> Result<(), Fault>;
    /// Reads what was written; zeros where nothing was.
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), Fault>;
}

/// A sparse file. Its length is set by the agent, once it is known: the converter may not change it.
pub(crate) struct SparseFile {
    file: File,
    /// End of what may not be zero.
    end: u64,
    limit: u64,
    /// Bytes of data so far.
    written: u64,
    /// Whether so many are too many for what was read.
    is_bomb: Box<dyn Fn(u64) -> bool>,
}

impl SparseFile {
    /// Writes into a file of at most `limit` bytes, whose content up to its length is the origin's.
    pub(crate) fn new(file: File, limit: u64) -> io::Result<Self> {
        let end = file.metadata()?.len();
        Ok(Self { file, end, limit, written: 0, is_bomb: Box::new(|_| false) })
    }

    /// Refuses data of which `is_bomb` says that it is too much.
    pub(crate) fn bound(&mut self, is_bomb: impl Fn(u64) -> bool + 'static) {
        self.is_bomb = Box::new(is_bomb);
    }

    /// Bytes of the file.
    pub(crate) fn length(&self) -> Result<u64, Fault> {
        self.file.metadata().map(|found| found.len()).map_err(|error| Fault::host(&error))
    }

    fn check(&self, offset: u64, length: u64) -> Result<(), Fault> {
        match offset.checked_add(length) {
            Some(end) if end <= self.limit => Ok(()),
            _ => Err(too_large(self.limit)),
        }
    }
}

/// The fault of content beyond the limit.
pub(crate) fn too_large(limit: u64) -> Fault {
    let what =
        format!("the disk would be larger than {} MiB, the most that an image may have here", limit >> 20);
    Fault::new(FaultKind::TooLarge, what)
}

impl Disk for SparseFile {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.check(offset, bytes.len() as u64)?;
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            // Up to the next boundary, so that holes are whole blocks of the file system.
            let grain = GRAIN - usize::try_from(at % GRAIN as u64).unwrap_or(0);
            let (zeros, data) = runs(rest, grain);
            if zeros > 0 && at < self.end {
                self.zero(at, (zeros as u64).min(self.end - at))?;
            }
            at += zeros as u64;
            let piece = rest.get(zeros..zeros + data).unwrap_or_default();
            if !piece.is_empty() {
                self.file.write_all_at(piece, at).map_err(|error| Fault::host(&error))?;
                at += data as u64;
                self.end = self.end.max(at);
                self.written += data as u64;
                if (self.is_bomb)(self.written) {
                    let what = "the content grows a thousand times when it is unpacked: a bomb";
                    return Err(Fault::new(FaultKind::TooLarge, what));
                }
            }
            rest = rest.get(zeros + data..).unwrap_or_default();
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, length: u64) -> Result<(), Fault> {
        let length = length.min(self.end.saturating_sub(offset));
        if length == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, offset, length) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.write_zeros(offset, length),
            punched => punched.map_err(|error| Fault::host(&error.into())),
        }
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < bytes.len() {
            let rest = bytes.get_mut(done..).unwrap_or_default();
            match self.file.read_at(rest, offset + done as u64) {
                Ok(0) => {
                    rest.fill(0);
                    break;
                }
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::host(&error)),
            }
        }
        Ok(())
    }
}

impl SparseFile {
    /// Where the file system has no holes.
    fn write_zeros(&mut self, offset: u64, length: u64) -> Result<(), Fault> {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        let mut done = 0;
        while done < length {
            let count = usize::try_from(length - done).unwrap_or(ZEROS.len()).min(ZEROS.len());
            let piece = ZEROS.get(..count).unwrap_or_default();
            self.file.write_all_at(piece, offset + done).map_err(|error| Fault::host(&error))?;
            done += count as u64;
        }
        Ok(())
    }
}

/// Returns how many bytes at the beginning are whole grains of zeros, and how many bytes follow until the next
/// such grain. The first grain has `first` bytes.
fn runs(bytes: &[u8], first: usize) -> (usize, usize) {
    let is_zero = |from: usize, to: usize| {
        let piece = bytes.get(from..to.min(bytes.len())).unwrap_or_default();
        piece.len() == to - from && is_zero(piece)
    };
    let next = |at: usize| if at == 0 { first } else { at + GRAIN };
    let mut zeros = 0;
    while zeros < bytes.len() && is_zero(zeros, next(zeros)) {
        zeros = next(zeros);
    }
    let mut data = zeros;
    while data < bytes.len() && !is_zero(data, next(data)) {
        data = next(data).min(bytes.len());
    }
    (zeros, data - zeros)
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Eight at a time, which the compiler turns into wide ones.
    let mut words = bytes.chunks_exact(64);
    words.by_ref().all(|word| word.iter().fold(0, |all, byte| all | byte) == 0)
        && words.remainder().iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn disk(limit: u64) -> SparseFile {
        SparseFile::new(tempfile::tempfile().unwrap(), limit).unwrap()
    }

    #[test]
    fn zeros_take_no_room_and_everything_reads_back() {
        let mut disk = disk(1 << 30);
        let mut content = vec![0; 1 << 20];
        content[5000..5100].fill(7);
        content[(1 << 20) - 1] = 1;
        disk.write(0, &content).unwrap();
        let mut read = vec![9; 1 << 20];
        disk.read(0, &mut read).unwrap();
        assert_eq!(read, content);
        assert!(disk.file.metadata().unwrap().blocks() <= 16, "two blocks of data");
        disk.write(4096, &vec![0; 8192]).unwrap();
        content[4096..12288].fill(0);
        disk.read(0, &mut read).unwrap();
        assert_eq!(read, content, "zeros over data");
        disk.write(100, &[3; 10]).unwrap();
        content[100..110].fill(3);
        disk.zero(104, u64::MAX - 104).unwrap();
        content[104..].fill(0);
        disk.read(0, &mut read).unwrap();
        assert_eq!(read, content);
    }

    #[test]
    fn nothing_is_written_beyond_the_limit() {
        let mut disk = disk(1 << 20);
        disk.write((1 << 20) - 1, &[1]).unwrap();
        for (offset, length) in [(1 << 20, 1), ((1 << 20) - 1, 2), (u64::MAX, 1)] {
            assert_eq!(disk.write(offset, &vec![1; length]).unwrap_err().kind, FaultKind::TooLarge);
        }
    }

    #[test]
    fn runs_of_zeros_and_of_data() {
        let mut bytes = vec![0; 3 * GRAIN];
        assert_eq!(runs(&bytes, GRAIN), (3 * GRAIN, 0));
        bytes[GRAIN] = 1;
        assert_eq!(runs(&bytes, GRAIN), (GRAIN, GRAIN));
        assert_eq!(runs(&bytes[1..], GRAIN - 1), (GRAIN - 1, GRAIN));
        assert_eq!(runs(&[0; 10], GRAIN), (0, 10), "a piece of a grain is data");
    }
}
