//! The identity of this boot of the host, and its uptime.

use std::{io, path::Path};

/// Made by the kernel at its start.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Returns the id of this boot of the host; each restart changes it.
pub fn this_host_boot() -> io::Result<String> {
    read(Path::new(BOOT_ID))
}

/// Returns the microseconds since the host's boot, by a clock that every agent shares and nobody sets.
#[must_use]
pub(crate) fn host_clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
    u64::try_from(micros).unwrap_or(0)
}

fn read(path: &Path) -> io::Result<String> {
    let with_path = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    Ok(std::fs::read_to_string(path).map_err(with_path)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_the_same_until_the_host_is_restarted() {
        let boot = this_host_boot().unwrap();
        assert_eq!(boot.len(), 36, "{boot}");
        assert_eq!(boot, this_host_boot().unwrap());
        let error = read(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere: "), "{error}");
    }
}
