//! A VM's interfaces while it runs: its requests are answered, and changes of what it may send take effect.

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
    /// Begins. Without `late`, its addresses are no news.
    pub(in crate::agent) fn begin(context: &VmContext, vm: &VmRecord, late: Option<LatePhases>) -> Self {
        let (told, assigned) = mpsc::channel(QUEUE);
        let journal = tokio::spawn(journal(late, assigned));
        let serving = serve(context, vm, told.clone());
        Self { told, _serving: serving, _journal: AbortOnDropHandle::new(journal) }
    }

    /// Goes on with what is true now.
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

/// What keeps a machine's interfaces from their tags.
pub(in crate::agent) fn violations(context: &VmContext, spec: &VmSpec) -> Vec<Violation> {
    let tags = context.platform.links.known();
    let wrong = |(index, nic): (usize, &NicSpec)| {
        // One that has none is missed elsewhere.
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

/// Puts in force what a running VM may send.
pub(in crate::agent) async fn guard(context: &VmContext, vm: &VmRecord) -> Result<(), Error> {
    context.platform.links.guard(&wiring(context, vm)).await.map_err(Error::internal)
}

/// Whether that could be put in force.
pub(in crate::agent) async fn check(context: &VmContext, vm: &VmRecord) -> Result<(), Error> {
    context.platform.links.check(&wiring(context, vm)).await.map_err(Error::internal)
}

/// Whether a change is one of what interfaces may send.
pub(in crate::agent) fn rules_differ(before: &VmSpec, after: &VmSpec) -> bool {
    before.nics != after.nics || before.firewall_enabled != after.firewall_enabled
}

/// Whether a change is one of what interfaces may send or are told.
pub(in crate::agent) fn differ(before: &VmSpec, after: &VmSpec) -> bool {
    rules_differ(before, after)
        || (&before.resolvers, &before.hostname, &before.routes)
            != (&after.resolvers, &after.hostname, &after.routes)
}

/// Puts the links of a running VM back on bridges that were made again; whether one was.
pub(in crate::agent) async fn rejoin(context: &VmContext, vm: &VmRecord) -> bool {
    match context.platform.links.rejoin(&wiring(context, vm)).await {
        Ok(back) => {
            if back {
                tracing::info!("its interfaces are on their networks again");
            }
            back
        }
        Err(error) => {
            tracing::error!(%error, "its interfaces lead nowhere; it is tried again");
            false
        }
    }
}

/// The VMs of whose links something exists, when the agent starts; bridges that nobody is on are removed.
pub(in crate::agent) async fn remains(context: &VmContext) -> HashSet<Uuid> {
    let links = &context.platform.links;
    if let Err(error) = links.sweep().await {
        tracing::warn!(%error, "bridges that nobody is on");
    }
    match links.remains().await {
        Ok(remains) => remains.into_iter().map(|left| left.uuid).collect(),
        Err(error) => {
            tracing::warn!(%error, "links of VMs that ended meanwhile can't be looked for");
            HashSet::new()
        }
    }
}
