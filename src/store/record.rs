//! What is kept of a VM.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::spec::{BootOptions, DiskSpec, Enforcement, LimitReport, NicSpec, VmSpec, VmState};

/// Wall-clock time in milliseconds since 1970; only ever shown, never used to order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_millisecond())
    }

    /// That time.
    #[must_use]
    pub fn from_system(time: SystemTime) -> Self {
        Self(jiff::Timestamp::try_from(time).map_or(0, jiff::Timestamp::as_millisecond))
    }

    /// So much later.
    #[must_use]
    pub fn later(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long it is until then; nothing when it is over.
    #[must_use]
    pub fn until(self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(Self::now().0)).unwrap_or(0))
    }
}

/// The record of a VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmRecord {
    /// Its name for life.
    pub uuid: Uuid,
    /// Grows with each change, from a number that no earlier VM of this UUID had; the etag.
    pub generation: u64,
    /// Complete.
    pub spec: VmSpec,
    /// Where it is in its life.
    pub state: VmState,
    /// The zone's place in the host's range of zone users; no other VM has it.
    #[serde(default)]
    pub zone_index: u32,
    /// When it was made.
    pub created: Timestamp,
    /// When it last changed.
    pub modified: Timestamp,
    /// The hypervisor; there while the state has one, or may have one.
    pub machine: Option<Machine>,
    /// How it came, or comes, to be; there from STARTING on.
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
    /// What its VNC endpoint asks for when the machine has no `vnc_password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnc_secret: Option<String>,
}

/// A running hypervisor. Which process it is stands in the run directory, not here: that is written
/// before the process runs its first instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// On the host.
    pub pid: i32,
    /// When it was started.
    pub booted: Timestamp,
    /// What runs guest code: `kvm` or `tcg`.
    pub accelerator: String,
    /// What the hypervisor is kept from.
    #[serde(default)]
    pub enforcements: Vec<Enforcement>,
    /// What bounds it.
    #[serde(default)]
    pub limits: Vec<LimitReport>,
    /// Its CD drives.
    #[serde(default)]
    pub cds: Vec<CdDrive>,
    /// Its interfaces, as they were when it was booted.
    #[serde(default)]
    pub nics: Vec<NicSpec>,
    /// How often it was reset.
    #[serde(default)]
    pub resets: u64,
    /// When it was reset last.
    #[serde(default)]
    pub last_reset: Option<Timestamp>,
}

/// A boot as it was asked for, so that another agent can go on with it and tell of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootCall {
    /// Who called.
    pub actor: String,
    /// The caller's id of the request.
    pub request_id: Option<Uuid>,
    /// When, on the host's clock that nobody sets: its phases count from then.
    pub called_us: u64,
    /// What it does differently.
    pub options: BootOptions,
}

impl VmRecord {
    /// What a viewer is asked for at the VNC endpoint.
    #[must_use]
    pub fn vnc_password(&self) -> Option<&str> {
        self.spec.vnc_password.as_deref().or(self.vnc_secret.as_deref())
    }

    /// Disks that an update which was cut made, or did not come to remove.
    #[must_use]
    pub fn leftover_disks(&self) -> Vec<String> {
        let known: Vec<&str> = self.spec.disks.iter().filter_map(DiskSpec::file_name).collect();
        self.unsettled.iter().filter(|name| !known.contains(&name.as_str())).cloned().collect()
    }

    /// The interfaces that it has until its next boot; none when it does not run.
    #[must_use]
    pub fn running_nics(&self) -> &[NicSpec] {
        self.machine.as_ref().map_or(&[], |machine| &machine.nics)
    }
}

/// A stop as it was meant, so that the next agent finishes it as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopPlan {
    /// When the power is cut.
    pub deadline: Timestamp,
    /// A reboot: the VM is started again.
    pub then_start: bool,
    /// The calls whose answers wait for its end.
    pub calls: Vec<WaitingCall>,
    /// Who wanted it.
    #[serde(default)]
    pub cause: StopCause,
    /// The guest can have heard the power button.
    #[serde(default)]
    pub pressed: bool,
    /// Nobody wanted the guest to be asked.
    #[serde(default)]
    pub forced: bool,
}

/// A signal that a caller sent to the hypervisor, and that may be its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kill {
    /// Who.
    pub call: WaitingCall,
    /// Which.
    pub signal: i32,
}

/// Who wanted a VM stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// A caller.
    #[default]
    Operator,
    /// The host, which goes down.
    HostShutdown,
}

impl StopCause {
    /// Why a run ends that is stopped for it.
    #[must_use]
    pub fn reason(self) -> ExitReason {
        match self {
            Self::Operator => ExitReason::Operator,
            Self::HostShutdown => ExitReason::HostShutdown,
        }
    }
}

/// A call that is answered later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingCall {
    /// Who called.
    pub actor: String,
    /// The caller's id of the request.
    pub request_id: Option<Uuid>,
    /// Of the request's content.
    pub digest: [u8; 32],
    /// It wants the VM to run again.
    pub reboots: bool,
}

/// A CD drive of a running machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CdDrive {
    /// The hypervisor's name of it.
    pub id: String,
    /// What is in it, a path inside the zone's root; empty when nothing is.
    pub path: String,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Why.
    pub reason: ExitReason,
    /// Exit code, or 128 + signal.
    pub status: i32,
    /// When, by the hypervisor's word; else when it was noticed.
    pub time: Timestamp,
    /// The hypervisor's last words, when it failed; how a stop went.
    pub detail: String,
    /// A guest that was asked to stop did.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub obeyed: bool,
}

impl Exit {
    /// One that is noticed now, with no code, and that nobody asked for.
    #[must_use]
    pub fn noticed(reason: ExitReason, detail: String) -> Self {
        Self { reason, status: 0, time: Timestamp::now(), detail, obeyed: false }
    }
}

/// Why a hypervisor is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// Nobody saw how.
    Unknown,
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest panicked.
    GuestPanic,
    /// Stopped through the agent.
    Operator,
    /// The hypervisor failed by itself.
    HypervisorError,
    /// A signal that the agent did not send.
    Signal,
    /// The host, because it needed more memory than its limit.
    OutOfMemory,
    /// The guest rebooted itself.
    GuestReset,
    /// Stopped because the host goes down.
    HostShutdown,
    /// Asked to stop, it did not obey in time: its power was cut.
    PowerCut,
}

impl VmRecord {
    /// Where the VM is on its way to, and by when that is decided, if it is.
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

    /// The tag that makes a change conditional.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("g{}", self.generation)
    }
}
