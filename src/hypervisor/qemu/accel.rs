//! KVM or TCG.
//!
//! An open `/dev/kvm` proves nothing: some virtual machines emulate every privileged instruction of a guest,
//! and a stock kernel takes minutes and then dies. So the agent runs a one-sector guest under KVM that does
//! what such hosts can't (see [`crate::sys::KVM_PROBE`]) and reports through an exit code. No reply in time
//! means no KVM.

use std::{fs::OpenOptions, io::Write as _, path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use super::{
    settings::{Accel, Settings},
    verdict::Memory,
};
use crate::sys;

/// Time limit of the one-sector guest. Hardware needs well under a second.
const PATIENCE: Duration = Duration::from_secs(4);
/// The exit code that `isa-debug-exit` derives from the guest's value: `value << 1 | 1`.
const SUCCESS: i32 = (0x10 << 1) | 1;

/// Runs guest code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accelerator {
    /// `kvm` or `tcg`.
    pub name: &'static str,
    /// Why.
    pub reason: String,
}

/// Decides as configured.
pub(super) async fn choose(settings: &Settings, memory: &Memory) -> Accelerator {
    match settings.accel {
        Accel::Kvm => Accelerator { name: "kvm", reason: "qemu.accel = \"kvm\"".to_owned() },
        Accel::Tcg => Accelerator { name: "tcg", reason: "qemu.accel = \"tcg\"".to_owned() },
        Accel::Auto => match probe_once(&settings.binary, &settings.kvm_cpu, memory).await {
            Ok(()) => Accelerator { name: "kvm", reason: "a probe guest ran under KVM".to_owned() },
            Err(why) => {
                tracing::info!(reason = %why, "KVM is not usable, guests run under TCG");
                Accelerator { name: "tcg", reason: why }
            }
        },
    }
}

/// Probes KVM, unless an earlier agent's verdict is known.
async fn probe_once(binary: &Path, cpu: &str, memory: &Memory) -> Result<(), String> {
    // This check is free, and its result changes with a module or a permission.
    open_kvm()?;
    if let Some(known) = memory.recall(binary, cpu).await {
        return known;
    }
    let found = probe_kvm(binary, cpu).await;
    memory.keep(binary, cpu, &found).await;
    found
}

fn open_kvm() -> Result<(), String> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    opened.map(drop).map_err(|error| format!("/dev/kvm can't be opened: {error}"))
}

/// Runs the probe guest under KVM; the error says why KVM can't be used.
pub async fn probe_kvm(binary: &Path, cpu: &str) -> Result<(), String> {
    open_kvm()?;
    let mut sector =
        tempfile::NamedTempFile::new().map_err(|error| format!("no file for the probe guest: {error}"))?;
    sector.write_all(sys::KVM_PROBE).map_err(|error| format!("no file for the probe guest: {error}"))?;
    let mut child = Command::new(binary)
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc,accel=kvm", "-m", "16"])
        .args(["-cpu", cpu, "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-no-reboot"])
        .arg("-drive")
        .arg(format!("if=ide,format=raw,read-only=off,snapshot=on,file={}", sector.path().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{} can't be run: {error}", binary.display()))?;
    let stderr = child.stderr.take();
    let Ok(status) = timeout(PATIENCE, child.wait()).await else {
        let _ = child.kill().await;
        return Err(format!(
            "/dev/kvm exists, but a probe guest did not finish in {} s: guests would not run",
            PATIENCE.as_secs()
        ));
    };
    match status.map(|status| status.code()) {
        Ok(Some(SUCCESS)) => Ok(()),
        _ => Err(format!("/dev/kvm exists, but a probe guest failed: {}", last_line(stderr).await)),
    }
}

async fn last_line(stderr: Option<tokio::process::ChildStderr>) -> String {
    use tokio::io::AsyncReadExt as _;
    let mut text = String::new();
    if let Some(stderr) = stderr {
        let _ = stderr.take(1 << 16).read_to_string(&mut text).await;
    }
    text.lines().last().unwrap_or("QEMU printed nothing").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TCG can do all that the probe asks for, so the probe itself is right.
    #[tokio::test]
    async fn the_probe_guest_succeeds_where_guests_run() {
        let binary = Settings::default().binary;
        if !binary.exists() {
            crate::ignored::ignore(&format!("{} is missing, the probe guest was not run", binary.display()));
            return;
        }
        let mut sector = tempfile::NamedTempFile::new().unwrap();
        sector.write_all(sys::KVM_PROBE).unwrap();
        let status = Command::new(binary)
            .args(["-nodefaults", "-display", "none", "-machine", "pc,accel=tcg", "-cpu", "max", "-m", "16"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-no-reboot", "-drive"])
            .arg(format!("if=ide,format=raw,snapshot=on,file={}", sector.path().display()))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .status();
        let status = timeout(Duration::from_secs(60), status).await.expect("the guest ends").unwrap();
        assert_eq!(status.code(), Some(SUCCESS));
    }

    #[tokio::test]
    async fn a_missing_program_is_told() {
        let why = probe_kvm(Path::new("/nonexistent/qemu"), "host").await.unwrap_err();
        assert!(why.contains("/nonexistent/qemu") || why.contains("/dev/kvm"), "{why}");
    }
}
