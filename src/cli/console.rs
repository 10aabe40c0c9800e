//! `console`.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::{io::AsyncReadExt as _, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Clients, error::CliError};
use crate::{
    client::{Backoff, Reason, is_passing, reason},
    proto::{
        state_from,
        v1::{self, attach_request, attach_response, read_log_response},
    },
};

/// Ctrl-], which not every keyboard has. What every one has: `~.` at the beginning of a line.
const ESCAPE: u8 = 0x1d;
/// The other way out, byte by byte, as ssh and zlogin have it.
#[derive(Debug, Default)]
struct Tilde {
    place: TildePlace,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum TildePlace {
    #[default]
    LineBegins,
    Tilde,
    InLine,
}

fn show(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::quiet_success(),
        _ => CliError::failed(format!("writing to standard output: {error}")),
    })
}

fn tell_gap(gap: &v1::ConsoleGap) {
    // A beginning that is no longer kept is no surprise.
    if gap.from > 0 {
        anstream::eprint!("\r\n[{} bytes are no longer kept]\r\n", gap.to - gap.from);
    }
}

/// Prints the history.
pub(super) async fn log(clients: &mut Clients, uuid: &str, since: i64) -> Result<(), CliError> {
    log_from(clients, uuid, since).await
}

async fn log_from(clients: &mut Clients, uuid: &str, offset: i64) -> Result<(), CliError> {
    let request = v1::ReadLogRequest { uuid: uuid.to_owned(), offset, follow: false };
    let mut stream = clients.consoles.read_log(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        match message.item {
            Some(read_log_response::Item::Data(data)) => show(&data.data)?,
            Some(read_log_response::Item::Gap(gap)) => tell_gap(&gap),
            None => {}
        }
    }
    Ok(())
}

/// How a console is attached to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    pub(super) read_only: bool,
    pub(super) take_over: bool,
    /// Where the history begins.
    pub(super) since: i64,
}

/// History first, then what happens; what is typed goes to the guest, until Ctrl-], or `~.` at the beginning of a line. The end of the input leaves
/// too, once the VM has all of it and everything that was printed so far is shown. A connection that breaks is made
/// again, and goes on at the byte where it broke.
pub(super) async fn attach(clients: &mut Clients, uuid: &str, mode: Mode) -> Result<(), CliError> {
    let vm = clients.vms.get_vm(v1::GetVmRequest { uuid: uuid.to_owned() }).await?.into_inner().vm;
    let state = state_from(vm.unwrap_or_default().status.unwrap_or_default().state());
    // A guest that hangs on its way down is looked at most of all.
    if !state.has_hypervisor() {
        return Err(CliError::failed(format!(
            "cannot connect to console when state is \"{state}\" must be \"running\"."
        )));
    }
    let (typed, mut keys) = mpsc::channel(8);
    let mut connection = Connection::open(clients, uuid, mode, mode.since).await?;
    let terminal = RawTerminal::enter()?;
    if terminal.is_some() {
        let what = if mode.read_only { "Watching" } else { "Connected to" };
        anstream::eprint!("[{what} the console of VM {uuid}; Ctrl-], or Enter ~ . leaves]\r\n");
    }
    let typing = tokio::spawn(type_in(typed));
    let mut shown = mode.since;
    let left = loop {
        let broke = match connection.carry(&mut keys, &mut shown).await {
            Carried::Left(left) => break Ok(left),
            Carried::Failed(error) => break Err(error),
            Carried::Broke(why) => why,
        };
        anstream::eprint!("\r\n[The connection is lost ({broke}); trying again]\r\n");
        match Connection::again(clients, uuid, mode, shown, &mut keys).await {
            Ok(Some(again)) => connection = again,
            Ok(None) => break Ok(Left::Escaped),
            Err(error) => break Err(error),
        }
        anstream::eprint!("[Connected again; no output was missed]\r\n");
    };
    typing.abort();
    if terminal.is_some() {
        anstream::eprint!("\r\n[Left the console]\r\n");
    }
    drop(terminal);
    match left? {
        Left::Escaped => Ok(()),
        Left::AtEnd => log_from(clients, uuid, shown).await,
    }
}

/// How long an agent may take to notice that a connection broke.
const UNNOTICED: Duration = Duration::from_secs(60);

/// An attached console.
struct Connection {
    /// None once all is typed.
    sender: Option<mpsc::Sender<v1::AttachRequest>>,
    stream: Streaming<v1::AttachResponse>,
    read_only: bool,
}

enum Carried {
    Left(Left),
    Broke(String),
    Failed(CliError),
}

impl Connection {
    async fn open(clients: &mut Clients, uuid: &str, mode: Mode, offset: i64) -> Result<Self, Status> {
        let (sender, input) = mpsc::channel(8);
        let Mode { read_only, take_over, .. } = mode;
        let start = v1::AttachStart { uuid: uuid.to_owned(), offset: Some(offset), read_only, take_over };
        let first = v1::AttachRequest { item: Some(attach_request::Item::Attach(start)) };
        let _ = sender.send(first).await;
        let stream = clients.consoles.attach(ReceiverStream::new(input)).await?.into_inner();
        Ok(Self { sender: Some(sender), stream, read_only })
    }

    /// Tries until it is up; nothing when the escape was typed meanwhile.
    async fn again(
        clients: &mut Clients,
        uuid: &str,
        mode: Mode,
        offset: i64,
        keys: &mut mpsc::Receiver<Key>,
    ) -> Result<Option<Self>, CliError> {
        let mut backoff = Backoff::default();
        // Whoever took it meanwhile keeps it. It may be ourselves, as long as the agent has not noticed the break.
        let mode = Mode { take_over: false, ..mode };
        let unnoticed = Instant::now() + UNNOTICED;
        loop {
            tokio::select! {
                () = backoff.wait() => {}
                key = keys.recv() => match key {
                    Some(Key::Leave(_)) | None => return Ok(None),
                    // Typed into nothing.
                    Some(Key::Typed(_)) => continue,
                }
            }
            match Self::open(clients, uuid, mode, offset).await {
                Ok(connection) => return Ok(Some(connection)),
                Err(status) if is_passing(&status) => {}
                Err(status) if reason(&status) == Some(Reason::ConsoleBusy) && Instant::now() < unnoticed => {
                }
                Err(status) => return Err(status.into()),
            }
        }
    }

    async fn carry(&mut self, keys: &mut mpsc::Receiver<Key>, shown: &mut i64) -> Carried {
        loop {
            tokio::select! {
                key = keys.recv(), if self.sender.is_some() => match key {
                    // Who only looks may lean on the keyboard.
                    Some(Key::Typed(_)) if self.read_only => {}
                    Some(Key::Typed(typed)) => self.send(typed).await,
                    // The agent says when the VM has it all.
                    Some(Key::Leave(Left::AtEnd)) => self.sender = None,
                    Some(Key::Leave(Left::Escaped)) | None => return Carried::Left(Left::Escaped),
                },
                message = self.stream.message() => {
                    let item = match message {
                        Ok(Some(message)) => message.item,
                        Ok(None) => return Carried::Failed(CliError::failed("the agent ended the console")),
                        // What was typed may be lost, and can't be typed again unasked.
                        Err(status) if is_passing(&status) && self.sender.is_some() => {
                            return Carried::Broke(status.message().to_owned());
                        }
                        Err(status) => return Carried::Failed(status.into()),
                    };
                    if let Some(attach_response::Item::InputEnd(_)) = item {
                        return Carried::Left(Left::AtEnd);
                    }
                    if let Err(error) = show_item(item, shown) {
                        return Carried::Failed(error);
                    }
                }
            }
        }
    }

    async fn send(&self, typed: Vec<u8>) {
        if let Some(sender) = &self.sender {
            let item = Some(attach_request::Item::Input(typed.into()));
            let _ = sender.send(v1::AttachRequest { item }).await;
        }
    }
}

fn show_item(item: Option<attach_response::Item>, shown: &mut i64) -> Result<(), CliError> {
    match item {
        Some(attach_response::Item::Data(data)) => {
            show(&data.data)?;
            *shown = data.offset.saturating_add(i64::try_from(data.data.len()).unwrap_or(i64::MAX));
        }
        Some(attach_response::Item::Gap(gap)) => {
            tell_gap(&gap);
            *shown = gap.to;
        }
        Some(attach_response::Item::InputEnd(_)) | None => {}
    }
    Ok(())
}

/// What was typed, or that typing is over.
#[derive(Debug)]
enum Key {
    Typed(Vec<u8>),
    Leave(Left),
}

/// Why typing ended.
#[derive(Clone, Copy, Debug)]
enum Left {
    Escaped,
    AtEnd,
}

impl Tilde {
    /// What of the typed bytes goes to the guest, and whether the user leaves. A tilde that begins a line is held back
    /// until it is known what follows; two of them are one.
    fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            let (next, words): (_, &[u8]) = match (self.place, byte) {
                (_, &ESCAPE) | (TildePlace::Tilde, b'.') => return (passed, true),
                (TildePlace::LineBegins, b'~') => (TildePlace::Tilde, b""),
                (TildePlace::Tilde, b'~') => (TildePlace::InLine, b"~"),
                (TildePlace::Tilde, b'\r' | b'\n') => (TildePlace::LineBegins, &[b'~', *byte]),
                (TildePlace::Tilde, _) => (TildePlace::InLine, &[b'~', *byte]),
                (_, b'\r' | b'\n') => (TildePlace::LineBegins, std::slice::from_ref(byte)),
                (_, _) => (TildePlace::InLine, std::slice::from_ref(byte)),
            };
            self.place = next;
            passed.extend_from_slice(words);
        }
        (passed, false)
    }
}

/// Passes on what is typed until an escape. In what comes from a file or a pipe a tilde is one.
async fn type_in(keys: mpsc::Sender<Key>) {
    let mut tilde = io::stdin().is_terminal().then(Tilde::default);
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = stdin.read(&mut buffer).await {
        let typed = &buffer[..count];
        let (typed, leaves) = match &mut tilde {
            Some(tilde) => tilde.pass(typed),
            None => {
                let leave = typed.iter().position(|byte| *byte == ESCAPE);
                (typed[..leave.unwrap_or(count)].to_vec(), leave.is_some())
            }
        };
        if !typed.is_empty() && keys.send(Key::Typed(typed)).await.is_err() {
            return;
        }
        if leaves {
            let _ = keys.send(Key::Leave(Left::Escaped)).await;
            return;
        }
    }
    let _ = keys.send(Key::Leave(Left::AtEnd)).await;
}

/// The terminal in raw mode; as it was again when this is dropped.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> Result<Option<Self>, CliError> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let failed = |error: rustix::io::Errno| CliError::failed(format!("the terminal: {error}"));
        let before = tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Flush, &raw).map_err(failed)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_that_begins_a_line_waits_for_a_dot() {
        for (pieces, passed, leaves) in [
            (&["ls\r", "~", "."][..], "ls\r", true),
            (&["~."], "", true),
            (&["cd ~.\r"], "cd ~.\r", false),
            (&["\r~~.\r"], "\r~.\r", false),
            (&["\r~x"], "\r~x", false),
            (&["\r~\r~."], "\r~\r", true),
            (&["a\u{1d}b"], "a", true),
        ] {
            let mut tilde = Tilde::default();
            let (mut all, mut left) = (Vec::new(), false);
            for piece in pieces {
                let (typed, leave) = tilde.pass(piece.as_bytes());
                all.extend(typed);
                left |= leave;
            }
            assert_eq!((String::from_utf8(all).unwrap().as_str(), left), (passed, leaves), "{pieces:?}");
        }
    }
}
