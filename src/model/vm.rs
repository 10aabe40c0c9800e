//! The record of a VM.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    exit::Exit,
    run::{BootCall, Run},
    stop::{Kill, StopPlan, WaitingCall},
    time::Timestamp,
};
use crate::spec::{DiskSpec, NicSpec, VmSpec, VmState};

/// The record of a VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmRecord {
    /// Its permanent name.
    pub uuid: Uuid,
    /// Grows with each change, from a number that no earlier VM of this UUID had; the etag.
    pub generation: u64,
    /// Complete.
    pub spec: VmSpec,
    /// Its lifecycle state.
    pub state: VmState,
    /// The zone's place in the host's range of zone users; no other VM has it.
    #[serde(default)]
    pub zone_index: u32,
    /// When it was created.
    pub created: Timestamp,
    /// When it last changed.
    pub modified: Timestamp,
    /// The hypervisor, while the state has one or may have one.
    pub machine: Option<Run>,
    /// The hypervisor's boot; present from STARTING on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootCall>,
    /// How the last run ended; in a running hypervisor, the guest's run before its last reset.
    pub exit: Option<Exit>,
    /// The stop that is under way; with a reboot until the VM runs again.
    #[serde(default)]
    pub stop: Option<StopPlan>,
    /// File names of disks that an update under way makes or removes. Those that the machine does not have are
    /// removed by the next agent; no other disk ever is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsettled: Vec<String>,
    /// Calls that wait for the end of a start or a deletion, for the agent that has to answer them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<WaitingCall>,
    /// The last signal that a caller sent to this hypervisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kill: Option<Kill>,
    /// The boot of the host in which the VM was made, started, or decided to stay stopped. In another one it is
    /// started once, if it has autoboot.
    #[serde(default)]
    pub host_boot: Option<String>,
    /// The TCP port of the VNC endpoint in the last run, so that it stays the same over a restart of
    /// the agent.
    pub vnc_port: Option<u16>,
    /// The password of its VNC endpoint when the machine has no `vnc_password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnc_secret: Option<String>,
}

impl VmRecord {
    /// Whether the running machine has a screen; without one, whether the next will have.
    #[must_use]
    pub fn has_screen(&self) -> bool {
        self.machine.as_ref().map_or(self.spec.has_screen(), |run| run.screen)
    }

    /// Returns the password of the VNC endpoint.
    #[must_use]
    pub fn vnc_password(&self) -> Option<&str> {
        let password = self.spec.vnc_password.as_deref().or(self.vnc_secret.as_deref());
        password.filter(|_| self.has_screen())
    }

    /// Returns disks that an interrupted update created, or failed to remove.
    #[must_use]
    pub fn leftover_disks(&self) -> Vec<String> {
        let known: Vec<&str> = self.spec.disks.iter().filter_map(DiskSpec::file_name).collect();
        self.unsettled.iter().filter(|name| !known.contains(&name.as_str())).cloned().collect()
    }

    /// Returns disks whose files may hold more than their sizes, because an update that shrank them was interrupted.
    #[must_use]
    pub fn disks_to_cut(&self) -> Vec<DiskSpec> {
        let is_named =
            |disk: &&DiskSpec| disk.file_name().is_some_and(|name| self.unsettled.iter().any(|n| n == name));
        self.spec.disks.iter().filter(|disk| disk.is_made_here()).filter(is_named).cloned().collect()
    }

    /// The interfaces that it has until its next boot; none when it does not run.
    #[must_use]
    pub fn running_nics(&self) -> &[NicSpec] {
        self.machine.as_ref().map_or(&[], |machine| &machine.nics)
    }
}

impl VmRecord {
    /// Returns the state that the VM is changing to, and its deadline, if any.
    #[must_use]
    pub fn transition(&self) -> Option<(VmState, Option<Timestamp>)> {
        let stop = self.stop.as_ref();
        match self.state {
            VmState::Provisioning if self.spec.autoboot() => Some((VmState::Running, None)),
            VmState::Provisioning => Some((VmState::Stopped, None)),
            VmState::Starting => Some((VmState::Running, None)),
            VmState::Stopping if stop.is_some_and(|stop| stop.then_start) => {
                Some((VmState::Running, stop.map(|stop| stop.deadline)))
            }
            VmState::Stopping => Some((VmState::Stopped, stop.map(|stop| stop.deadline))),
            _ => None,
        }
    }

    /// The record that follows this one, with another etag.
    #[must_use]
    pub fn next(&self, edit: impl FnOnce(&mut Self)) -> Self {
        let mut next = self.clone();
        edit(&mut next);
        next.generation = self.generation + 1;
        next.modified = Timestamp::now();
        next
    }

    /// The tag that makes a change conditional.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("g{}", self.generation)
    }
}
