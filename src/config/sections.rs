//! The sections of the file, each with its defaults.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::spec::Restriction;

/// Certificates of the TCP endpoint. Relative paths are below the working directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Folder that the files below are in.
    pub dir: PathBuf,
    /// The agent's chain, leaf first.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Roots of client certificates.
    pub client_ca: PathBuf,
    /// Revocation lists; the file may be absent.
    pub crl: PathBuf,
    /// Clients are `spiffe://<trust_domain>/<role>/<name>`.
    pub trust_domain: String,
    /// Seconds between looks at the files; what changed is loaded. 0: only on SIGHUP.
    pub reload_seconds: u64,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            dir: "/etc/zoneward/certs".into(),
            cert: "server.pem".into(),
            key: "server.key".into(),
            client_ca: "ca.pem".into(),
            crl: "crl.pem".into(),
            trust_domain: "zoneward".into(),
            reload_seconds: 10,
        }
    }
}

/// Sandboxes of hypervisors.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Zone {
    /// First of the users that hypervisors are: each VM has one of its own, never shared.
    pub uid_base: u32,
    /// Mounted read only as `/usr` of each zone: the hypervisor with its libraries and firmware.
    pub platform: PathBuf,
    /// How many such users there are: the most VMs that this agent can have. The next one after them is for
    /// trials.
    pub uid_count: u32,
    /// MiB that `max_physical_memory` is above `ram` at least: what a hypervisor needs for itself.
    pub min_overhead: i32,
    /// Whether a VM may start though this host can't keep to its limits. Default: `required` for root,
    /// `best-effort` for an ordinary user.
    pub limits: Option<LimitPolicy>,
    /// Names of control groups begin with this.
    pub cgroup: String,
    /// The version 2 group that they are below, like `/system.slice/zoneward-zones.service`. Default: the agent's
    /// own. systemd can't start an agent again in a group that has handed controllers on to a zone which runs.
    pub cgroup_parent: String,
    /// Restrictions that may be missing on this host, by name; without them here a VM does not start.
    pub allow_missing: Vec<Restriction>,
    /// Build only this kind of zone: `full`, `no-user-namespace`, `rootless` or `filters-only`. Default:
    /// the best that works.
    pub level: Option<ZoneLevel>,
}

impl Default for Zone {
    fn default() -> Self {
        Self {
            // Above the range that systemd gives to containers.
            uid_base: 1_900_000_000,
            platform: "/usr".into(),
            uid_count: 65536,
            min_overhead: 256,
            limits: None,
            cgroup: "zoneward".into(),
            cgroup_parent: String::new(),
            allow_missing: Vec::new(),
            level: None,
        }
    }
}

/// What happens when a host can't keep to a VM's limits of memory, threads and CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitPolicy {
    /// The VM does not start.
    Required,
    /// It starts, and its status says which limits have no effect.
    BestEffort,
}

/// How much of a zone a host can build, from most to least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZoneLevel {
    /// Root's zone, in a user namespace that maps one unprivileged user.
    Full,
    /// Root's zone where user namespaces are refused.
    NoUserNamespace,
    /// An ordinary user's zone, in a user namespace of its own.
    Rootless,
    /// No namespaces: Landlock and the system call filter alone.
    FiltersOnly,
}

impl ZoneLevel {
    /// All levels, best first.
    pub const LADDER: &[Self] = &[Self::Full, Self::NoUserNamespace, Self::Rootless, Self::FiltersOnly];

    /// Whether the zone has namespaces and a root of its own.
    #[must_use]
    pub fn has_namespaces(self) -> bool {
        self != Self::FiltersOnly
    }
}

/// QEMU.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Qemu {
    /// The program.
    pub binary: PathBuf,
    /// What runs guest code: `auto` tries whether KVM can run a guest, `kvm` and `tcg` insist.
    pub accel: Accel,
    /// CPU model under KVM.
    pub kvm_cpu: String,
    /// CPU model under TCG.
    pub tcg_cpu: String,
    /// UEFI code.
    pub ovmf_code: PathBuf,
    /// UEFI variables, copied for each VM.
    pub ovmf_vars: PathBuf,
    /// Seconds that QEMU may take until it answers.
    pub start_seconds: u64,
}

impl Default for Qemu {
    fn default() -> Self {
        Self {
            binary: "/usr/bin/qemu-system-x86_64".into(),
            accel: Accel::Auto,
            kvm_cpu: "host".into(),
            tcg_cpu: "max".into(),
            ovmf_code: "/usr/share/OVMF/OVMF_CODE_4M.fd".into(),
            ovmf_vars: "/usr/share/OVMF/OVMF_VARS_4M.fd".into(),
            start_seconds: 60,
        }
    }
}

/// What runs guest code.
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

/// VNC endpoints.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vnc {
    /// Address that the agent listens on for VMs whose `vnc_port` is not -1.
    pub address: IpAddr,
    /// Whether each endpoint asks for a password: the VM's `vnc_password`, or else one that the agent makes and `info`
    /// shows to operators. Without it whoever reaches the endpoint of a VM that has no `vnc_password` has its screen:
    /// on a loopback address each user of the host.
    pub require_password: bool,
}

impl Default for Vnc {
    fn default() -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::LOCALHOST), require_password: true }
    }
}

/// Screens in a browser, over links that open once (`vmadm vnc --browser`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Browser {
    /// TCP address of the browser console (TLS, with the agent's certificate). Empty: none.
    pub listen: String,
    /// What links begin with, like `https://host1.example:9444`. Empty: the address that is listened on.
    pub url: String,
    /// Seconds that a link can be opened.
    pub link_seconds: u32,
    /// Folder of noVNC; `dist/install-novnc.sh` makes it.
    pub novnc: PathBuf,
}

impl Default for Browser {
    fn default() -> Self {
        Self {
            listen: String::new(),
            url: String::new(),
            link_seconds: 60,
            novnc: "/usr/share/zoneward/novnc".into(),
        }
    }
}

/// Serial consoles.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Console {
    /// KiB of output kept for each VM.
    pub keep_kib: u64,
}

impl Default for Console {
    fn default() -> Self {
        Self { keep_kib: 4096 }
    }
}

/// The journal of events. It is trimmed by these alone.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// Days that an event is kept.
    pub keep_days: u32,
    /// MiB that the state file may need; the newest thousand events stay in any case. An eighth is for answers to
    /// requests, which a repeat gets again.
    pub keep_mib: u32,
}

impl Default for Journal {
    fn default() -> Self {
        Self { keep_days: 30, keep_mib: 1024 }
    }
}

/// What VMs may have of the host together, whether they run or not. A VM over it is not made.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capacity {
    /// MiB of memory that are the host's own, and its hypervisors'.
    pub host_ram_mib: u32,
    /// Times the memory that is left: the sum of `ram`. 0: no limit.
    pub ram_overcommit: f64,
    /// Times the host's processors: the sum of `vcpus`. 0: no limit.
    pub vcpu_overcommit: f64,
    /// Times the file system of `zones_dir`: the sum of the sizes of disks, which are sparse. 0: no limit.
    pub disk_overcommit: f64,
    /// Hours that an upload is kept which was cut and nobody goes on with.
    pub upload_hours: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            host_ram_mib: 512,
            ram_overcommit: 1.0,
            vcpu_overcommit: 16.0,
            disk_overcommit: 10.0,
            upload_hours: 24,
        }
    }
}

/// What interfaces are plugged into.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// Names of the agent's links begin with it, and its table of rules has it as its name. Two agents on one host
    /// need two.
    pub prefix: String,
    /// The program that installs rules of packets.
    pub nft: PathBuf,
    /// The networks, by nic tag. None: `admin`, an etherstub for root and isolated for an ordinary user.
    pub tags: BTreeMap<String, Tag>,
}

impl Default for Network {
    fn default() -> Self {
        Self { prefix: "zw".to_owned(), nft: "/usr/sbin/nft".into(), tags: BTreeMap::new() }
    }
}

/// A network of the host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    /// What it is.
    pub kind: TagKind,
    /// The host's link that it is made of; etherstubs and isolated ones have none.
    #[serde(default)]
    pub link: String,
    /// Largest packet, in bytes.
    #[serde(default = "usual_mtu")]
    pub mtu: i32,
}

fn usual_mtu() -> i32 {
    1500
}

/// What a nic tag is on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TagKind {
    /// Each interface has a carrier and nobody at the other end. Needs no privilege.
    Isolated,
    /// A bridge that the agent makes, for guests alone.
    Etherstub,
    /// A bridge that is there.
    Bridge,
    /// A bridge that the agent makes, with an interface of the host as its way out.
    Uplink,
    /// Each interface shares an interface of the host.
    Macvtap,
}

impl TagKind {
    /// Its name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Isolated => "isolated",
            Self::Etherstub => "etherstub",
            Self::Bridge => "bridge",
            Self::Uplink => "uplink",
            Self::Macvtap => "macvtap",
        }
    }

    /// Whether it is made of a link of the host.
    #[must_use]
    pub fn needs_link(self) -> bool {
        matches!(self, Self::Bridge | Self::Uplink | Self::Macvtap)
    }
}
