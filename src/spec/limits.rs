//! The host resources that a VM may use, in units that hosts understand.

use serde::{Deserialize, Serialize};

use super::VmSpec;

/// Bytes of the largest screen, from QEMU's video memory. A file of a hypervisor may be so large in any case: a picture of
/// the screen is one, and QEMU keeps the screen itself in memory that it makes like a file.
pub const SCREEN_BYTES: u64 = 16 << 20;

/// The limits of a VM. Complete: defaults replace what a spec leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Percent of one CPU.
    pub cpu_cap: Option<u32>,
    /// Weight; 100 is usual.
    pub cpu_shares: u32,
    /// Bytes.
    pub memory: u64,
    /// Bytes that can be locked.
    pub locked: u64,
    /// Bytes of memory and swap together.
    pub memory_and_swap: u64,
    /// Threads of the hypervisor.
    pub threads: u32,
    /// Weight; 100 is usual.
    pub io_priority: u32,
}

impl Limits {
    /// As a spec says.
    #[must_use]
    pub fn of(spec: &VmSpec) -> Self {
        let number = |value: Option<i32>, default: i32| u32::try_from(value.unwrap_or(default)).unwrap_or(0);
        let usual = spec.ram().saturating_add(spec.brand.map_or(0, super::Brand::memory_overhead));
        let bytes = |value: Option<i32>, default: i32| u64::from(number(value, default)) << 20;
        let memory = bytes(spec.max_physical_memory, usual);
        Self {
            cpu_cap: Some(number(spec.cpu_cap, 0)).filter(|cap| *cap > 0),
            cpu_shares: number(spec.cpu_shares, VmSpec::DEFAULT_CPU_SHARES),
            memory,
            locked: bytes(spec.max_locked_memory, usual).min(memory),
            memory_and_swap: bytes(spec.max_swap, usual).max(memory),
            threads: number(spec.max_lwps, VmSpec::DEFAULT_MAX_LWPS),
            io_priority: number(spec.zfs_io_priority, VmSpec::DEFAULT_ZFS_IO_PRIORITY),
        }
    }
}

/// Whether a host enforces a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitReport {
    /// The property of the spec.
    pub property: String,
    /// By what.
    pub mechanism: String,
    /// Why not; empty when it does.
    pub reason: String,
}

impl LimitReport {
    /// Whether the host enforces it.
    #[must_use]
    pub fn is_effective(&self) -> bool {
        self.reason.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::machine_json;

    #[test]
    fn a_spec_in_the_hosts_units() {
        let of = |text: &str| Limits::of(&machine_json::parse(text.as_bytes()).unwrap().spec);
        let plain = of(r#"{"brand":"kvm","ram":512}"#);
        assert_eq!((plain.memory, plain.memory_and_swap), (1536 << 20, 1536 << 20));
        assert_eq!(
            (plain.cpu_cap, plain.cpu_shares, plain.threads, plain.io_priority),
            (None, 100, 2000, 100)
        );
        let all = of(r#"{"brand":"bhyve","ram":512,"cpu_cap":250,"cpu_shares":7,"max_physical_memory":600,
                "max_locked_memory":700,"max_swap":500,"max_lwps":9,"zfs_io_priority":0}"#);
        assert_eq!((all.memory, all.locked, all.memory_and_swap), (600 << 20, 600 << 20, 600 << 20));
        assert_eq!((all.cpu_cap, all.cpu_shares, all.threads, all.io_priority), (Some(250), 7, 9, 0));
        assert_eq!(of(r#"{"brand":"kvm","cpu_cap":0}"#).cpu_cap, None);
    }
}
