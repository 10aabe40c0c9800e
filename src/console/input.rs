//! The input of a console: a FIFO that the hypervisor holds at both ends.

use std::{io, path::PathBuf};

use tokio::{io::AsyncWriteExt as _, net::unix::pipe};

use super::ConsoleError;

/// The input of a console; it does not keep the console.
#[derive(Clone, Debug)]
pub struct ConsoleInput {
    path: PathBuf,
}

impl ConsoleInput {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Opens it for one writer.
    pub fn open(&self) -> Result<ConsoleWriter, ConsoleError> {
        match pipe::OpenOptions::new().open_sender(&self.path) {
            Ok(pipe) => Ok(ConsoleWriter { pipe }),
            // No hypervisor reads, or none ever ran.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENOENT)) => {
                Err(ConsoleError::NotRunning)
            }
            Err(error) => Err(ConsoleError::at("opening the console's input")(error)),
        }
    }
}

/// Types into a guest.
#[derive(Debug)]
pub struct ConsoleWriter {
    pipe: pipe::Sender,
}

impl ConsoleWriter {
    /// Types `bytes`; waits while the guest does not read.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ConsoleError> {
        self.pipe.write_all(bytes).await.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => ConsoleError::NotRunning,
            _ => ConsoleError::at("writing to the console")(error),
        })
    }
}
