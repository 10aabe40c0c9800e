//! Powering guests off because the host goes down.
//!
//! ```text
//!   drain ──▶ no more VMs are started ──▶ each VM that runs: stop, with its deadline ──▶ told one by one
//! ```
//!
//! Each VM is stopped by its own actor, so a killed agent leaves stops that the next one finishes. Unlike in
//! an operator's stop, autoboot stays as it is, and the exit reason is the host's.

use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    agent::{
        Agent,
        context::{command::Command, handle::VmHandle},
        error::Error,
        request::{call::Call, reply::VmReply},
    },
    model::StopCause,
    spec::VmState,
};

/// A VM that was to be powered off.
#[derive(Clone, Debug)]
pub struct Drained {
    /// Which.
    pub uuid: Uuid,
    /// The VM's alias.
    pub alias: String,
    /// Why it still runs; nothing when it is off.
    pub failure: Option<Error>,
    /// How many stops are still under way.
    pub left: usize,
}

impl Agent {
    /// Allows starts again: the host stays up.
    pub async fn end_drain(&self, call: &Call) -> Result<(), Error> {
        self.journal_call(call, None, "DrainHost", "ended").await;
        self.context.draining.end().map_err(Error::internal)
    }

    /// Powers every guest off; the channel reports each, and ends. The drain continues when nobody listens.
    pub async fn drain(&self, call: Call, timeout_seconds: u32) -> mpsc::Receiver<Drained> {
        self.context.draining.begin();
        let detail = format!("timeout {timeout_seconds} s");
        self.journal_call(&call, None, "DrainHost", &detail).await;
        // All VMs: one that is stopped now may be about to start, which only its actor knows.
        let vms = self.context.registry.all();
        tracing::info!(vms = vms.len(), timeout_seconds, actor = call.actor, "the host goes down");
        let (sender, receiver) = mpsc::channel(vms.len().max(1));
        let mut left = vms.len();
        self.context.tasks.spawn(async move {
            let mut stops = tokio::task::JoinSet::new();
            for vm in vms {
                let (call, ran) = (call.clone(), may_run(vm.record().state));
                stops.spawn(async move { (stop(&vm, call, timeout_seconds).await, ran, vm.record()) });
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

async fn stop(vm: &VmHandle, call: Call, timeout_seconds: u32) -> Result<VmReply, Error> {
    // A lost VM can't be asked to stop, and would not outlive its host.
    let force = vm.record().state == VmState::Lost;
    let (etag, cause) = (String::new(), StopCause::HostShutdown);
    vm.ask(|reply| Command::Stop { call, etag, force, timeout_seconds, cause, reply }).await
}
