//! Starting VMs with their host: each with autoboot once for each boot of the host.
//!
//! ```text
//!   record.host_boot is        the VM is            then it is
//!   this boot                  anything             left alone: it had its turn
//!   another                    stopped, autoboot    started; the commit that says how that ended gives it this
//!                                                   boot. A VM that was made to be started at once has an empty
//!                                                   one until then
//!   another, or none           anything else        given this boot, so that a later change of autoboot
//!                                                   does not start it when the agent is restarted
//! ```
//!
//! An agent that is killed in the middle leaves them with the old boot, and the next goes on with them. One whose
//! start was cut is tried once more, and not again and again: it may be what ends the agent. A boot that fails is not
//! repeated. Records of agents that had no autoboot have no boot at all: an upgrade starts
//! nothing.

use futures_util::{StreamExt as _, stream};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Agent, actor::Command, call::Call, error::Error};
use crate::{
    model::VmRecord,
    spec::{BootOptions, VmState},
};

/// Starts in the background what has to be started.
pub(super) fn begin(agent: &Agent) {
    let parallel = parallel(agent);
    let vms = agent.inner.registry.all().into_iter().map(|handle| handle.record());
    let mut due: Vec<_> = vms.filter(|vm| is_due(agent, vm)).map(|vm| (vm.created, vm.uuid)).collect();
    if due.is_empty() {
        return;
    }
    // The oldest first: what others were built on.
    due.sort();
    tracing::info!(vms = due.len(), parallel, "the host was started; starting its VMs");
    let worker = agent.clone();
    agent.inner.tasks.spawn(async move {
        let starts = stream::iter(due).for_each_concurrent(parallel, |(_, uuid)| {
            let agent = worker.clone();
            async move {
                match start(&agent, uuid).await {
                    Ok(()) | Err(Error::Stopping | Error::VmNotFound { .. }) => {}
                    Err(error) => tracing::error!(vm = %uuid, %error, "autoboot failed"),
                }
            }
        });
        let _ = worker.stopping().run_until_cancelled(starts).await;
    });
}

/// Whether the VM's turn is over without a start. Noted without an event: nothing that anybody sees is different.
pub(super) fn passes_over(agent: &Agent, vm: &VmRecord) -> bool {
    vm.host_boot.as_ref() != Some(&agent.inner.platform.host_boot) && !is_due(agent, vm)
}

/// What the host boot of a VM is whose start was cut.
const SECOND_TRY: &str = "second try";

/// A start of this VM was cut.
pub(super) fn try_again(agent: &Agent, vm: &mut VmRecord) {
    let this = &agent.inner.platform.host_boot;
    let next = if vm.host_boot.as_deref() == Some(SECOND_TRY) { this } else { SECOND_TRY };
    if vm.host_boot.as_ref().is_some_and(|boot| boot != this) {
        vm.host_boot = Some(next.to_owned());
    }
}

fn is_due(agent: &Agent, vm: &VmRecord) -> bool {
    let another = vm.host_boot.as_ref().is_some_and(|boot| *boot != agent.inner.platform.host_boot);
    another && vm.state == VmState::Stopped && vm.spec.autoboot() && parallel(agent) > 0
}

fn parallel(agent: &Agent) -> usize {
    usize::try_from(agent.inner.config.autoboot_parallel).unwrap_or(usize::MAX)
}

/// Starts a VM, unless somebody else decided about it meanwhile.
async fn start(agent: &Agent, uuid: Uuid) -> Result<(), Error> {
    loop {
        let handle = agent.inner.registry.get(uuid)?;
        let vm = handle.record();
        if !is_due(agent, &vm) {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        let (call, etag, options) = (Call::own(), vm.etag(), BootOptions::default());
        handle.send(Command::Start { call, etag, options, progress: None, reply })?;
        match answer.await.map_err(|_| agent.unanswered(uuid))? {
            // It was changed in between: look again.
            Err(Error::EtagMismatch { .. }) => {}
            result => return result.map(drop),
        }
    }
}
