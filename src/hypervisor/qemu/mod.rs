//! QEMU, in the shape of either brand's machine.
//!
//! The agent opens everything that QEMU touches: disks, CDs, firmware, the control socket, console and log
//! reach it as descriptors. QEMU itself opens only its BIOS files.

mod accel;
mod arguments;
mod bhyve;
mod binary;
mod boot_order;
mod builder;
mod devices;
mod firmware;
mod info;
mod kvm;
mod machine;
mod offers;
mod qmp;
mod settings;
mod trace;
mod verdict;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::OnceCell;
use uuid::Uuid;

pub use accel::{Accelerator, probe_kvm};
use machine::QemuMachine;
use offers::Catalogue;
pub use settings::{Accel, Settings};
use verdict::Memory;

use super::{Description, Firmware, Hypervisor, HypervisorError, LastWords, Machine, MachinePlan, Program};
use crate::spec::{Bootrom, Brand, Violation, VmSpec};

/// Runs QEMU with machines of one brand.
#[derive(Clone, Debug)]
pub struct Qemu {
    brand: Brand,
    host: Arc<OnThisHost>,
}

/// What both brands share.
#[derive(Debug)]
struct OnThisHost {
    settings: Settings,
    accelerator: OnceCell<Accelerator>,
    catalogue: Catalogue,
    memory: Memory,
}

impl Qemu {
    /// QEMU as configured, for brand kvm. Keeps the KVM verdict for this boot of the host at `verdict`.
    #[must_use]
    pub fn new(settings: Settings, verdict: PathBuf, host_boot: &str) -> Self {
        let catalogue = Catalogue::new(&settings.binary);
        let memory = Memory { path: verdict, host_boot: host_boot.to_owned() };
        let host = OnThisHost { settings, accelerator: OnceCell::new(), catalogue, memory };
        Self { brand: Brand::Kvm, host: host.into() }
    }

    /// The same QEMU, for another brand.
    #[must_use]
    pub fn of(&self, brand: Brand) -> Self {
        Self { brand, host: self.host.clone() }
    }

    /// Decided once for the life of the agent; the decision may take seconds.
    async fn accelerator(&self) -> &Accelerator {
        let OnThisHost { settings, accelerator, memory, .. } = &*self.host;
        accelerator.get_or_init(|| accel::choose(settings, memory)).await
    }
}

/// Returns the version in QEMU's output for `--version`, like `7.2.22 (Debian 1:7.2+dfsg-7)`; empty if it is not QEMU's.
#[must_use]
pub fn version_of(text: &str) -> &str {
    let first = text.lines().next().unwrap_or_default();
    first.strip_prefix("QEMU emulator version ").unwrap_or_default()
}

/// Describes a QEMU of that version as the hypervisor of a brand.
#[must_use]
pub fn in_words(brand: Brand, version: &str) -> String {
    let qemu = match version.split(' ').next() {
        None | Some("") => return "QEMU can't be run".to_owned(),
        Some(number) => format!("QEMU {number}"),
    };
    match brand {
        Brand::Kvm => qemu,
        Brand::Bhyve => format!("{qemu} in the shape of bhyve's machine; there is no bhyve on this host"),
    }
}

#[async_trait]
impl Hypervisor for Qemu {
    async fn describe(&self) -> Description {
        let (version, machine_types) = self.host.catalogue.version_and_machines(self.brand).await;
        let accelerator = self.accelerator().await;
        Description {
            text: in_words(self.brand, &version),
            version,
            accelerator: accelerator.name.to_owned(),
            reason: accelerator.reason.clone(),
            machine_types,
        }
    }

    async fn faults(&self, spec: &VmSpec) -> Vec<Violation> {
        let mut found = self.host.catalogue.faults(spec, self.accelerator().await).await;
        if let Some(why) = firmware::fault(&self.host.settings, spec.bootrom()) {
            found.push(Violation::value("bootrom", why));
        }
        found.extend(super::bhyves_arguments(spec));
        found
    }

    fn open_firmware(&self, bootrom: &Bootrom, vars: &Path) -> Result<Firmware, HypervisorError> {
        firmware::open(&self.host.settings, bootrom, vars)
    }

    fn settle_firmware(&self, bootrom: &Bootrom, vars: &Path) -> Result<(), HypervisorError> {
        firmware::settle(&self.host.settings, bootrom, vars)
    }

    async fn program(&self, plan: MachinePlan) -> Result<Program, HypervisorError> {
        if !self.host.settings.binary.exists() {
            return Err(HypervisorError::Plan(format!(
                "{} is not there; install the package qemu-system-x86, or set qemu.binary",
                self.host.settings.binary.display()
            )));
        }
        arguments::program(&self.host.settings, self.accelerator().await, self.brand, plan)
    }

    fn last_words(&self, text: &str) -> LastWords {
        trace::last_words(text)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.host.settings.start_seconds)
    }

    async fn attach(
        &self,
        uuid: Uuid,
        control: &Path,
        patience: Duration,
    ) -> Result<Arc<dyn Machine>, HypervisorError> {
        Ok(Arc::new(QemuMachine::connect(uuid, control, patience).await?))
    }
}
