//! The agent's side of a launch: orders out, a process and its descriptor back.

use std::{
    fs::File,
    io::{IoSliceMut, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    process::{Command, Stdio},
};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::{
    fs::MemfdFlags,
    net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType},
    process::{WaitId, WaitIdOptions},
};

use crate::crash;

use super::{
    Launch, ZoneError,
    launcher::{ORDERS, Orders, REPORT, SUBCOMMAND},
    sandbox::Sandbox,
};

/// The launcher's program: the running agent's own, even if its path now holds another file.
const LAUNCHER: &str = "/proc/self/exe";

/// Runs a program in a sandbox; returns its process id and a pidfd.
pub(super) async fn spawn(
    process: PathBuf,
    launch: Launch,
    sandbox: Sandbox,
) -> Result<(i32, OwnedFd), ZoneError> {
    tokio::task::spawn_blocking(move || spawn_blocking(process, launch, sandbox))
        .await
        .map_err(|error| ZoneError::Launcher(error.to_string()))?
}

fn spawn_blocking(process: PathBuf, launch: Launch, sandbox: Sandbox) -> Result<(i32, OwnedFd), ZoneError> {
    let orders = Orders {
        program: launch.program,
        arguments: launch.arguments,
        keep: launch.descriptors.iter().map(|(_, number)| *number).collect(),
        process,
        sandbox,
    };
    let mut file = File::from(
        rustix::fs::memfd_create("zone-orders", MemfdFlags::CLOEXEC).map_err(ZoneError::at("memfd"))?,
    );
    let text = serde_json::to_vec(&orders).map_err(ZoneError::at("writing the orders"))?;
    file.write_all(&text).map_err(ZoneError::at("writing the orders"))?;
    let (report, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(ZoneError::at("socketpair"))?;

    let mut mappings = vec![
        FdMapping { parent_fd: file.into(), child_fd: ORDERS },
        FdMapping { parent_fd: theirs, child_fd: REPORT },
    ];
    mappings.extend(
        launch.descriptors.into_iter().map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }),
    );
    let mut command = Command::new(LAUNCHER);
    command
        .arg(SUBCOMMAND)
        .env_clear()
        .stdin(Stdio::from(launch.input))
        .stdout(Stdio::from(launch.output))
        .stderr(Stdio::from(launch.errors));
    command.fd_mappings(mappings).map_err(|error| ZoneError::Launcher(error.to_string()))?;
    let mut child = command.spawn().map_err(ZoneError::at("starting the launcher"))?;
    // Closes our copies of the launcher's descriptors, so that the report ends when it does.
    drop(command);
    crash::point("zone.launched");

    let report = read_report(&report);
    let status = child.wait().map_err(ZoneError::at("waiting for the launcher"))?;
    crash::point("zone.reported");
    match report? {
        Some(made) => Ok(made),
        None => Err(ZoneError::Launcher(format!("it reported nothing ({status})"))),
    }
}

/// Reads until end of file, when the hypervisor's exec has closed the last copy.
fn read_report(report: &OwnedFd) -> Result<Option<(i32, OwnedFd)>, ZoneError> {
    let mut made = None;
    let mut failure = None;
    loop {
        let mut buffer = vec![0; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            report,
            &mut [IoSliceMut::new(&mut buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .map_err(ZoneError::at("reading the launcher's report"))?;
        if received.bytes == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&buffer[1..received.bytes]).into_owned();
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        match (buffer[0], text.parse(), descriptor) {
            (b'P', Ok(pid), Some(pidfd)) => made = Some((pid, pidfd)),
            _ => failure = Some(text),
        }
    }
    let Some(text) = failure else { return Ok(made) };
    // The process that could not exec is our child: reap it.
    if let Some((_, pidfd)) = &made {
        let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    }
    Err(ZoneError::Launcher(text))
}
