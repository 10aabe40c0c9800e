//! The serial console: output numbered by byte for the life of the VM, input that never waits.
//!
//! ```text
//!   hypervisor ── standard output ─▶ (the zone) ─▶ console.log ──▶ readers, by offset
//!              ◀── standard input ── console.in (a FIFO) ◀── one writer at a time
//! ```
//!
//! The zone brings output into the log: the guest never waits for the agent or a reader, and no byte is
//! missing after the agent was away. The offset of a byte is its offset in the file. Bytes over the bound are
//! punched out of the file's beginning: offsets stay, the space is freed. The hypervisor holds both ends of
//! the FIFO, so an agent that dies does not end the input.

mod hub;
mod input;
mod lock;
mod log;
mod reader;
mod settings;
mod vnc;

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{CWD, Mode};

pub(crate) use hub::ConsoleHub;
pub(crate) use input::{ConsoleInput, ConsoleWriter};
use lock::WriterLock;
pub(crate) use lock::WriterRight;
use log::Log;
pub(crate) use reader::{ConsoleItem, ConsoleReader};
pub(crate) use settings::Settings;
pub(crate) use vnc::VncEndpoint;

use crate::{
    layout::VmLayout,
    logfile::{MESSAGES, open_log},
};

/// Bytes of its last messages that are read.
const LAST_WORDS: u64 = 16 << 10;

/// Returns the last messages of a hypervisor from its last boot; empty if they can't be read.
#[must_use]
pub(crate) fn last_words(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let end = file.metadata()?.len();
        file.seek(io::SeekFrom::Start(end.saturating_sub(LAST_WORDS)))?;
        let mut text = Vec::new();
        file.take(LAST_WORDS).read_to_end(&mut text)?;
        Ok(text)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).trim_matches(['\0', '\n', ' ']).to_owned()
}

/// Why a console can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// An offset beyond the end.
    #[error("offset {offset} is beyond the end of the console's output ({end})")]
    Beyond {
        /// The requested offset.
        offset: u64,
        /// The first byte that is kept.
        oldest: u64,
        /// One more than the last byte.
        end: u64,
    },
    /// Another writes.
    #[error("{writer} is writing to this console; attach read-only, or take it over")]
    Busy {
        /// Who.
        writer: String,
    },
    /// Another took over.
    #[error("{writer} took this console over")]
    Taken {
        /// Who.
        writer: String,
    },
    /// No hypervisor to write to.
    #[error("the VM is not running")]
    NotRunning,
    /// The hypervisor truncated its log.
    #[error("the console's log was truncated; earlier output is lost")]
    Shrunk,
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// The failed action.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl ConsoleError {
    fn at<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::System { what, source: error.into() }
    }
}

/// The hypervisor's ends.
#[derive(Debug)]
pub struct ConsoleEnds {
    /// Its input: the FIFO, open for both directions.
    pub input: File,
    /// Its output.
    pub output: File,
    /// Its own messages.
    pub errors: File,
}

/// The console of one VM.
#[derive(Clone, Debug)]
pub struct Console {
    log: Arc<Log>,
    errors: Arc<Log>,
    input: PathBuf,
    /// Says where the output of this boot begins.
    start: PathBuf,
    writer: Arc<WriterLock>,
    hub: ConsoleHub,
}

impl Console {
    /// The console of the VM with that layout, which keeps at least `keep` bytes.
    #[must_use]
    pub fn new(layout: &VmLayout, keep: u64, hub: &ConsoleHub) -> Self {
        Self {
            log: Log::new(layout.console_log(), keep),
            errors: Log::new(layout.hypervisor_log(), MESSAGES),
            input: layout.console_input(),
            start: layout.console_start(),
            writer: Arc::new(WriterLock::new()),
            hub: hub.clone(),
        }
    }

    /// Creates a hypervisor's ends, and starts to watch its output. Blocks on the disk.
    pub fn open_for_boot(&self) -> Result<ConsoleEnds, ConsoleError> {
        let output = open_log(&self.log.path).map_err(ConsoleError::at("opening the console's log"))?;
        let start = output.metadata().map_err(ConsoleError::at("reading the console's log"))?.len();
        for old in [&self.input, &self.errors.path] {
            match std::fs::remove_file(old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ConsoleError::at("removing what the last boot left")(error));
                }
                _ => {}
            }
        }
        let errors = open_log(&self.errors.path).map_err(ConsoleError::at("opening the hypervisor's log"))?;
        std::fs::write(&self.start, start.to_string())
            .map_err(ConsoleError::at("noting where the console's output begins"))?;
        rustix::fs::mkfifoat(CWD, &self.input, Mode::RUSR | Mode::WUSR)
            .map_err(ConsoleError::at("making the console's input"))?;
        let input = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.input)
            .map_err(ConsoleError::at("opening the console's input"))?;
        self.notice();
        Ok(ConsoleEnds { input, output, errors })
    }

    fn notice(&self) {
        for log in [&self.log, &self.errors] {
            if let Err(error) = self.hub.add(log) {
                tracing::error!(%error, log = %log.path.display(), "cannot watch; followers will not see it grow");
            }
        }
    }

    /// Starts to watch growth and to trim the logs. May be repeated.
    pub async fn watch(&self) {
        let this = self.clone();
        let notice = move || {
            this.notice();
            Ok(())
        };
        let _ = off_runtime(notice).await;
    }

    /// Ends both.
    pub fn unwatch(&self) {
        self.log.grew();
        self.hub.remove(&self.log);
        self.hub.remove(&self.errors);
    }

    /// Follows the output of the current boot from its beginning.
    pub async fn boot_reader(&self) -> Result<ConsoleReader, ConsoleError> {
        let path = self.start.clone();
        let read = move || {
            let text = std::fs::read_to_string(path)?;
            text.trim().parse().map_err(io::Error::other)
        };
        let at = ConsoleError::at("reading where the console's output of this boot begins");
        let start = off_runtime(move || read().map_err(at)).await?;
        Ok(self.reader(Some(start)).await?.follow())
    }

    /// Reads from `offset` on, or from the end.
    pub async fn reader(&self, offset: Option<u64>) -> Result<ConsoleReader, ConsoleError> {
        let log = self.log.clone();
        let open = move || {
            let (oldest, end) = log.range()?;
            let position = offset.unwrap_or(end);
            if position > end {
                return Err(ConsoleError::Beyond { offset: position, oldest, end });
            }
            // So that a VM that never ran can be followed.
            let file = open_log(&log.path)
                .and_then(|_| File::open(&log.path))
                .map_err(ConsoleError::at("opening the console's log"))?;
            Ok(ConsoleReader::new(file, position, log.grown.subscribe()))
        };
        off_runtime(open).await
    }

    /// Returns the hypervisor's last messages from its last boot.
    pub async fn last_words(&self) -> String {
        let errors = self.errors.clone();
        off_runtime(move || Ok(last_words(&errors.path))).await.unwrap_or_default()
    }

    /// Takes the right to write, from its holder if `over` is set.
    pub fn take_writer(&self, name: &str, over: bool) -> Result<WriterRight, ConsoleError> {
        self.writer.take(name, over)
    }

    /// Its input.
    #[must_use]
    pub fn input(&self) -> ConsoleInput {
        ConsoleInput::new(self.input.clone())
    }
}

/// Runs blocking disk work off the runtime's threads.
async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ConsoleError> + Send + 'static,
) -> Result<T, ConsoleError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ConsoleError::at("waiting for the console's disk")(io::Error::other(error)))?
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::fs::MetadataExt as _};

    use super::*;
    use crate::{
        layout::Layout,
        logfile::{BLOCK, SLACK},
        storage,
    };

    fn console(keep: u64) -> (tempfile::TempDir, Console) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("z"), dir.path().join("s"), dir.path().join("r"));
        let layout = layout.vm(uuid::Uuid::from_u128(1));
        std::fs::create_dir(dir.path().join("z")).unwrap();
        std::fs::create_dir_all(layout.run()).unwrap();
        storage::make_zone(&layout).unwrap();
        let console = Console::new(&layout, keep, &ConsoleHub::new().unwrap());
        (dir, console)
    }

    async fn collect(console: &Console, offset: u64) -> (Vec<(u64, u64)>, Vec<u8>) {
        let mut reader = console.reader(Some(offset)).await.unwrap();
        let (mut gaps, mut data) = (Vec::new(), Vec::new());
        while let Some(item) = reader.next().await.unwrap() {
            match item {
                ConsoleItem::Gap { from, to } => gaps.push((from, to)),
                ConsoleItem::Data { bytes, .. } => data.extend(bytes),
            }
        }
        (gaps, data)
    }

    #[tokio::test]
    async fn offsets_go_on_over_boots() {
        let (_dir, console) = console(1 << 20);
        console.open_for_boot().unwrap().output.write_all(b"first").unwrap();
        let mut second = console.open_for_boot().unwrap();
        let mut this_boot = console.boot_reader().await.unwrap();
        second.output.write_all(b"second").unwrap();
        let Ok(Some(ConsoleItem::Data { offset: 5, bytes })) = this_boot.next().await else { panic!() };
        assert_eq!(&bytes[..], b"second");
        assert_eq!(collect(&console, 0).await, (vec![], b"firstsecond".to_vec()));
        assert_eq!(collect(&console, 5).await.1, b"second");
        assert!(matches!(
            console.reader(Some(12)).await,
            Err(ConsoleError::Beyond { offset: 12, end: 11, .. })
        ));
    }

    #[tokio::test]
    async fn a_flood_costs_bounded_room_and_leaves_a_gap_that_is_told() {
        let (_dir, console) = console(128 << 10);
        let mut ends = console.open_for_boot().unwrap();
        console.watch().await;
        let total: u64 = 8 << 20;
        for _ in 0..total / (64 << 10) {
            ends.output.write_all(&vec![b'x'; 64 << 10]).unwrap();
            console.log.on_growth();
        }
        let meta = console.log.path.metadata().unwrap();
        assert!(meta.blocks() * 512 <= (128 << 10) + SLACK + 2 * BLOCK, "{} blocks", meta.blocks());
        let (gaps, data) = collect(&console, 0).await;
        assert_eq!(gaps.len(), 1);
        assert_eq!(gaps[0].0, 0);
        assert_eq!(gaps[0].1 + data.len() as u64, total);
        assert!(data.iter().all(|byte| *byte == b'x'), "no byte of a hole");
    }

    #[tokio::test]
    async fn a_follower_wakes_when_the_guest_prints() {
        let (_dir, console) = console(1 << 20);
        let mut ends = console.open_for_boot().unwrap();
        console.watch().await;
        let mut reader = console.reader(None).await.unwrap().follow();
        let next = tokio::spawn(async move { reader.next().await });
        ends.output.write_all(b"hello").unwrap();
        let item = next.await.unwrap().unwrap();
        assert_eq!(item, Some(ConsoleItem::Data { offset: 0, bytes: b"hello"[..].into() }));
    }

    #[tokio::test]
    async fn input_reaches_the_hypervisor_and_outlives_the_writer() {
        use std::io::Read as _;
        let (_dir, console) = console(1 << 20);
        assert!(matches!(console.input().open(), Err(ConsoleError::NotRunning)));
        let mut ends = console.open_for_boot().unwrap();
        for word in [b"one", b"two"] {
            console.input().open().unwrap().write(word).await.unwrap();
        }
        let mut buffer = [0; 6];
        ends.input.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"onetwo");
        drop(ends);
        assert!(matches!(console.input().open(), Err(ConsoleError::NotRunning)));
    }
}
