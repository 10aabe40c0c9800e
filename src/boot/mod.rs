//! The boot plan: the way from "stopped" to "running", the only place where the mechanisms meet.
//!
//! ```text
//!   step        makes                                    its undo
//!   zone        run folder, console, control socket      removes them
//!   disks       open disks, CDs, firmware                closes them
//!   nics        taps, which are down                     unplugs them
//!   hypervisor  the process, stopped                     kills it and waits
//!   control     the control connection                   drops it
//!   display     the VNC endpoint                         closes it
//!   links       rules of what taps carry; taps are up    (of the taps)
//!   run         the guest's first instruction            (the process's undo)
//! ```
//!
//! A step is noted before it acts, so when one fails its own undo runs too: undos cope with half-finished
//! steps. The error carries the step and the hypervisor's last words.

mod converter;
mod devices;
mod host;
mod plan;

use std::{net::IpAddr, sync::Arc};

use tokio::sync::mpsc;

use crate::{
    console::{Console, VncEndpoint},
    hypervisor::{Hypervisor, Machine},
    image::Converter,
    layout::VmLayout,
    model::{BootPhase, Phase, VmRecord},
    network::{Links, Wiring},
    spec::{BootOptions, Brand},
    storage::Volumes,
    zone::{Process, Zone},
};

pub use converter::ZonedConverter;
pub(crate) use devices::cd_drives;
pub(crate) use host::host_clock;
pub use host::this_host_boot;
pub(crate) use plan::{boot, listen_vnc};

/// The mechanisms of this host.
#[derive(Clone, Debug)]
pub struct Platform {
    /// Makes sandboxes.
    pub zone: Arc<dyn Zone>,
    /// Runs machines of brand kvm.
    pub kvm: Arc<dyn Hypervisor>,
    /// Runs machines of brand bhyve.
    pub bhyve: Arc<dyn Hypervisor>,
    /// Makes disks.
    pub volumes: Arc<dyn Volumes>,
    /// Makes disks of images.
    pub converter: Arc<dyn Converter>,
    /// Plugs interfaces.
    pub links: Arc<dyn Links>,
    /// The id of this boot of the host; see [`this_host_boot`].
    pub host_boot: String,
}

impl Platform {
    /// Returns the hypervisor of a brand.
    #[must_use]
    pub fn hypervisor(&self, brand: Brand) -> &Arc<dyn Hypervisor> {
        match brand {
            Brand::Kvm => &self.kvm,
            Brand::Bhyve => &self.bhyve,
        }
    }
}

/// A boot to be done.
#[derive(Debug)]
pub(crate) struct BootRequest<'a> {
    /// The mechanisms.
    pub platform: &'a Platform,
    /// The VM.
    pub vm: &'a VmRecord,
    /// The VM's paths.
    pub layout: &'a VmLayout,
    /// Its console.
    pub console: &'a Console,
    /// The options of this boot.
    pub options: &'a BootOptions,
    /// Where its VNC endpoint listens.
    pub vnc_address: IpAddr,
}

impl BootRequest<'_> {
    /// Its interfaces.
    fn wiring(&self) -> Wiring {
        let VmRecord { uuid, spec, zone_index, .. } = self.vm;
        Wiring::new(*uuid, self.platform.zone.user(*zone_index), &spec.nics, spec)
    }
}

/// A VM that runs.
#[derive(Debug)]
pub(crate) struct Running {
    /// The hypervisor's process.
    pub process: Arc<dyn Process>,
    /// The hypervisor's control connection.
    pub machine: Arc<dyn Machine>,
    /// The VNC endpoint, unless the VM has none.
    pub vnc: Option<VncEndpoint>,
    /// What runs guest code.
    pub accelerator: String,
}

/// A boot that failed; everything was undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BootFailure {
    /// In which step.
    pub step: &'static str,
    /// Why, with the hypervisor's last words.
    pub reason: String,
    /// The hypervisor needed more memory than its limit.
    pub out_of_memory: bool,
}

/// Reports the phases of a boot as they are reached.
#[derive(Debug)]
pub(crate) struct Clock {
    called_us: u64,
    phases: mpsc::Sender<BootPhase>,
}

impl Clock {
    /// Room that the channel of phases needs, so that reporting never waits.
    pub(crate) const PHASES: usize = 16;

    /// Counts from the time of the call, by [`host_clock`].
    #[must_use]
    pub(crate) fn new(called_us: u64, phases: mpsc::Sender<BootPhase>) -> Self {
        Self { called_us, phases }
    }

    fn reached(&self, phase: Phase) {
        // Fails only when nobody listens.
        let _ = self.phases.try_send(phase_at(self.called_us, phase));
    }
}

/// Returns a phase that a boot called at `called_us` reaches now.
#[must_use]
pub(crate) fn phase_at(called_us: u64, phase: Phase) -> BootPhase {
    BootPhase { phase, elapsed_us: host_clock().saturating_sub(called_us) }
}
