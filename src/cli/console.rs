//! `console`.

use std::io::{self, IsTerminal as _, Write as _};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::{io::AsyncReadExt as _, sync::oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::{Clients, error::CliError};
use crate::{
    client::{self, Attached, ConsoleInput, ConsoleOutput, Printed},
    proto::{
        state_from,
        v1::{self, read_log_response},
    },
};

/// Ctrl-], which some keyboards lack; every keyboard has `~.`, at the beginning of a line.
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

fn print_gap(from: i64, to: i64) {
    // A discarded beginning is expected.
    if from > 0 {
        anstream::eprint!("\r\n[{} bytes are no longer kept]\r\n", to - from);
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
            Some(read_log_response::Item::Gap(gap)) => print_gap(gap.from, gap.to),
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

/// Shows the history, then live output, and passes input to the guest until Ctrl-], or `~.` at the beginning
/// of a line. The end of the input leaves, too, once the VM has all of it and all output so far is shown. A
/// broken connection is restored, and continues at its byte.
pub(super) async fn attach(clients: &mut Clients, uuid: &str, mode: Mode) -> Result<(), CliError> {
    let vm = clients.vms.get_vm(v1::GetVmRequest { uuid: uuid.to_owned() }).await?.into_inner().vm;
    let state = state_from(vm.unwrap_or_default().status.unwrap_or_default().state());
    // A guest that hangs during shutdown needs its console most.
    if !state.has_hypervisor() {
        return Err(CliError::failed(format!(
            "cannot connect to console when state is \"{state}\" must be \"running\"."
        )));
    }
    let Mode { read_only, take_over, since } = mode;
    let start = v1::AttachStart { uuid: uuid.to_owned(), offset: Some(since), read_only, take_over };
    let (input, mut output) = client::attach(clients.consoles.clone(), start).await?;
    let terminal = RawTerminal::enter()?;
    if terminal.is_some() {
        let what = if read_only { "Watching" } else { "Connected to" };
        anstream::eprint!("[{what} the console of VM {uuid}; Ctrl-], or Enter ~ . leaves]\r\n");
    }
    let (escape, escaped) = oneshot::channel();
    let typing = AbortOnDropHandle::new(tokio::spawn(type_in(input, read_only, escape)));
    let left = tokio::select! {
        left = show_output(&mut output) => left,
        // The end of the input is no escape.
        () = async { if escaped.await.is_err() { std::future::pending().await } } => Ok(Left::Escaped),
    };
    drop(typing);
    if terminal.is_some() {
        anstream::eprint!("\r\n[Left the console]\r\n");
    }
    drop(terminal);
    match left? {
        Left::Escaped => Ok(()),
        Left::AtEnd => log_from(clients, uuid, output.offset().unwrap_or(since)).await,
    }
}

/// Why the console was left.
#[derive(Clone, Copy, Debug)]
enum Left {
    Escaped,
    /// The VM has all of the input.
    AtEnd,
}

async fn show_output(output: &mut ConsoleOutput) -> Result<Left, CliError> {
    loop {
        match output.next().await? {
            Attached::Printed(Printed::Bytes(bytes)) => show(&bytes)?,
            Attached::Printed(Printed::Gap { from, to }) => print_gap(from, to),
            Attached::Broken(why) => {
                anstream::eprint!("\r\n[The connection is lost ({}); trying again]\r\n", why.message());
            }
            Attached::Reconnected => anstream::eprint!("[Connected again; no output was missed]\r\n"),
            Attached::InputEnd { .. } => return Ok(Left::AtEnd),
        }
    }
}

impl Tilde {
    /// Returns the typed bytes for the guest, and whether the user leaves. A tilde at the beginning of a line
    /// waits for the next byte; two tildes send one.
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

/// Forwards input until an escape. A tilde from a file or a pipe is an ordinary character.
async fn type_in(input: ConsoleInput, read_only: bool, escape: oneshot::Sender<()>) {
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
        // A read-only user's keys are ignored. So are keys while the connection is broken.
        if !typed.is_empty() && !read_only {
            input.send(typed).await;
        }
        if leaves {
            let _ = escape.send(());
            return;
        }
    }
    input.end();
}

/// The terminal in raw mode, restored on drop.
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
