//! The features of this QEMU, by its own account: queried once per binary, so that no VM is created that it
//! can't start.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{io::AsyncWriteExt as _, sync::Mutex};

use super::{
    accel::Accelerator,
    arguments::cpu,
    binary::Stamp,
    devices::{disk_device, nic_device},
    in_words, version_of,
};
use crate::{
    spec::{Brand, Violation, VmSpec},
    text::escaped,
};

/// A binary's features.
#[derive(Debug, Default)]
struct Offers {
    cpus: HashSet<String>,
    flags: HashSet<String>,
    screens: HashSet<String>,
    devices: HashSet<String>,
    /// With versions.
    machines: HashSet<String>,
    version: String,
}

/// The answers of the binary queried last.
#[derive(Debug)]
pub(super) struct Catalogue {
    binary: PathBuf,
    known: Mutex<Option<(Stamp, Arc<Offers>)>>,
    /// CPUs that were tried, one at a time, with the fault of each.
    tried: Mutex<Tried>,
}

/// Faults of CPU models, as one binary reports them.
#[derive(Debug, Default)]
struct Tried {
    stamp: Option<Stamp>,
    faults: HashMap<String, Option<String>>,
}

/// CPUs that are remembered.
const TRIED: usize = 256;

impl Catalogue {
    pub(super) fn new(binary: &Path) -> Self {
        Self { binary: binary.to_owned(), known: Mutex::new(None), tried: Mutex::default() }
    }

    /// Lists the parts of a machine that this QEMU lacks. A QEMU that reports nothing refuses nothing here.
    pub(super) async fn faults(&self, spec: &VmSpec, accelerator: &Accelerator) -> Vec<Violation> {
        match self.offers().await {
            Ok(offers) => {
                let mut found = offers.faults(spec);
                // Only the model understands values behind flags.
                if let Some(model) =
                    spec.cpu_type.as_ref().filter(|model| found.is_empty() && model.contains('='))
                {
                    let why = self.cpu_fault(&cpu(model, accelerator), accelerator).await;
                    found.extend(why.map(|why| Violation::value("cpu_type", why)));
                }
                found
            }
            Err(error) => {
                tracing::debug!(%error, binary = %self.binary.display(), "QEMU does not say what it has");
                Vec::new()
            }
        }
    }

    /// Returns the version, empty if the binary can't be run, and the machine types of a brand, oldest first.
    pub(super) async fn version_and_machines(&self, brand: Brand) -> (String, Vec<String>) {
        let offers = self.offers().await.unwrap_or_default();
        (offers.version.clone(), offers.machines_of(brand))
    }

    async fn offers(&self) -> io::Result<Arc<Offers>> {
        let stamp = Stamp::of(&self.binary).await?;
        let mut known = self.known.lock().await;
        if let Some((_, offers)) = known.as_ref().filter(|(asked, _)| *asked == stamp) {
            return Ok(offers.clone());
        }
        let (cpus, screens, devices, machines, version) = tokio::try_join!(
            self.run(&["-cpu", "help"]),
            self.run(&["-vga", "help"]),
            self.run(&["-device", "help"]),
            self.run(&["-machine", "help"]),
            self.run(&["--version"])
        )?;
        let offers = Offers::read(&cpus, &screens, &devices, &machines, &version);
        // Every QEMU has `none`.
        let is_qemu = offers.screens.contains("none");
        let offers = Arc::new(if is_qemu { offers } else { Offers::default() });
        *known = Some((stamp, offers.clone()));
        Ok(offers)
    }

    async fn run(&self, arguments: &[&str]) -> io::Result<String> {
        let output = tokio::process::Command::new(&self.binary)
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, output).await.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Catalogue {
    /// Returns the fault of a CPU, as QEMU reports it. Callers wait for each other, so that only one QEMU
    /// starts at a time.
    async fn cpu_fault(&self, model: &str, accelerator: &Accelerator) -> Option<String> {
        let stamp = Stamp::of(&self.binary).await.ok()?;
        let mut tried = self.tried.lock().await;
        if tried.stamp.as_ref() != Some(&stamp) || tried.faults.len() >= TRIED {
            *tried = Tried { stamp: Some(stamp), faults: HashMap::new() };
        }
        if let Some(fault) = tried.faults.get(model) {
            return fault.clone();
        }
        let fault = match self.try_cpu(model, accelerator).await {
            // The model is at fault only where another one works.
            Some(fault) if self.try_cpu(KNOWN_CPU, accelerator).await.is_none() => Some(fault),
            _ => None,
        };
        tried.faults.insert(model.to_owned(), fault.clone());
        fault
    }

    /// Returns QEMU's error for a CPU, from a machine that never runs.
    async fn try_cpu(&self, model: &str, accelerator: &Accelerator) -> Option<String> {
        let tried = tokio::process::Command::new(&self.binary)
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-S", "-monitor", "stdio"])
            .args(["-machine", &format!("pc,accel={}", accelerator.name), "-m", "16", "-cpu", model])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let output = async {
            let mut tried = tried?;
            if let Some(mut monitor) = tried.stdin.take() {
                // A QEMU that has ended reads nothing.
                let _ = monitor.write_all(b"quit\n").await;
            }
            tried.wait_with_output().await
        };
        match tokio::time::timeout(PATIENCE, output).await {
            Ok(Ok(output)) if output.status.success() => None,
            Ok(Ok(output)) => {
                let said = String::from_utf8_lossy(&output.stderr);
                let last = said.lines().next_back().unwrap_or_default();
                let last = last.split_once(": ").map_or(last, |(_, rest)| rest);
                Some(format!("this host's QEMU does not take it: {}", escaped(last)))
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "a CPU could not be tried");
                None
            }
            Err(_) => None,
        }
    }
}

/// A model that every QEMU has.
const KNOWN_CPU: &str = "qemu64";

/// Time limit of a query.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

impl Offers {
    fn read(cpus: &str, screens: &str, devices: &str, machines: &str, version: &str) -> Self {
        let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
        let (models, flags) = cpus.split_once("Recognized CPUID flags:").unwrap_or((cpus, ""));
        let models = models.lines().filter_map(|line| first(line.strip_prefix("x86 ")?));
        let names = devices.lines().filter_map(|line| Some(line.strip_prefix("name \"")?.split_once('"')?.0));
        Self {
            cpus: models.collect(),
            flags: flags.split_whitespace().map(str::to_owned).collect(),
            screens: screens.lines().filter_map(first).collect(),
            devices: names.map(str::to_owned).collect(),
            machines: machines.lines().filter_map(first).collect(),
            version: version_of(version).to_owned(),
        }
    }

    fn faults(&self, spec: &VmSpec) -> Vec<Violation> {
        let mut found = Vec::new();
        let brand = spec.brand();
        if let Some(machine) = spec.machine_type.as_ref().filter(|machine| lacks(&self.machines, machine)) {
            let remedy = match &self.machines_of(brand)[..] {
                [oldest, .., newest] => {
                    format!(
                        "it has {oldest} to {newest}, and vmadm update UUID machine_type={newest} takes the newest"
                    )
                }
                [only] => format!("it has {only} alone, which vmadm update UUID machine_type={only} takes"),
                [] => format!("it has none of brand {}", brand.as_str()),
            };
            let why =
                format!("{} has no machine \"{machine}\"; {remedy}", in_words(Brand::Kvm, &self.version));
            found.push(Violation::value("machine_type", why));
        }
        if let Some(cpu) = &spec.cpu_type {
            found.extend(self.cpu_fault(cpu).map(|why| Violation::value("cpu_type", why)));
        }
        if let Some(vga) = spec.vga.as_ref().filter(|vga| lacks(&self.screens, vga)) {
            let why = format!(
                "this host's QEMU has no graphics adapter \"{vga}\"; it has: {}",
                list(&self.screens)
            );
            found.push(Violation::value("vga", why));
        }
        if spec.vga.as_deref() == Some("qxl") {
            found.push(Violation::value(
                "vga",
                "qxl needs SPICE, which this agent gives no VM; take std or vmware",
            ));
        }
        for (index, disk) in spec.disks.iter().enumerate() {
            let device = Some(disk_device(disk.model(), disk.media));
            found.extend(device.filter(|device| lacks(&self.devices, device)).map(|device| {
                let why = format!("this host's QEMU has no device \"{device}\"");
                Violation::value(format!("disks.{index}.model"), why)
            }));
        }
        for (index, nic) in spec.nics.iter().enumerate() {
            let device = nic.model.map(nic_device);
            found.extend(device.filter(|device| lacks(&self.devices, device)).map(|device| {
                let why = format!("this host's QEMU has no device \"{device}\"");
                Violation::value(format!("nics.{index}.model"), why)
            }));
        }
        found
    }

    fn machines_of(&self, brand: Brand) -> Vec<String> {
        let version = |name: &String| -> Option<(u16, u16)> {
            let (major, minor) = name.strip_prefix(brand.machine_family())?.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        };
        let mut all: Vec<_> = self.machines.iter().filter_map(|name| Some((version(name)?, name))).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// Checks a model and its flags, like `+aes` or `aes=on`.
    fn cpu_fault(&self, cpu: &str) -> Option<String> {
        let mut words = cpu.split(',');
        let model = words.next().unwrap_or_default();
        if lacks(&self.cpus, model) {
            return Some(format!(
                "this host's QEMU has no CPU model \"{model}\"; qemu-system-x86_64 -cpu help lists them"
            ));
        }
        let flag = words.filter_map(|word| word.strip_prefix(['+', '-'])).find(|flag| {
            let other = flag.replace('_', "-");
            lacks(&self.flags, flag) && lacks(&self.flags, &other)
        });
        flag.map(|flag| format!("this host's QEMU knows no CPU flag \"{flag}\""))
    }
}

/// Whether a reported list lacks something.
fn lacks(offered: &HashSet<String>, wanted: &str) -> bool {
    !offered.is_empty() && !offered.contains(wanted)
}

fn list(offered: &HashSet<String>) -> String {
    let mut all: Vec<&str> = offered.iter().map(String::as_str).collect();
    all.sort_unstable();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::machine_json;

    #[test]
    fn what_is_not_offered_is_named() {
        let offers = Offers::read(
            "Available CPUs:\nx86 host      KVM processor\nx86 qemu64    QEMU\n\nRecognized CPUID flags:\n  aes avx2\n  sse4.1\n",
            "none    no graphic card\nstd     standard\n",
            "Network devices:\nname \"e1000\", bus PCI\nname \"virtio-net-pci\", bus PCI\nname \"virtio-blk-pci\", bus PCI\nname \"ide-cd\", bus IDE\n",
            "Supported machines are:\npc   Standard PC (alias of pc-i440fx-7.2)\npc-i440fx-7.2  Standard PC (default)\npc-i440fx-2.10 Standard PC\npc-q35-7.2 Standard PC\nmicrovm  microvm\n",
            "QEMU emulator version 7.2.22 (Debian 1:7.2)\nCopyright\n",
        );
        assert_eq!(offers.version, "7.2.22 (Debian 1:7.2)");
        assert_eq!(offers.machines_of(Brand::Kvm), ["pc-i440fx-2.10", "pc-i440fx-7.2"]);
        assert_eq!(offers.machines_of(Brand::Bhyve), ["pc-q35-7.2"]);
        let faults = |text: &str| -> Vec<String> {
            let spec = machine_json::parse(text.as_bytes()).unwrap().spec;
            offers.faults(&spec).into_iter().map(|fault| fault.field).collect()
        };
        let none: [&str; 0] = [];
        assert_eq!(faults(r#"{"brand":"kvm","cpu_type":"qemu64,+aes,-avx2,x=on","vga":"std"}"#), none);
        assert_eq!(faults(r#"{"brand":"kvm","cpu_type":"qemu64,+fly"}"#), ["cpu_type"]);
        assert_eq!(faults(r#"{"brand":"kvm","cpu_type":"z80","vga":"xenfb"}"#), ["cpu_type", "vga"]);
        assert_eq!(faults(r#"{"brand":"kvm","machine_type":"pc-i440fx-7.2"}"#), none);
        assert_eq!(faults(r#"{"brand":"bhyve","machine_type":"pc-q35-10.0"}"#), ["machine_type"]);
        let devices = r#"{"brand":"kvm","disks":[{"size":1},{"size":1,"model":"scsi"},{"media":"cdrom","path":"/x","model":"ide"}],
            "nics":[{"nic_tag":"a","model":"e1000"},{"nic_tag":"a","model":"rtl8139"}]}"#;
        assert_eq!(faults(devices), ["disks.1.model", "nics.1.model"]);
        assert_eq!(Offers::default().faults(&machine_json::parse(devices.as_bytes()).unwrap().spec), []);
    }
}
