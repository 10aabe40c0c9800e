//! A VM's interfaces while it runs: its requests are answered, and changes of what it may send take effect.

use std::time::Instant;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Agent, call::Call, error::Error};
use crate::{
    boot,
    network::{Assigned, Attendance, TagReport, Wiring},
    spec::{NicSpec, Violation, VmSpec, VmState},
    store::{Commit, EventKind, Phase, VmRecord},
};

/// Addresses that wait to be journaled.
const QUEUE: usize = 16;

/// A guest whose requests are answered for as long as this is held.
#[derive(Debug)]
pub(super) struct Attended {
    _attendance: Attendance,
    _journal: AbortOnDropHandle<()>,
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

/// Answers a guest. `booted` is the call by which it was started; without one, its addresses are no news.
pub(super) async fn attend(agent: &Agent, vm: &VmRecord, booted: Option<(Call, Instant)>) -> Attended {
    let (told, mut assigned) = mpsc::channel::<Assigned>(QUEUE);
    let attendance = agent.inner.platform.links.attend(&wiring(agent, vm), told).await;
    let (store, uuid) = (agent.inner.store.clone(), vm.uuid);
    let journal = tokio::spawn(async move {
        while let Some(Assigned { mac, address }) = assigned.recv().await {
            let Some((call, since)) = &booted else { continue };
            let phase = boot::phase_at(*since, Phase::GuestAddress { mac, address });
            let events = vec![call.event(uuid, EventKind::Boot(phase))];
            store.commit_soon(Commit { events, ..Commit::default() }).await;
        }
    });
    Attended { _attendance: attendance, _journal: AbortOnDropHandle::new(journal) }
}

/// Puts in force what VMs may send.
pub(super) async fn guard(agent: &Agent, vms: &[&VmRecord]) -> Result<(), Error> {
    let wirings: Vec<Wiring> = vms.iter().map(|vm| wiring(agent, vm)).collect();
    agent.inner.platform.links.guard(&wirings).await.map_err(Error::internal)
}

/// Whether a change is one of what interfaces may send or are told.
pub(super) fn differ(before: &VmSpec, after: &VmSpec) -> bool {
    let of = |spec: &VmSpec| {
        let VmSpec { nics, firewall_enabled, resolvers, hostname, routes, .. } = spec.clone();
        (nics, firewall_enabled, resolvers, hostname, routes)
    };
    of(before) != of(after)
}

/// After a start of the agent: what was committed is in force, and of VMs that ended meanwhile nothing is left.
pub(super) async fn take_over(agent: &Agent) {
    let vms: Vec<_> = agent.inner.registry.all().iter().map(super::registry::VmHandle::record).collect();
    let running: Vec<&VmRecord> = vms.iter().filter(|vm| vm.machine.is_some()).map(|vm| &**vm).collect();
    if !running.is_empty()
        && let Err(error) = guard(agent, &running).await
    {
        tracing::error!(%error, "what interfaces may send is as the agent before left it");
    }
    let remains = agent.inner.platform.links.remains().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "links of VMs that ended meanwhile can't be looked for");
        Vec::new()
    });
    let stopped = vms.iter().filter(|vm| vm.state == VmState::Stopped);
    for vm in stopped.filter(|vm| remains.iter().any(|left| left.uuid == vm.uuid)) {
        if let Err(error) = agent.inner.platform.links.unplug(vm.uuid).await {
            tracing::warn!(vm = %vm.uuid, %error, "its links");
        }
    }
}
