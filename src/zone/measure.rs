//! The restrictions really in force on a running process, read back from `/proc`.

use std::{collections::HashMap, fs, io};

use super::identity::body;
use crate::spec::{Enforcement, Restriction};

/// The namespaces that a zone has of its own.
const NAMESPACES: &[&str] = &["mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// The kernel's view of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    /// A filter of system calls is in force.
    pub filtered: bool,
    /// It can't gain privileges.
    pub no_new_privs: bool,
    /// Every capability set is empty.
    pub powerless: bool,
    /// Namespaces that it does not share with the agent.
    pub namespaces: Vec<&'static str>,
    /// Every mount that it sees is read only.
    pub read_only: bool,
    /// It has no network interface but a loopback that is down.
    pub unconnected: bool,
    /// Its user.
    pub uid: u32,
}

impl Measured {
    /// Measures a process; `None` when it has ended.
    pub(crate) fn of(pid: i32) -> io::Result<Option<Self>> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let fields: HashMap<&str, &str> =
            status.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k, v.trim())).collect();
        if body(pid)?.is_some() {
            return Ok(None);
        }
        let is = |field: &str, value: &str| fields.get(field) == Some(&value);
        let sets = ["CapInh", "CapPrm", "CapEff", "CapAmb"];
        let namespaces: Vec<&'static str> = NAMESPACES
            .iter()
            .copied()
            .filter(|name| {
                let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{name}"));
                matches!((of("self"), of(&pid.to_string())), (Ok(ours), Ok(theirs)) if ours != theirs)
            })
            .collect();
        let uid = fields.get("Uid").and_then(|uids| uids.split_whitespace().next()?.parse().ok());
        Ok(Some(Self {
            filtered: is("Seccomp", "2"),
            no_new_privs: is("NoNewPrivs", "1"),
            powerless: sets.iter().all(|set| is(set, "0000000000000000")),
            read_only: namespaces.contains(&"mnt") && all_read_only(pid)?,
            unconnected: namespaces.contains(&"net") && only_loopback(pid)?,
            namespaces,
            uid: uid.unwrap_or_default(),
        }))
    }

    /// Returns the result. Landlock can't be seen from outside; `landlock` says that it was applied.
    #[must_use]
    pub(crate) fn enforcements(&self, landlock: bool) -> Vec<Enforcement> {
        let pid = self.namespaces.contains(&"pid");
        let sealed = self.filtered && self.no_new_privs && self.powerless;
        let by = |condition: bool, name: &'static str| condition.then_some(name);
        Restriction::ALL
            .iter()
            .map(|(_, restriction)| {
                let mechanisms: Vec<&str> = match restriction {
                    Restriction::ModifyFilesystem => {
                        [by(self.read_only, "read-only mounts"), by(landlock, "landlock")]
                            .into_iter()
                            .flatten()
                            .collect()
                    }
                    Restriction::Network => {
                        [by(self.unconnected, "empty network namespace"), by(sealed, "seccomp")]
                            .into_iter()
                            .flatten()
                            .collect()
                    }
                    Restriction::CreateProcess => [by(sealed, "seccomp")].into_iter().flatten().collect(),
                    Restriction::SeeProcesses => [
                        by(pid && self.read_only, "pid namespace, no /proc"),
                        by(landlock && sealed, "landlock and seccomp"),
                    ]
                    .into_iter()
                    .flatten()
                    .collect(),
                    Restriction::SignalOutside => {
                        [by(pid, "pid namespace"), by(sealed, "seccomp")].into_iter().flatten().collect()
                    }
                };
                let reason = if mechanisms.is_empty() { self.shortcoming() } else { String::new() };
                let mechanisms = mechanisms.into_iter().map(str::to_owned).collect();
                Enforcement { restriction: *restriction, mechanisms, reason }
            })
            .collect()
    }

    fn shortcoming(&self) -> String {
        if self.namespaces.is_empty() {
            "the host allows neither namespaces nor Landlock".to_owned()
        } else {
            format!("the process does not have what it was given: {self:?}")
        }
    }
}

fn all_read_only(pid: i32) -> io::Result<bool> {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    // Field 6 has the mount's own options.
    let options = |line: &str| line.split_whitespace().nth(5).unwrap_or_default().to_owned();
    Ok(!mounts.is_empty() && mounts.lines().all(|line| options(line).split(',').any(|option| option == "ro")))
}

fn only_loopback(pid: i32) -> io::Result<bool> {
    let devices = fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    Ok(devices.lines().skip(2).all(|line| line.trim_start().starts_with("lo:")))
}
