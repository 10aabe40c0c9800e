//! A VM's interfaces while it runs: its requests are answered, and changes of what it may send take effect.

use std::collections::HashSet;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{Agent, error::Error, late_phases::LatePhases};
use crate::{
    model::{Phase, VmRecord},
    network::{Assigned, TagReport, Wiring},
    spec::{NicSpec, Violation, VmSpec},
};

/// Addresses that wait to be journaled.
const QUEUE: usize = 16;

/// A guest whose requests are answered for as long as this is held.
#[derive(Debug)]
pub(super) struct Attended {
    told: mpsc::Sender<Assigned>,
    _serving: AbortOnDropHandle<()>,
    _journal: AbortOnDropHandle<()>,
}

impl Attended {
    /// Begins. Without `late`, its addresses are no news.
    pub(super) fn begin(agent: &Agent, vm: &VmRecord, late: Option<LatePhases>) -> Self {
        let (told, assigned) = mpsc::channel(QUEUE);
        let journal = tokio::spawn(journal(late, assigned));
        let serving = serve(agent, vm, told.clone());
        Self { told, _serving: serving, _journal: AbortOnDropHandle::new(journal) }
    }

    /// Goes on with what is true now.
    pub(super) fn follow(&mut self, agent: &Agent, vm: &VmRecord) {
        self._serving = serve(agent, vm, self.told.clone());
    }
}

fn serve(agent: &Agent, vm: &VmRecord, told: mpsc::Sender<Assigned>) -> AbortOnDropHandle<()> {
    let (links, wiring) = (agent.inner.platform.links.clone(), wiring(agent, vm));
    AbortOnDropHandle::new(tokio::spawn(async move { links.attend(&wiring, told).await }))
}

async fn journal(late: Option<LatePhases>, mut assigned: mpsc::Receiver<Assigned>) {
    while let Some(Assigned { mac, address }) = assigned.recv().await {
        if let Some(late) = &late {
            late.reached(Phase::GuestAddress { mac, address }).await;
        }
    }
}

impl Agent {
    /// The nic tags of this host.
    pub async fn nic_tags(&self) -> Vec<TagReport> {
        self.inner.platform.links.tags().await
    }
}

/// What keeps a machine's interfaces from their tags.
pub(super) fn violations(agent: &Agent, spec: &VmSpec) -> Vec<Violation> {
    let tags = agent.inner.platform.links.known();
    let wrong = |(index, nic): (usize, &NicSpec)| {
        // One that has none is missed elsewhere.
        nic.nic_tag.as_ref()?;
        let (field, why) = tags.check(nic).err()?;
        Some(Violation::value(format!("nics.{index}.{field}"), why))
    };
    spec.nics.iter().enumerate().filter_map(wrong).collect()
}

/// Why a machine's interfaces can't be plugged now.
pub(super) async fn problem(agent: &Agent, spec: &VmSpec) -> Option<String> {
    if let Some(violation) = violations(agent, spec).into_iter().next() {
        return Some(violation.message);
    }
    let tags = agent.inner.platform.links.tags().await;
    let of = |nic: &NicSpec| {
        let tag = tags.iter().find(|tag| nic.nic_tag.as_deref() == Some(&*tag.name))?;
        Some(format!("nic tag \"{}\": {}", tag.name, tag.problem.as_ref()?))
    };
    spec.nics.iter().find_map(of)
}

/// The interfaces that a running VM has.
fn wiring(agent: &Agent, vm: &VmRecord) -> Wiring {
    let booted = vm.machine.as_ref().map_or(&vm.spec.nics, |machine| &machine.nics);
    Wiring::new(vm.uuid, agent.inner.platform.zone.user(vm.zone_index), booted, &vm.spec)
}

/// Puts in force what a running VM may send.
pub(super) async fn guard(agent: &Agent, vm: &VmRecord) -> Result<(), Error> {
    agent.inner.platform.links.guard(&wiring(agent, vm)).await.map_err(Error::internal)
}

/// Whether that could be put in force.
pub(super) async fn check(agent: &Agent, vm: &VmRecord) -> Result<(), Error> {
    agent.inner.platform.links.check(&wiring(agent, vm)).await.map_err(Error::internal)
}

/// Whether a change is one of what interfaces may send.
pub(super) fn rules_differ(before: &VmSpec, after: &VmSpec) -> bool {
    before.nics != after.nics || before.firewall_enabled != after.firewall_enabled
}

/// Whether a change is one of what interfaces may send or are told.
pub(super) fn differ(before: &VmSpec, after: &VmSpec) -> bool {
    rules_differ(before, after)
        || (&before.resolvers, &before.hostname, &before.routes)
            != (&after.resolvers, &after.hostname, &after.routes)
}

/// Puts the links of a running VM back on bridges that were made again; whether one was.
pub(super) async fn rejoin(agent: &Agent, vm: &VmRecord) -> bool {
    match agent.inner.platform.links.rejoin(&wiring(agent, vm)).await {
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
pub(super) async fn remains(agent: &Agent) -> HashSet<Uuid> {
    let links = &agent.inner.platform.links;
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
