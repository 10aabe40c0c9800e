//! Copies of disks that share their blocks where the file system can, and keep their holes where it can't.

use std::{fs::File, io};

use rustix::{fs::SeekFrom, io::Errno};

/// Shares all blocks of a file with an empty one; false where the file system can't.
pub(crate) fn share(from: &File, to: &File) -> io::Result<bool> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Copies a file into an empty one, without its holes.
pub(crate) fn copy(from: &File, to: &File) -> io::Result<()> {
    let end = from.metadata()?.len();
    to.set_len(end)?;
    let mut at = 0;
    while at < end {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(data))?.min(end);
        copy_range(from, to, data, hole)?;
        at = hole;
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let mut buffer = vec![0; 1 << 20];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer.get_mut(..want).unwrap_or_default();
        match from.read_at(piece, at)? {
            0 => return Ok(()),
            count => {
                to.write_all_at(piece.get(..count).unwrap_or_default(), at)?;
                at += count as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use super::*;

    #[test]
    fn a_copy_has_the_content_and_the_holes() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.set_len(64 << 20).unwrap();
        for at in [0, 10 << 20, (64 << 20) - 5] {
            from.write_all_at(b"data!", at).unwrap();
        }
        copy(&from, &to).unwrap();
        let (mut found, mut wanted) = (vec![0; 64 << 20], vec![0; 64 << 20]);
        to.read_exact_at(&mut found, 0).unwrap();
        from.read_exact_at(&mut wanted, 0).unwrap();
        assert!(found == wanted);
        assert!(to.metadata().unwrap().blocks() <= 64, "{}", to.metadata().unwrap().blocks());
    }
}
