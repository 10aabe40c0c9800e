//! `console`.

use std::io::{self, IsTerminal as _, Write as _};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::{io::AsyncReadExt as _, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::{Clients, error::CliError, machine};
use crate::{
    proto::v1::{self, attach_request, attach_response, read_log_response},
    spec::VmState,
};

/// Ctrl-]
const ESCAPE: u8 = 0x1d;

fn show(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::quiet_success(),
        _ => CliError::failed(format!("writing to standard output: {error}")),
    })
}

fn tell_gap(gap: &v1::ConsoleGap) {
    // The beginning that is not kept any more is no surprise.
    if gap.from > 0 {
        anstream::eprint!("\r\n[{} bytes are not kept any more]\r\n", gap.to - gap.from);
    }
}

/// Prints the history.
pub(super) async fn log(clients: &mut Clients, uuid: &str) -> Result<(), CliError> {
    log_from(clients, uuid, 0).await
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

/// History first, then what happens; what is typed goes to the guest, until Ctrl-]. The end of the
/// input leaves too, once everything that was printed so far is shown.
pub(super) async fn attach(clients: &mut Clients, uuid: &str) -> Result<(), CliError> {
    let vm = clients.vms.get_vm(v1::GetVmRequest { uuid: uuid.to_owned() }).await?.into_inner().vm;
    let state = machine::state(vm.unwrap_or_default().status.unwrap_or_default().state());
    if state != VmState::Running {
        return Err(CliError::failed(format!(
            "cannot connect to console when state is \"{state}\" must be \"running\"."
        )));
    }
    let (sender, input) = mpsc::channel(8);
    let start = v1::AttachStart { uuid: uuid.to_owned(), offset: Some(0) };
    let first = v1::AttachRequest { item: Some(attach_request::Item::Attach(start)) };
    sender.send(first).await.map_err(|_| CliError::failed("the connection is gone"))?;
    let mut stream = clients.consoles.attach(ReceiverStream::new(input)).await?.into_inner();

    let terminal = RawTerminal::enter()?;
    if terminal.is_some() {
        anstream::eprint!("[Connected to the console of VM {uuid}; Ctrl-] leaves]\r\n");
    }
    let mut typing = tokio::spawn(type_in(sender));
    let mut shown = 0;
    let left = loop {
        tokio::select! {
            left = &mut typing => break Ok(left.unwrap_or(Left::Escaped)),
            message = stream.message() => match message {
                Ok(Some(message)) => match message.item {
                    Some(attach_response::Item::Data(data)) => {
                        show(&data.data)?;
                        shown = data.offset.saturating_add(i64::try_from(data.data.len()).unwrap_or(i64::MAX));
                    }
                    Some(attach_response::Item::Gap(gap)) => tell_gap(&gap),
                    None => {}
                },
                Ok(None) => break Err(CliError::failed("the agent ended the console")),
                Err(status) => break Err(status.into()),
            },
        }
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

/// Why typing ended.
enum Left {
    Escaped,
    AtEnd,
}

/// Sends what is typed until the escape.
async fn type_in(sender: mpsc::Sender<v1::AttachRequest>) -> Left {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = stdin.read(&mut buffer).await {
        let typed = &buffer[..count];
        let leave = typed.iter().position(|byte| *byte == ESCAPE);
        let typed = &typed[..leave.unwrap_or(count)];
        if !typed.is_empty() {
            let item = Some(attach_request::Item::Input(typed.to_vec().into()));
            if sender.send(v1::AttachRequest { item }).await.is_err() {
                return Left::Escaped;
            }
        }
        if leave.is_some() {
            return Left::Escaped;
        }
    }
    Left::AtEnd
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
