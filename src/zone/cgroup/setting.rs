//! The files and values that set each limit, in both versions of control groups.

use super::hierarchy::Version;
use crate::spec::Limits;

/// One property in the terms of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// Of the spec.
    pub(super) property: &'static str,
    pub(super) controller: &'static str,
    /// The first file that exists is written.
    pub(super) files: &'static [&'static str],
    pub(super) value: String,
}

/// Period of a CPU cap, in microseconds.
const PERIOD: u64 = 100_000;

/// Controllers that limits need.
pub(super) const CONTROLLERS: &[&str] = &["cpu", "memory", "pids", "io", "blkio"];

impl Setting {
    /// Returns all settings. The memory limit comes before the limit of memory and swap, which must not be
    /// lower.
    pub(super) fn all(limits: &Limits, version: Version) -> Vec<Self> {
        let quota = limits.cpu_cap.map(|percent| u64::from(percent) * PERIOD / 100);
        let (shares, io) = (u64::from(limits.cpu_shares), limits.io_priority);
        let rows: [(&str, &str, &[&str], String); 6] = match version {
            Version::V1 => [
                ("cpu_cap", "cpu", &["cpu.cfs_quota_us"], quota.map_or("-1".to_owned(), |q| q.to_string())),
                // 1024 is the default.
                ("cpu_shares", "cpu", &["cpu.shares"], (shares * 1024 / 100).clamp(2, 262_144).to_string()),
                ("max_physical_memory", "memory", &["memory.limit_in_bytes"], limits.memory.to_string()),
                ("max_swap", "memory", &["memory.memsw.limit_in_bytes"], limits.memory_and_swap.to_string()),
                ("max_lwps", "pids", &["pids.max"], limits.threads.to_string()),
                (
                    "zfs_io_priority",
                    "blkio",
                    &["blkio.weight", "blkio.bfq.weight"],
                    io.clamp(1, 1000).to_string(),
                ),
            ],
            Version::V2 => [
                (
                    "cpu_cap",
                    "cpu",
                    &["cpu.max"],
                    format!("{} {PERIOD}", quota.map_or("max".to_owned(), |q| q.to_string())),
                ),
                ("cpu_shares", "cpu", &["cpu.weight"], shares.clamp(1, 10_000).to_string()),
                ("max_physical_memory", "memory", &["memory.max"], limits.memory.to_string()),
                (
                    "max_swap",
                    "memory",
                    &["memory.swap.max"],
                    (limits.memory_and_swap.saturating_sub(limits.memory)).to_string(),
                ),
                ("max_lwps", "pids", &["pids.max"], limits.threads.to_string()),
                ("zfs_io_priority", "io", &["io.weight", "io.bfq.weight"], io.clamp(1, 10_000).to_string()),
            ],
        };
        rows.map(|(property, controller, files, value)| Self { property, controller, files, value }).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            cpu_cap: Some(150),
            cpu_shares: 100,
            memory: 1 << 30,
            locked: 1 << 30,
            memory_and_swap: 3 << 29,
            threads: 7,
            io_priority: 0,
        }
    }

    fn values(limits: &Limits, version: Version) -> Vec<String> {
        let line = |setting: Setting| format!("{}={}", setting.files[0], setting.value);
        Setting::all(limits, version).into_iter().map(line).collect()
    }

    #[test]
    fn both_versions() {
        assert_eq!(
            values(&limits(), Version::V1),
            [
                "cpu.cfs_quota_us=150000",
                "cpu.shares=1024",
                "memory.limit_in_bytes=1073741824",
                "memory.memsw.limit_in_bytes=1610612736",
                "pids.max=7",
                "blkio.weight=1"
            ]
        );
        assert_eq!(
            values(&limits(), Version::V2),
            [
                "cpu.max=150000 100000",
                "cpu.weight=100",
                "memory.max=1073741824",
                "memory.swap.max=536870912",
                "pids.max=7",
                "io.weight=1"
            ]
        );
    }

    #[test]
    fn no_cap_and_the_ends_of_the_scales() {
        let wide = Limits { cpu_cap: None, cpu_shares: 65535, io_priority: 10_000, ..limits() };
        let (v1, v2) = (values(&wide, Version::V1), values(&wide, Version::V2));
        assert_eq!((v1[0].as_str(), v1[1].as_str()), ("cpu.cfs_quota_us=-1", "cpu.shares=262144"));
        assert_eq!((v2[0].as_str(), v2[1].as_str()), ("cpu.max=max 100000", "cpu.weight=10000"));
        assert_eq!((v1[5].as_str(), v2[5].as_str()), ("blkio.weight=1000", "io.weight=10000"));
        let narrow = Limits { cpu_shares: 0, ..limits() };
        assert_eq!(values(&narrow, Version::V1)[1], "cpu.shares=2");
    }
}
