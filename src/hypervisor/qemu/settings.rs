//! How QEMU is configured: the section `[qemu]`.

use std::path::PathBuf;

use serde::Deserialize;

/// QEMU.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The program.
    pub binary: PathBuf,
    /// The accelerator: `auto` tests whether KVM can run a guest, `kvm` and `tcg` insist.
    pub accel: Accel,
    /// CPU model under KVM.
    pub kvm_cpu: String,
    /// CPU model under TCG.
    pub tcg_cpu: String,
    /// UEFI code.
    pub ovmf_code: PathBuf,
    /// UEFI variables, copied for each VM.
    pub ovmf_vars: PathBuf,
    /// Directories of additional UEFI code, which a VM of brand bhyve can name as its `bootrom`.
    pub firmware_dirs: Vec<PathBuf>,
    /// Seconds that QEMU may take to respond.
    pub start_seconds: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            binary: "/usr/bin/qemu-system-x86_64".into(),
            accel: Accel::Auto,
            kvm_cpu: "host".into(),
            tcg_cpu: "max".into(),
            ovmf_code: "/usr/share/OVMF/OVMF_CODE_4M.fd".into(),
            ovmf_vars: "/usr/share/OVMF/OVMF_VARS_4M.fd".into(),
            firmware_dirs: Vec::new(),
            start_seconds: 60,
        }
    }
}

/// The accelerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM when it can run a guest, else TCG.
    Auto,
    /// KVM.
    Kvm,
    /// QEMU's own emulation.
    Tcg,
}
