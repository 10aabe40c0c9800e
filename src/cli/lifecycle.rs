//! `start`, `stop`, `reboot`, `delete`.

use std::{
    io::{self, IsTerminal as _},
    sync::{Mutex, PoisonError},
};

use anstyle::Style;
use tonic::Streaming;
use uuid::Uuid;

use super::{Clients, error::CliError, persist::persist};
use crate::{
    proto::{
        boot_options_to_proto,
        v1::{self, start_vm_response::Item},
    },
    spec::BootOptions,
};

fn request_id() -> String {
    Uuid::new_v4().to_string()
}

/// Reads the words of `start`.
pub(super) fn boot_options(words: &[String]) -> Result<v1::BootOptions, CliError> {
    Ok(boot_options_to_proto(&BootOptions::from_words(words).map_err(CliError::usage)?))
}

/// Starts a VM. Shows the phases of the boot as they are reached, on a terminal or if the user asks for more.
pub(super) async fn start(
    clients: &mut Clients,
    uuid: &str,
    options: v1::BootOptions,
    verbose: bool,
) -> Result<(), CliError> {
    let prefix = format!("Unable to start VM {uuid}");
    let request = v1::StartVmRequest {
        uuid: uuid.to_owned(),
        etag: String::new(),
        request_id: request_id(),
        options: Some(options),
    };
    let failed = |status: tonic::Status| CliError::from(status).with_prefix(&prefix);
    let live = verbose || io::stderr().is_terminal();
    // Treated as one call: if an agent dies midway the start is undone, and the next agent gets the request
    // again. A repeat sends all phases again, of the same boot or of another.
    let shown: Mutex<Vec<v1::BootPhase>> = Mutex::default();
    let started = persist(|| {
        let (mut vms, request, shown) = (clients.vms.clone(), request.clone(), &shown);
        async move {
            let stream = vms.start_vm(request).await?.into_inner();
            follow(stream, shown, live).await.map(tonic::Response::new)
        }
    });
    let already = started.await.map_err(failed)?;
    match already {
        true => say!("VM {uuid} is already 'running'"),
        false => say!("Successfully started VM {uuid}"),
    }
    Ok(())
}

/// Shows the new phases of a boot, and returns whether the VM was already running.
async fn follow(
    mut stream: Streaming<v1::StartVmResponse>,
    shown: &Mutex<Vec<v1::BootPhase>>,
    live: bool,
) -> Result<bool, tonic::Status> {
    let dim = Style::new().dimmed();
    let mut phases = 0;
    while let Some(item) = stream.message().await? {
        match item.item {
            Some(Item::Phase(phase)) => {
                phases += 1;
                let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                if !shown.contains(&phase) {
                    if live {
                        anstream::eprintln!("{dim}{}{dim:#}", phase_line(&phase));
                    }
                    shown.push(phase);
                }
            }
            Some(Item::Vm(_)) => return Ok(phases == 0),
            None => {}
        }
    }
    Err(tonic::Status::unavailable("the agent ended the stream before the VM was running"))
}

/// `RUNNING +812.4 ms`
pub(super) fn phase_line(phase: &v1::BootPhase) -> String {
    let name = phase.phase().as_str_name().trim_start_matches("PHASE_");
    let whole = phase.elapsed_us / 1000;
    let tenth = phase.elapsed_us % 1000 / 100;
    let mut line = format!("{name} +{whole}.{tenth} ms");
    if !phase.reason.is_empty() {
        line.push_str(&format!(" step {}: {}", phase.step, phase.reason));
    }
    if !phase.address.is_empty() {
        line.push_str(&format!(" {} on {}", phase.address, phase.mac));
    }
    line
}

pub(super) async fn stop(
    clients: &mut Clients,
    uuid: &str,
    force: bool,
    timeout: Option<u32>,
) -> Result<(), CliError> {
    let timeout_seconds = timeout.map(|seconds| i32::try_from(seconds).unwrap_or(i32::MAX));
    let request = v1::StopVmRequest {
        uuid: uuid.to_owned(),
        etag: String::new(),
        request_id: request_id(),
        force,
        timeout_seconds,
    };
    let stopped = persist(|| {
        let (mut vms, request) = (clients.vms.clone(), request.clone());
        async move { vms.stop_vm(request).await }
    });
    let stopped = stopped.await;
    let stopped =
        stopped.map_err(|status| CliError::from(status).with_prefix(&format!("Unable to stop VM {uuid}")))?;
    if stopped.already_stopped {
        say!("VM {uuid} is already not 'running' (currently: stopped)");
        return Ok(());
    }
    say!("Successfully completed stop for VM {uuid}");
    let exit = stopped.vm.and_then(|vm| vm.status?.exit).unwrap_or_default();
    if !stopped.obeyed && !force && !exit.detail.is_empty() {
        say!("    {}", exit.detail);
    }
    Ok(())
}

pub(super) async fn reboot(clients: &mut Clients, uuid: &str, force: bool) -> Result<(), CliError> {
    let request =
        v1::RebootVmRequest { uuid: uuid.to_owned(), etag: String::new(), request_id: request_id(), force };
    let rebooted = persist(|| {
        let (mut vms, request) = (clients.vms.clone(), request.clone());
        async move { vms.reboot_vm(request).await }
    });
    let rebooted = rebooted.await;
    rebooted.map_err(|status| CliError::from(status).with_prefix(&format!("Unable to reboot VM {uuid}")))?;
    say!("Successfully completed reboot for VM {uuid}");
    Ok(())
}

pub(super) async fn delete(clients: &mut Clients, uuid: &str) -> Result<(), CliError> {
    let request =
        v1::DeleteVmRequest { uuid: uuid.to_owned(), etag: String::new(), request_id: request_id() };
    let deleted = persist(|| {
        let (mut vms, request) = (clients.vms.clone(), request.clone());
        async move { vms.delete_vm(request).await }
    });
    let deleted = deleted.await;
    deleted.map_err(|status| CliError::from(status).with_prefix(&format!("Failed to delete VM {uuid}")))?;
    say!("Successfully deleted VM {uuid}");
    Ok(())
}
