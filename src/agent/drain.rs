//! Powering guests off because the host goes down.
//!
//! ```text
//!   drain ──▶ no more VMs are started ──▶ each VM that runs: stop, with its deadline ──▶ told one by one
//! ```
//!
//! It is a stop of each VM by its own actor, so an agent that is killed in the middle leaves stops that the next one
//! finishes. What is different: autoboot stays as it is, and the exit reason is the host's.

use std::{
    io,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{Agent, actor::Command, call::Call, error::Error, registry::VmHandle, reply::VmReply};
use crate::{model::StopCause, spec::VmState};

/// Whether the host goes down. That outlives the agent, and not the boot of the host.
#[derive(Debug)]
pub(super) struct Drain {
    begun: AtomicBool,
    note: PathBuf,
    host_boot: String,
}

impl Drain {
    /// As an earlier agent left it.
    pub(super) fn open(note: PathBuf, host_boot: &str) -> Self {
        let begun = std::fs::read_to_string(&note).is_ok_and(|boot| boot == host_boot);
        Self { begun: begun.into(), note, host_boot: host_boot.to_owned() }
    }

    /// Fails when nothing more may be started.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.begun.load(Ordering::Relaxed) { Err(Error::Draining) } else { Ok(()) }
    }

    /// From here on. A disk that is full keeps no host from going down.
    fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
        if let Err(error) = std::fs::write(&self.note, &self.host_boot) {
            tracing::warn!(%error, note = %self.note.display(), "another agent would start VMs again");
        }
    }

    /// The host stays.
    fn end(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.begun.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// A VM that was to be powered off.
#[derive(Clone, Debug)]
pub struct Drained {
    /// Which.
    pub uuid: Uuid,
    /// What it is called.
    pub alias: String,
    /// Why it still runs; nothing when it is off.
    pub failure: Option<Error>,
    /// How many are still on their way.
    pub left: usize,
}

impl Agent {
    /// VMs may be started again: the host stays.
    pub async fn end_drain(&self, call: &Call) -> Result<(), Error> {
        self.tell_call(call, None, "DrainHost", "ended").await;
        self.inner.drain.end().map_err(Error::internal)
    }

    /// Powers every guest off; the channel tells of each, and ends. It goes on when nobody listens.
    pub async fn drain(&self, call: Call, timeout_seconds: u32) -> mpsc::Receiver<Drained> {
        self.inner.drain.begin();
        let detail = format!("timeout {timeout_seconds} s");
        self.tell_call(&call, None, "DrainHost", &detail).await;
        // All of them: one that is stopped now may be about to start. Its actor knows.
        let vms = self.inner.registry.all();
        tracing::info!(vms = vms.len(), timeout_seconds, actor = call.actor, "the host goes down");
        let (sender, receiver) = mpsc::channel(vms.len().max(1));
        let mut left = vms.len();
        let agent = self.clone();
        self.inner.tasks.spawn(async move {
            let mut stops = tokio::task::JoinSet::new();
            for vm in vms {
                let (agent, call) = (agent.clone(), call.clone());
                let ran = may_run(vm.record().state);
                stops
                    .spawn(async move { (stop(&agent, &vm, call, timeout_seconds).await, ran, vm.record()) });
            }
            while let Some(Ok((result, ran, vm))) = stops.join_next().await {
                left -= 1;
                let was_off = matches!(&result, Ok(VmReply { already: true, .. }));
                if matches!(result, Err(Error::VmNotFound { .. })) || (was_off && !ran) {
                    continue;
                }
                let alias = vm.spec.alias.clone().unwrap_or_default();
                let failure = result.err();
                let _ = sender.send(Drained { uuid: vm.uuid, alias, failure, left }).await;
            }
        });
        receiver
    }
}

fn may_run(state: VmState) -> bool {
    state.has_hypervisor() || matches!(state, VmState::Starting | VmState::Lost)
}

async fn stop(agent: &Agent, vm: &VmHandle, call: Call, timeout_seconds: u32) -> Result<VmReply, Error> {
    let (reply, answer) = oneshot::channel();
    // One that does not answer can't be asked, and would not outlive its host.
    let force = vm.record().state == VmState::Lost;
    let (etag, cause) = (String::new(), StopCause::HostShutdown);
    vm.send(Command::Stop { call, etag, force, timeout_seconds, cause, reply })?;
    answer.await.map_err(|_| agent.unanswered(vm.record().uuid))?
}
