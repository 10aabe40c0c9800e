//! QEMU, the kvm brand.
//!
//! The agent opens everything that QEMU touches: disks, CDs, firmware, the control socket, console and log
//! reach it as descriptors. QEMU itself opens only its BIOS files.

mod accel;
mod arguments;
mod binary;
mod boot_order;
mod builder;
mod devices;
mod info;
mod machine;
mod offers;
mod qmp;
mod settings;
mod trace;
mod verdict;

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
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
use crate::spec::{Violation, VmSpec};

/// Runs QEMU.
#[derive(Debug)]
pub struct Qemu {
    settings: Settings,
    accelerator: OnceCell<Accelerator>,
    catalogue: Catalogue,
    memory: Option<Memory>,
}

impl Qemu {
    /// QEMU as configured.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let catalogue = Catalogue::new(&settings.binary);
        Self { settings, accelerator: OnceCell::new(), catalogue, memory: None }
    }

    /// Keeps the KVM verdict for this boot of the host at `path`.
    #[must_use]
    pub fn remembering(mut self, path: PathBuf, host_boot: &str) -> Self {
        self.memory = Some(Memory { path, host_boot: host_boot.to_owned() });
        self
    }

    /// Decided once for the life of the agent; the decision may take seconds.
    async fn accelerator(&self) -> &Accelerator {
        self.accelerator.get_or_init(|| accel::choose(&self.settings, self.memory.as_ref())).await
    }
}

#[async_trait]
impl Hypervisor for Qemu {
    async fn describe(&self) -> Description {
        let version = version(&self.settings.binary).await.unwrap_or_default();
        let accelerator = self.accelerator().await;
        Description { version, accelerator: accelerator.name.to_owned(), reason: accelerator.reason.clone() }
    }

    async fn faults(&self, spec: &VmSpec) -> Vec<Violation> {
        self.catalogue.faults(spec, self.accelerator().await).await
    }

    fn open_uefi(&self, vars: &Path) -> Result<Firmware, HypervisorError> {
        let open = |path: &Path, writable: bool| {
            OpenOptions::new()
                .read(true)
                .write(writable)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)
                .map_err(HypervisorError::at(format!("UEFI firmware {} (package ovmf)", path.display())))
        };
        // Debian's files may be links; the VM's own may not.
        let code = File::open(&self.settings.ovmf_code).map_err(HypervisorError::at(format!(
            "UEFI firmware {} (package ovmf)",
            self.settings.ovmf_code.display()
        )))?;
        if !vars.exists() {
            copy_new(&self.settings.ovmf_vars, vars)
                .map_err(HypervisorError::at(format!("UEFI variables {}", vars.display())))?;
        }
        Ok(Firmware::Uefi { code, vars: open(vars, true)? })
    }

    fn settle_uefi(&self, vars: &Path) -> Result<(), HypervisorError> {
        let failed = || HypervisorError::at(format!("UEFI variables {}", vars.display()));
        let file = match OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(vars) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(failed())?,
        };
        let size = self.settings.ovmf_vars.metadata().map_err(failed())?.len();
        let found = file.metadata().map_err(failed())?.len();
        if found != size {
            tracing::warn!(vars = %vars.display(), found, size, "the hypervisor changed the size of its UEFI variables; they have their own again");
            file.set_len(size).map_err(failed())?;
        }
        Ok(())
    }

    async fn program(&self, plan: MachinePlan) -> Result<Program, HypervisorError> {
        if !self.settings.binary.exists() {
            return Err(HypervisorError::Plan(format!(
                "{} is not there; install the package qemu-system-x86, or set qemu.binary",
                self.settings.binary.display()
            )));
        }
        arguments::program(&self.settings, self.accelerator().await, plan)
    }

    fn last_words(&self, text: &str) -> LastWords {
        trace::last_words(text)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.settings.start_seconds)
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

/// Copies a file atomically.
fn copy_new(from: &Path, to: &Path) -> io::Result<()> {
    let draft = to.with_extension("draft");
    let _ = std::fs::remove_file(&draft);
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    io::copy(&mut File::open(from)?, &mut copy)?;
    copy.sync_all()?;
    std::fs::rename(&draft, to)
}

/// Returns the version from `--version`.
async fn version(binary: &Path) -> Option<String> {
    let output = tokio::process::Command::new(binary).arg("--version").output().await.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next()?.strip_prefix("QEMU emulator version ").map(str::to_owned)
}
