//! Reading a console by offset.

use std::{fs::File, os::unix::fs::FileExt as _, sync::Arc};

use bytes::Bytes;
use tokio::sync::watch;

use super::ConsoleError;
use crate::logfile::range;

/// Bytes given out at once.
const CHUNK: usize = 64 << 10;

/// An item of a console's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleItem {
    /// Output.
    Data {
        /// Of the first byte.
        offset: u64,
        /// At least one.
        bytes: Bytes,
    },
    /// Output that is no longer kept.
    Gap {
        /// First missing byte.
        from: u64,
        /// First byte that follows.
        to: u64,
    },
}

/// One reader's place in a console.
#[derive(Debug)]
pub struct ConsoleReader {
    file: Arc<File>,
    position: u64,
    follow: bool,
    grown: watch::Receiver<u64>,
}

impl ConsoleReader {
    pub(super) fn new(file: File, position: u64, grown: watch::Receiver<u64>) -> Self {
        Self { file: Arc::new(file), position, follow: false, grown }
    }

    /// Waits at the end for further output.
    #[must_use]
    pub fn follow(mut self) -> Self {
        self.follow = true;
        self
    }

    /// Returns the next bytes or gap; `None` at the end, or when the VM is gone. Dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> Result<Option<ConsoleItem>, ConsoleError> {
        loop {
            self.grown.mark_unchanged();
            let (file, position) = (self.file.clone(), self.position);
            let read =
                tokio::task::spawn_blocking(move || read(&file, position)).await.map_err(|error| {
                    ConsoleError::at("reading the console's log")(std::io::Error::other(error))
                })??;
            match read {
                Some(item) => {
                    self.position = match &item {
                        ConsoleItem::Data { offset, bytes } => offset + bytes.len() as u64,
                        ConsoleItem::Gap { to, .. } => *to,
                    };
                    return Ok(Some(item));
                }
                None if !self.follow => return Ok(None),
                None => {
                    if self.grown.changed().await.is_err() {
                        return Ok(None);
                    }
                }
            }
        }
    }
}

fn read(file: &File, position: u64) -> Result<Option<ConsoleItem>, ConsoleError> {
    let at = || ConsoleError::at("reading the console's log");
    let (oldest, end) = range(file).map_err(at())?;
    if position > end {
        return Err(ConsoleError::Shrunk);
    }
    if position < oldest {
        return Ok(Some(ConsoleItem::Gap { from: position, to: oldest }));
    }
    let mut buffer = vec![0; CHUNK.min(usize::try_from(end - position).unwrap_or(CHUNK))];
    let got = file.read_at(&mut buffer, position).map_err(at())?;
    if got == 0 {
        return Ok(None);
    }
    // The log may have been trimmed between check and read: the bytes are a hole then.
    let (oldest, _) = range(file).map_err(at())?;
    if position < oldest {
        return Ok(Some(ConsoleItem::Gap { from: position, to: oldest }));
    }
    buffer.truncate(got);
    Ok(Some(ConsoleItem::Data { offset: position, bytes: buffer.into() }))
}
