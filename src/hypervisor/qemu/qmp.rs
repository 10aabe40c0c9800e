//! A client of QEMU's control protocol (QMP) that trusts nobody at the other end.
//!
//! ```text
//!   command ──▶ writer (one at a time) ──▶ socket
//!   answer  ◀── by id ◀─┐
//!   event   ◀── queue ◀─┴─ reader task ◀── socket
//! ```
//!
//! A guest that owns its QEMU owns this connection: lines are bounded, answers that nobody awaits are
//! dropped, events are queued up to a bound and then dropped. Unknown messages are skipped. Every command has
//! a deadline.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, BufReader, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex as AsyncMutex, mpsc, oneshot},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::super::HypervisorError;
use crate::{layout::short_socket_name, sys::connect_in_passing, text::escaped};

/// QEMU and its version, from its greeting. A guest that owns its hypervisor may write any numbers here, but no words.
fn name_of(greeting: &Value) -> String {
    let version = &greeting["QMP"]["version"]["qemu"];
    let number = |name: &str| version[name].as_u64().map(|number| number.to_string());
    match (number("major"), number("minor"), number("micro")) {
        (Some(major), Some(minor), Some(micro)) => format!("QEMU {major}.{minor}.{micro}"),
        _ => "QEMU".to_owned(),
    }
}

/// The longest line that is accepted.
const MAX_LINE: usize = 1 << 20;
/// Events that wait for the agent.
const EVENTS: usize = 256;
/// The events that are handled.
const EVENTS_HEARD: &[&str] = &["SHUTDOWN", "RESET", "STOP", "GUEST_PANICKED", "RESUME", "SUSPEND", "WAKEUP"];
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// An unsolicited QEMU event.
#[derive(Debug)]
pub(super) struct QmpEvent {
    pub(super) name: String,
    pub(super) data: Value,
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Value, String>>>>>;

/// A connection.
#[derive(Debug)]
pub(super) struct Qmp {
    writer: AsyncMutex<OwnedWriteHalf>,
    waiting: Waiting,
    next_id: AtomicU64,
    events: AsyncMutex<mpsc::Receiver<QmpEvent>>,
    hypervisor: String,
    _reader: AbortOnDropHandle<()>,
}

impl Qmp {
    /// Connects and waits until QEMU is ready to take commands.
    pub(super) async fn connect(path: &Path, patience: Duration) -> Result<Self, HypervisorError> {
        let silent =
            || HypervisorError::Silent { command: "the connection".to_owned(), seconds: patience.as_secs() };
        timeout(patience, Self::open(path)).await.map_err(|_| silent())?
    }

    async fn open(path: &Path) -> Result<Self, HypervisorError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => HypervisorError::Gone,
            _ => HypervisorError::at("connecting to the hypervisor's control socket")(error),
        };
        let (_folder, name) = short_socket_name(path).map_err(failed)?;
        let stream = connect_in_passing(&name).and_then(UnixStream::from_std).map_err(failed)?;
        let (reader, writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let greeting = read_line(&mut reader).await?.ok_or(HypervisorError::Gone)?;
        let waiting = Waiting::default();
        let (sender, events) = mpsc::channel(EVENTS);
        let task = tokio::spawn(read_all(reader, waiting.clone(), sender));
        let qmp = Self {
            writer: AsyncMutex::new(writer),
            waiting,
            next_id: AtomicU64::new(1),
            events: AsyncMutex::new(events),
            hypervisor: name_of(&greeting),
            _reader: AbortOnDropHandle::new(task),
        };
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// The program at the other end, by its own account.
    pub(super) fn hypervisor(&self) -> &str {
        &self.hypervisor
    }

    /// Runs a command and returns its result.
    pub(super) async fn execute(&self, command: &str, arguments: Value) -> Result<Value, HypervisorError> {
        self.run(command, arguments, None).await
    }

    /// Runs a command that comes with a descriptor.
    pub(super) async fn execute_with(
        &self,
        command: &str,
        arguments: Value,
        descriptor: BorrowedFd<'_>,
    ) -> Result<Value, HypervisorError> {
        self.run(command, arguments, Some(descriptor)).await
    }

    async fn run(
        &self,
        command: &str,
        arguments: Value,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Value, HypervisorError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        lock(&self.waiting).insert(id, sender);
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments, "id": id}));
        let talk = async {
            self.send(line.as_bytes(), descriptor).await?;
            answer.await.map_err(|_| HypervisorError::Gone)
        };
        let _waits = Waits { waiting: &self.waiting, id };
        let answer = timeout(PATIENCE, talk).await;
        match answer {
            Ok(answer) => {
                answer?.map_err(|message| HypervisorError::Refused { command: command.to_owned(), message })
            }
            Err(_) => {
                Err(HypervisorError::Silent { command: command.to_owned(), seconds: PATIENCE.as_secs() })
            }
        }
    }

    async fn send(
        &self,
        mut bytes: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), HypervisorError> {
        let writer = self.writer.lock().await;
        let stream: &UnixStream = writer.as_ref();
        // The descriptor goes with the first byte.
        let mut descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
        while !bytes.is_empty() {
            stream.writable().await.map_err(HypervisorError::at("writing to the hypervisor"))?;
            let sent = stream.try_io(Interest::WRITABLE, || {
                let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !descriptors.is_empty() {
                    control.push(SendAncillaryMessage::ScmRights(&descriptors));
                }
                Ok(rustix::net::sendmsg(
                    stream.as_fd(),
                    &[IoSlice::new(bytes)],
                    &mut control,
                    SendFlags::NOSIGNAL,
                )?)
            });
            match sent {
                Ok(count) => {
                    bytes = &bytes[count..];
                    descriptors.clear();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(HypervisorError::Gone),
            }
        }
        Ok(())
    }

    /// Returns the next event; `None` when the connection is gone.
    pub(super) async fn next_event(&self) -> Option<QmpEvent> {
        self.events.lock().await.recv().await
    }
}

/// A command that waits for its reply, until its caller leaves.
struct Waits<'w> {
    waiting: &'w Waiting,
    id: u64,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        lock(self.waiting).remove(&self.id);
    }
}

async fn read_all(mut reader: BufReader<OwnedReadHalf>, waiting: Waiting, events: mpsc::Sender<QmpEvent>) {
    loop {
        match read_line(&mut reader).await {
            Ok(Some(message)) => dispatch(message, &waiting, &events),
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "control connection closed");
                break;
            }
        }
    }
    // Dropping the senders wakes all waiting callers.
    lock(&waiting).clear();
}

fn dispatch(mut message: Value, waiting: &Waiting, events: &mpsc::Sender<QmpEvent>) {
    if let Some(name) = message["event"].as_str() {
        if !EVENTS_HEARD.contains(&name) {
            return;
        }
        let text =
            |key: &str| message["data"][key].as_str().map(|text| text.chars().take(64).collect::<String>());
        let guest = message["data"]["guest"].as_bool();
        let event =
            QmpEvent { name: name.to_owned(), data: json!({"guest": guest, "reason": text("reason")}) };
        // A flood of events must not delay the replies behind it, nor take memory.
        if events.try_send(event).is_err() {
            tracing::debug!("a hypervisor's event was dropped");
        }
        return;
    }
    let Some(sender) = message["id"].as_u64().and_then(|id| lock(waiting).remove(&id)) else { return };
    let answer = match message.get_mut("error") {
        Some(error) => {
            Err(escaped(error["desc"].as_str().unwrap_or("no reason given")).chars().take(500).collect())
        }
        None => Ok(message["return"].take()),
    };
    let _ = sender.send(answer);
}

/// Reads the next line as JSON; `None` at the end. A line that is not JSON is skipped.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Value>, HypervisorError> {
    loop {
        let Some(line) = bounded_line(reader).await? else { return Ok(None) };
        match serde_json::from_slice(&line) {
            Ok(value @ Value::Object(_)) => return Ok(Some(value)),
            _ => tracing::debug!("a control message that is no JSON object was skipped"),
        }
    }
}

async fn bounded_line(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Vec<u8>>, HypervisorError> {
    let mut line = Vec::new();
    loop {
        let chunk = match reader.fill_buf().await {
            Ok(chunk) => chunk,
            // A process that dies with unread bytes resets the connection.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(HypervisorError::at("reading from the hypervisor")(error)),
        };
        if chunk.is_empty() {
            return Ok(None);
        }
        let (taken, done) = match chunk.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (chunk.len(), false),
        };
        if line.len() + taken > MAX_LINE {
            return Err(HypervisorError::Garbled {
                command: "a command".to_owned(),
                detail: format!("a line of over {MAX_LINE} bytes"),
            });
        }
        line.extend_from_slice(&chunk[..taken]);
        reader.consume(taken);
        if done {
            return Ok(Some(line));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::UnixListener};

    use super::*;

    /// A QEMU that says what it is told to, and then hangs up.
    async fn fake(script: Vec<u8>) -> (tempfile::TempDir, Result<Qmp, HypervisorError>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"{\"QMP\": {}}\r\n").await.unwrap();
            let mut first = String::new();
            BufReader::new(&mut stream).read_line(&mut first).await.unwrap();
            let id = serde_json::from_str::<Value>(&first).unwrap()["id"].clone();
            stream.write_all(format!("{}\n", json!({"return": {}, "id": id})).as_bytes()).await.unwrap();
            stream.write_all(&script).await.unwrap();
            let mut second = String::new();
            BufReader::new(&mut stream).read_line(&mut second).await.unwrap();
        });
        let qmp = Qmp::connect(&path, Duration::from_secs(5)).await;
        (dir, qmp)
    }

    #[tokio::test]
    async fn garbage_is_skipped_and_events_arrive() {
        let script =
            b"\xff\xfe\n[1]\n{\"return\": 1, \"id\": 99}\n{\"id\": {}}\n{\"event\": \"STOP\"}\n".to_vec();
        let (_dir, qmp) = fake(script).await;
        assert_eq!(qmp.unwrap().next_event().await.unwrap().name, "STOP");
    }

    #[tokio::test]
    async fn a_hang_up_ends_what_waits() {
        let (_dir, qmp) = fake(Vec::new()).await;
        let qmp = qmp.unwrap();
        assert!(matches!(qmp.execute("query-status", json!({})).await, Err(HypervisorError::Gone)));
        assert!(qmp.next_event().await.is_none());
    }

    #[tokio::test]
    async fn an_endless_line_ends_the_connection() {
        let (_dir, qmp) = fake(vec![b' '; MAX_LINE + 2]).await;
        assert!(qmp.unwrap().next_event().await.is_none());
    }

    /// Folders of operators may have any name; a socket's may not.
    #[tokio::test]
    async fn a_path_that_is_longer_than_a_sockets_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("x".repeat(200));
        std::fs::create_dir(&folder).unwrap();
        let (_folder, name) = short_socket_name(&folder.join("qmp")).unwrap();
        let _listener = UnixListener::bind(name).unwrap();
        let silent = Qmp::connect(&folder.join("qmp"), Duration::from_millis(50)).await;
        assert!(
            matches!(silent, Err(HypervisorError::Silent { .. })),
            "connected, and not greeted: {silent:?}"
        );
    }

    #[tokio::test]
    async fn nobody_there() {
        let dir = tempfile::tempdir().unwrap();
        let gone = Qmp::connect(&dir.path().join("none"), Duration::from_secs(5)).await;
        assert!(matches!(gone, Err(HypervisorError::Gone)));
    }
}
