//! A running VM's interfaces: the guest's requests are answered, and changes of its packet rules take effect.

use std::collections::HashSet;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::{
    agent::{context::VmContext, error::Error, guest::late_phases::LatePhases},
    model::{Phase, VmRecord},
    network::{Assigned, Wiring},
    spec::{NicSpec, Violation, VmSpec},
};

/// Addresses that wait to be journaled.
const QUEUE: usize = 16;

/// A guest whose requests are answered for as long as this is held.
#[derive(Debug)]
pub(in crate::agent) struct Attended {
    told: mpsc::Sender<Assigned>,
    _serving: AbortOnDropHandle<()>,
    _journal: AbortOnDropHandle<()>,
}

impl Attended {
    /// Begins serving. Without `late`, addresses are not journaled.
    pub(in crate::agent) fn begin(context: &VmContext, vm: &VmRecord, late: Option<LatePhases>) -> Self {
        let (told, assigned) = mpsc::channel(QUEUE);
        let journal = tokio::spawn(journal(late, assigned));
        let serving = serve(context, vm, told.clone());
        Self { told, _serving: serving, _journal: AbortOnDropHandle::new(journal) }
    }

    /// Continues with the current record.
    pub(in crate::agent) fn follow(&mut self, context: &VmContext, vm: &VmRecord) {
        self._serving = serve(context, vm, self.told.clone());
    }
}

fn serve(context: &VmContext, vm: &VmRecord, told: mpsc::Sender<Assigned>) -> AbortOnDropHandle<()> {
    let (links, wiring) = (context.platform.links.clone(), wiring(context, vm));
    AbortOnDropHandle::new(tokio::spawn(async move { links.attend(&wiring, told).await }))
}

async fn journal(late: Option<LatePhases>, mut assigned: mpsc::Receiver<Assigned>) {
    while let Some(Assigned { mac, address }) = assigned.recv().await {
        if let Some(late) = &late {
            late.reached(Phase::GuestAddress { mac, address }).await;
        }
    }
}

/// Returns why a machine's interfaces can't use their tags.
pub(in crate::agent) fn violations(context: &VmContext, spec: &VmSpec) -> Vec<Violation> {
    let tags = context.platform.links.known();
    let wrong = |(index, nic): (usize, &NicSpec)| {
        // A missing tag is reported elsewhere.
        nic.nic_tag.as_ref()?;
        let (field, why) = tags.check(nic).err()?;
        Some(Violation::value(format!("nics.{index}.{field}"), why))
    };
    spec.nics.iter().enumerate().filter_map(wrong).collect()
}

/// Why a machine's interfaces can't be plugged now.
pub(in crate::agent) async fn problem(context: &VmContext, spec: &VmSpec) -> Option<String> {
    if let Some(violation) = violations(context, spec).into_iter().next() {
        return Some(violation.message);
    }
    let tags = context.platform.links.tags().await;
    let of = |nic: &NicSpec| {
        let tag = tags.iter().find(|tag| nic.nic_tag.as_deref() == Some(&*tag.name))?;
        Some(format!("nic tag \"{}\": {}", tag.name, tag.problem.as_ref()?))
    };
    spec.nics.iter().find_map(of)
}

/// The interfaces that a running VM has.
fn wiring(context: &VmContext, vm: &VmRecord) -> Wiring {
    let booted = vm.machine.as_ref().map_or(&vm.spec.nics, |machine| &machine.nics);
    Wiring::new(vm.uuid, context.platform.zone.user(vm.zone_index), booted, &vm.spec)
}

/// Applies the packet rules of a running VM.
pub(in crate::agent) async fn guard(context: &VmContext, vm: &VmRecord) -> Result<(), Error> {
    context.platform.links.guard(&wiring(context, vm)).await.map_err(Error::internal)
}

/// Checks whether rules could be applied.
pub(in crate::agent) async fn check(context: &VmContext, vm: &VmRecord) -> Result<(), Error> {
    context.platform.links.check(&wiring(context, vm)).await.map_err(Error::internal)
}

/// Returns whether the packet rules of two machines differ.
pub(in crate::agent) fn rules_differ(before: &VmSpec, after: &VmSpec) -> bool {
    before.nics != after.nics || before.firewall_enabled != after.firewall_enabled
}

/// Returns whether the packet rules or network settings differ.
pub(in crate::agent) fn differ(before: &VmSpec, after: &VmSpec) -> bool {
    rules_differ(before, after)
        || (&before.resolvers, &before.hostname, &before.routes)
            != (&after.resolvers, &after.hostname, &after.routes)
}

/// Reattaches a running VM's links to recreated bridges; returns whether one was.
pub(in crate::agent) async fn rejoin(context: &VmContext, vm: &VmRecord) -> bool {
    match context.platform.links.rejoin(&wiring(context, vm)).await {
        Ok(back) => {
            if back {
                tracing::info!("the VM's interfaces are connected again");
            }
            back
        }
        Err(error) => {
            tracing::error!(%error, "the VM's interfaces are disconnected; retrying");
            false
        }
    }
}

/// Removes unused bridges when the agent starts, and returns the VMs of which links still exist.
pub(in crate::agent) async fn remains(context: &VmContext) -> HashSet<Uuid> {
    let links = &context.platform.links;
    if let Err(error) = links.sweep().await {
        tracing::warn!(%error, "cannot remove unused bridges");
    }
    match links.remains().await {
        Ok(remains) => remains.into_iter().map(|left| left.uuid).collect(),
        Err(error) => {
            tracing::warn!(%error, "the links of stopped VMs could not be listed");
            HashSet::new()
        }
    }
}
