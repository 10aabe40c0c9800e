//! The resources that the VMs of a host may have together, and each VM's share.
//!
//! Every VM counts, running or not: a restarted host must be able to start all of them. An existing VM is
//! never refused what it has; only a new or a larger one is, before anything is created.

use std::{collections::HashMap, path::Path};

use uuid::Uuid;

use crate::{agent::error::Error, config, spec::VmSpec};

/// A countable resource of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// MiB of guest memory. A hypervisor needs some tens more for itself.
    Ram,
    /// Virtual processors.
    Vcpus,
    /// MiB of the disks that the agent creates, and of unfinished uploads into zones.
    Disk,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ram, Self::Vcpus, Self::Disk];

    /// Its name in errors and in `GetHost`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ram => "ram",
            Self::Vcpus => "vcpus",
            Self::Disk => "disk",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Ram | Self::Disk => " MiB",
            Self::Vcpus => "",
        }
    }

    /// Returns the machine's share.
    fn of(self, spec: &VmSpec) -> u64 {
        let whole = |number: i64| u64::try_from(number).unwrap_or_default();
        match self {
            Self::Ram => whole(spec.ram().into()),
            Self::Vcpus => whole(spec.vcpus().into()),
            Self::Disk => {
                let made = spec.disks.iter().filter(|disk| disk.is_made_here());
                made.map(|disk| whole(disk.size.unwrap_or_default().into())).sum()
            }
        }
    }
}

/// A resource of the host, and what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Which.
    pub resource: Resource,
    /// The host's amount.
    pub total: u64,
    /// The most that VMs may have together; `None`: no limit.
    pub limit: Option<u64>,
    /// All VMs' share.
    pub promised: u64,
}

const MIB: u64 = 1 << 20;
/// Place of [`Resource::Disk`] in [`Resource::ALL`].
const DISK: usize = 2;

/// Each VM's share of the host.
#[derive(Debug)]
pub(in crate::agent) struct Budget {
    bounds: [(Resource, u64, Option<u64>); 3],
    shares: HashMap<Uuid, [u64; 3]>,
    /// Bytes of unfinished uploads into zones.
    uploads: HashMap<Uuid, u64>,
}

impl Budget {
    pub(in crate::agent) fn new(config: &config::Capacity, zones: &Path) -> Self {
        let system = rustix::system::sysinfo();
        let ram = system.totalram.saturating_mul(system.mem_unit.into()) >> 20;
        let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
        let disk = rustix::fs::statvfs(zones).map_or(0, |fs| fs.f_blocks.saturating_mul(fs.f_frsize) >> 20);
        let own = ram.saturating_sub(config.host_ram_mib.into());
        Self {
            bounds: [
                (Resource::Ram, ram, bound(own, config.ram_overcommit)),
                (Resource::Vcpus, cpus, bound(cpus, config.vcpu_overcommit)),
                (Resource::Disk, disk, bound(disk, config.disk_overcommit)),
            ],
            shares: HashMap::new(),
            uploads: HashMap::new(),
        }
    }

    /// Fails if a VM's machine exceeds the capacity.
    pub(in crate::agent) fn check(&self, uuid: Uuid, spec: &VmSpec) -> Result<(), Error> {
        let has = self.shares.get(&uuid).copied().unwrap_or_default();
        for (index, (resource, _, limit)) in self.bounds.into_iter().enumerate() {
            let (Some(limit), wanted) = (limit, resource.of(spec)) else { continue };
            let left = limit.saturating_sub(self.promised(index) - has[index]);
            if wanted > has[index] && wanted > left {
                return Err(no_capacity(resource, wanted, left, limit));
            }
        }
        Ok(())
    }

    /// Counts the rest of an upload, or fails if there is no room.
    pub(in crate::agent) fn begin_upload(&mut self, uuid: Uuid, bytes: u64) -> Result<(), Error> {
        if let [.., (Resource::Disk, _, Some(limit))] = self.bounds {
            let (wanted, left) = (bytes.div_ceil(MIB), limit.saturating_sub(self.promised(DISK)));
            if wanted > left {
                return Err(no_capacity(Resource::Disk, wanted, left, limit));
            }
        }
        let has = self.uploads.entry(uuid).or_default();
        *has = has.saturating_add(bytes);
        Ok(())
    }

    /// Records the size of a VM's uploads.
    pub(in crate::agent) fn set_uploads(&mut self, uuid: Uuid, bytes: u64) {
        self.uploads.insert(uuid, bytes);
    }

    /// Counts a VM.
    pub(in crate::agent) fn set(&mut self, uuid: Uuid, spec: &VmSpec) {
        self.shares.insert(uuid, Resource::ALL.map(|resource| resource.of(spec)));
    }

    pub(in crate::agent) fn release(&mut self, uuid: Uuid) {
        self.shares.remove(&uuid);
        self.uploads.remove(&uuid);
    }

    pub(in crate::agent) fn report(&self) -> Vec<Capacity> {
        let look = |(index, (resource, total, limit))| Capacity {
            resource,
            total,
            limit,
            promised: self.promised(index),
        };
        self.bounds.into_iter().enumerate().map(look).collect()
    }

    fn promised(&self, index: usize) -> u64 {
        let uploads: u64 =
            self.uploads.values().filter(|_| index == DISK).fold(0, |sum, bytes| sum.saturating_add(*bytes));
        self.shares.values().map(|share| share[index]).sum::<u64>() + uploads.div_ceil(MIB)
    }
}

fn no_capacity(resource: Resource, wanted: u64, left: u64, limit: u64) -> Error {
    let (resource, unit) = (resource.as_str().to_owned(), resource.unit().to_owned());
    Error::NoCapacity { resource, unit, wanted, left, limit }
}

/// An overcommit of 0 is no limit.
fn bound(total: u64, overcommit: f64) -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an estimate, and the configuration allows no negative factor"
    )]
    (overcommit > 0.0).then_some((total as f64 * overcommit) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::machine_json;

    fn spec(text: &str) -> VmSpec {
        machine_json::parse(format!(r#"{{"brand":"kvm",{text}}}"#).as_bytes()).unwrap().spec
    }

    fn budget(ram: Option<u64>, vcpus: Option<u64>) -> Budget {
        Budget {
            bounds: [(Resource::Ram, 1000, ram), (Resource::Vcpus, 2, vcpus), (Resource::Disk, 0, None)],
            shares: HashMap::new(),
            uploads: HashMap::new(),
        }
    }

    #[test]
    fn up_to_the_limit_and_not_beyond() {
        let mut budget = budget(Some(1000), Some(4));
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        budget.check(a, &spec(r#""ram":1000"#)).unwrap();
        budget.check(a, &spec(r#""ram":1001"#)).unwrap_err();
        budget.set(a, &spec(r#""ram":600,"vcpus":4"#));
        let full = budget.check(b, &spec(r#""ram":100,"vcpus":1"#)).unwrap_err();
        let left = |error: Error| match error {
            Error::NoCapacity { resource, left, limit, .. } => (resource, left, limit),
            other => panic!("{other}"),
        };
        assert_eq!(left(full), ("vcpus".to_owned(), 0, 4));
        let full = budget.check(a, &spec(r#""ram":1001,"vcpus":4"#)).unwrap_err();
        assert_eq!(left(full), ("ram".to_owned(), 1000, 1000), "what it has is its own");
        budget.release(a);
        budget.check(b, &spec(r#""ram":1000,"vcpus":4"#)).unwrap();
    }

    #[test]
    fn what_is_there_stays_even_when_the_limit_is_lowered() {
        let mut budget = budget(Some(100), None);
        let a = Uuid::from_u128(1);
        budget.set(a, &spec(r#""ram":600"#));
        budget.check(a, &spec(r#""ram":600"#)).unwrap();
        budget.check(a, &spec(r#""ram":500,"vcpus":64"#)).unwrap();
        budget.check(a, &spec(r#""ram":601"#)).unwrap_err();
        assert_eq!(budget.report()[0].promised, 600);
    }

    #[test]
    fn an_overcommit_of_nothing_is_no_limit() {
        assert_eq!([bound(10, 0.0), bound(10, 1.0), bound(10, 1.5)], [None, Some(10), Some(15)]);
    }
}
