//! Reports what this host can and can't do, what a missing feature means, and how to get it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::{
    config::Config,
    hypervisor::qemu::{in_words, probe_kvm, version_of},
    network::Tags,
    spec::{Brand, LimitReport},
    zone::{LimitPolicy, Zone},
};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// VMs run, but slower or less isolated.
    Weak,
    /// VMs don't run.
    Bad,
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// How bad.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; empty when nothing.
    pub advice: String,
}

fn good(what: &'static str, found: impl Into<String>) -> Finding {
    Finding { what, verdict: Verdict::Good, found: found.into(), advice: String::new() }
}

fn weak(what: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { what, verdict: Verdict::Weak, found: found.into(), advice: advice.into() }
}

fn bad(what: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { what, verdict: Verdict::Bad, found: found.into(), advice: advice.into() }
}

/// Checks everything.
pub async fn examine(config: &Config, zone: &dyn Zone) -> Vec<Finding> {
    let said = Command::new(&config.qemu.binary).arg("--version").output();
    let version = said.as_ref().map(|output| String::from_utf8_lossy(&output.stdout)).unwrap_or_default();
    let version = version_of(&version);
    vec![
        qemu(&config.qemu.binary, &said, version),
        brand(config, "Brand kvm", Brand::Kvm, version),
        brand(config, "Brand bhyve", Brand::Bhyve, version),
        kvm(config).await,
        uefi(config),
        user(),
        namespaces(),
        limits(config, zone).await,
        folders(config),
        restrictions(config, zone).await,
        certificates(config),
        network(config),
    ]
}

/// Reports the hypervisor of a brand.
fn brand(config: &Config, what: &'static str, brand: Brand, version: &str) -> Finding {
    let found = in_words(brand, version);
    match version {
        _ if !config.brands.runs(brand) => {
            let advice = format!("set brands.{} to true to run VMs of it", brand.as_str());
            weak(what, "switched off in the configuration", advice)
        }
        "" => bad(what, found, "no VM of this brand can start; see QEMU above"),
        _ => good(what, found),
    }
}

fn qemu(binary: &Path, said: &io::Result<Output>, version: &str) -> Finding {
    match said {
        Ok(output) if output.status.success() => {
            let mut parts = version.split(['.', ' ']).map(|part| part.parse::<u32>().unwrap_or_default());
            let number = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let text = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
            if number >= (7, 2) {
                good("QEMU", text)
            } else {
                bad("QEMU", text, "version 7.2 or later is needed (Debian 12 has it)")
            }
        }
        Ok(output) => {
            bad("QEMU", format!("{} fails: {}", binary.display(), output.status), "reinstall qemu-system-x86")
        }
        Err(error) => bad(
            "QEMU",
            format!("{}: {error}", binary.display()),
            "no VM can run; apt-get install qemu-system-x86, or set qemu.binary",
        ),
    }
}

async fn kvm(config: &Config) -> Finding {
    match probe_kvm(&config.qemu.binary, &config.qemu.kvm_cpu).await {
        Ok(()) => good("KVM", "a probe guest ran"),
        Err(why) => weak(
            "KVM",
            why,
            "guests run under TCG, several times slower; enable virtualization in the firmware, load kvm_intel or kvm_amd, and give the agent access to /dev/kvm",
        ),
    }
}

fn uefi(config: &Config) -> Finding {
    let missing: Vec<String> = [&config.qemu.ovmf_code, &config.qemu.ovmf_vars]
        .into_iter()
        .filter(|path| !path.exists())
        .map(|path| path.display().to_string())
        .collect();
    if missing.is_empty() {
        good("UEFI firmware", config.qemu.ovmf_code.display().to_string())
    } else {
        weak(
            "UEFI firmware",
            format!("missing: {}", missing.join(", ")),
            "VMs with bootrom=uefi don't start; apt-get install ovmf",
        )
    }
}

fn network(config: &Config) -> Finding {
    let tags = Tags::new(&config.network, rustix::process::geteuid().is_root());
    let names: Vec<String> =
        tags.iter().map(|(name, tag)| format!("{name} ({})", tag.kind.as_str())).collect();
    let found = names.join(", ");
    let nft = config.network.nft.display();
    if tags.are_isolated() {
        weak("Networks", found, "no interface is connected to anything; root can configure network.tags")
    } else if !config.network.nft.exists() {
        let advice = "VMs with interfaces don't start; apt-get install nftables, or set network.nft";
        bad("Networks", format!("{found}; there is no {nft}"), advice)
    } else if !Path::new("/dev/net/tun").exists() {
        bad(
            "Networks",
            format!("{found}; there is no /dev/net/tun"),
            "VMs with interfaces don't start; load the module tun",
        )
    } else {
        good("Networks", found)
    }
}

fn user() -> Finding {
    match rustix::process::geteuid().as_raw() {
        0 => good("User", "root"),
        uid => weak(
            "User",
            format!("uid {uid}"),
            "all VMs run as this user and are not kept apart by uid; folders must be this user's (zones_dir, state_dir, run_dir)",
        ),
    }
}

fn namespaces() -> Finding {
    let kinds = ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"];
    let missing: Vec<&str> =
        kinds.into_iter().filter(|kind| !Path::new("/proc/self/ns").join(kind).exists()).collect();
    let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    if !missing.is_empty() {
        weak(
            "Namespaces",
            format!("the kernel lacks: {}", missing.join(", ")),
            "a zone can't hide the host from a hypervisor",
        )
    } else if limit.trim() == "0" {
        weak("Namespaces", "user namespaces are switched off", "sysctl user.max_user_namespaces=15000")
    } else {
        good("Namespaces", kinds.join(", "))
    }
}

async fn limits(config: &Config, zone: &dyn Zone) -> Finding {
    let limits = zone.limits().await;
    let (kept, ignored): (Vec<_>, Vec<_>) = limits.iter().partition(|limit| limit.is_effective());
    let names: Vec<&str> = kept.iter().map(|limit| limit.property.as_str()).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let why = |limit: &&LimitReport| format!("{} has no effect: {}", limit.property, limit.reason);
    let advice = ignored.iter().map(why).collect::<Vec<_>>().join("; ");
    let needed = ["max_physical_memory", "max_lwps"];
    let all = needed.iter().all(|property| kept.iter().any(|limit| limit.property == *property));
    match (ignored.is_empty() && all, all || config.zone.limits == Some(LimitPolicy::BestEffort)) {
        (true, _) => good("Limits", names),
        (false, true) => weak("Limits", names, advice),
        (false, false) if !rustix::process::geteuid().is_root() => weak("Limits", names, advice),
        (false, false) => bad("Limits", names, format!("{advice}; or set zone.limits to best-effort")),
    }
}

fn folders(config: &Config) -> Finding {
    let unusable = |path: &&PathBuf| {
        // The folder, or the nearest one above it that exists.
        let there = path.ancestors().find(|folder| folder.exists());
        there.is_none_or(|folder| rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_err())
    };
    let all = [&config.zones_dir, &config.state_dir, &config.run_dir];
    let shown =
        |paths: &[&PathBuf]| paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
    let refused: Vec<&PathBuf> = all.iter().copied().filter(unusable).collect();
    if refused.is_empty() {
        good("Folders", shown(&all))
    } else {
        bad(
            "Folders",
            format!("can't be written: {}", shown(&refused)),
            "run as root, or set zones_dir, state_dir and run_dir",
        )
    }
}

/// Checks the restrictions that zones enforce, in a real one.
async fn restrictions(config: &Config, zone: &dyn Zone) -> Finding {
    let enforcements = zone.enforcements().await;
    let missing: Vec<_> = enforcements.iter().filter(|found| !found.is_enforced()).collect();
    let Some(first) = missing.first() else {
        return good("Zones", "all five restrictions are enforced");
    };
    let names: Vec<&str> = missing.iter().map(|found| found.restriction.as_str()).collect();
    let found = format!("missing: {}: {}", names.join(", "), first.reason);
    if missing.iter().all(|found| config.zone.allow_missing.contains(&found.restriction)) {
        return weak("Zones", found, "zone.allow_missing allows it; do not run guests of others");
    }
    bad("Zones", found, "no VM starts; allow user namespaces, or add the names to zone.allow_missing")
}

fn certificates(config: &Config) -> Finding {
    let files = crate::auth::Files::new(&config.tls);
    match crate::auth::Tls::load(files, config.tls.trust_domain.clone()) {
        Ok(_) => good("Certificates", config.tls.dir.display().to_string()),
        Err(error) if config.listen.is_empty() => weak(
            "Certificates",
            error.to_string(),
            "only the local UNIX socket is served, which is all that is configured (listen is empty)",
        ),
        Err(error) => bad("Certificates", error.to_string(), "the TCP endpoint can't be served"),
    }
}
