//! The sections that belong to no mechanism, each with its defaults.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use serde::Deserialize;

use crate::spec::Brand;

/// The brands that VMs may have.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Brands {
    /// QEMU's own machine.
    pub kvm: bool,
    /// QEMU in the shape of bhyve's machine.
    pub bhyve: bool,
}

impl Brands {
    /// Whether VMs of the brand are made and started.
    #[must_use]
    pub fn runs(self, brand: Brand) -> bool {
        match brand {
            Brand::Kvm => self.kvm,
            Brand::Bhyve => self.bhyve,
        }
    }
}

impl Default for Brands {
    fn default() -> Self {
        Self { kvm: true, bhyve: true }
    }
}

/// VNC endpoints.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vnc {
    /// Address that the agent listens on for VMs whose `vnc_port` is not -1.
    pub address: IpAddr,
    /// Whether each endpoint asks for a password: the VM's `vnc_password`, or else one that the agent makes
    /// and `info` shows to operators. Without it, anybody who reaches the endpoint of a VM without
    /// `vnc_password` gets its screen: on a loopback address, every user of the host.
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
    /// The prefix of links, like `https://host1.example:9444`. Empty: the listening address.
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

/// The agent's own log, on standard error.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// Least severe level, or levels by module like `info,zoneward::zone=debug`. `RUST_LOG` overrides it.
    pub filter: String,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; with colours on a terminal.
    #[default]
    Text,
    /// One JSON object per line, with the fields of the spans around it: the call's method, request id and actor, the VM.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info,netlink_proto=error".to_owned() }
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

/// The most that all VMs may have of the host, running or not. A VM over it is not created.
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
    /// Hours that an interrupted upload is kept.
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
