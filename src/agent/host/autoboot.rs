//! Starts VMs with their host: each VM with autoboot, once per boot of the host (see [`turn`]).
//!
//! A killed agent leaves the remaining VMs with the old boot, and the next agent continues with them. A
//! failed boot is not repeated.

use futures_util::{StreamExt as _, stream};
use uuid::Uuid;

use crate::{
    agent::{
        context::{VmContext, command::Command},
        error::Error,
        request::{call::Call, reply::VmReply},
        vm::turn,
    },
    spec::BootOptions,
};

/// Starts the due VMs in the background.
pub(in crate::agent) fn begin(context: &VmContext) {
    let parallel = context.settings.autoboot_parallel;
    let vms = context.registry.all().into_iter().map(|handle| handle.record());
    let mut due: Vec<_> =
        vms.filter(|vm| turn::is_due(context, vm)).map(|vm| (vm.created, vm.uuid)).collect();
    if due.is_empty() {
        return;
    }
    // The oldest first: others may depend on them.
    due.sort();
    tracing::info!(vms = due.len(), parallel, "the host was started; starting its VMs");
    let worker = context.clone();
    context.tasks.spawn(async move {
        let starts = stream::iter(due).for_each_concurrent(parallel, |(_, uuid)| {
            let context = worker.clone();
            async move {
                match start(&context, uuid).await {
                    Ok(()) | Err(Error::Stopping | Error::VmNotFound { .. }) => {}
                    Err(error) => tracing::error!(vm = %uuid, %error, "autoboot failed"),
                }
            }
        });
        let _ = worker.stopping.run_until_cancelled(starts).await;
    });
}

/// Starts a VM, unless it is no longer due.
async fn start(context: &VmContext, uuid: Uuid) -> Result<(), Error> {
    loop {
        let handle = context.registry.get(uuid)?;
        let vm = handle.record();
        if !turn::is_due(context, &vm) {
            return Ok(());
        }
        let (call, etag, options) = (Call::own(), vm.etag(), BootOptions::default());
        let start = |reply| Command::Start { call, etag, options, progress: None, reply };
        match handle.ask::<VmReply>(start).await {
            // The VM changed in between: check again.
            Err(Error::EtagMismatch { .. }) => {}
            result => return result.map(drop),
        }
    }
}
