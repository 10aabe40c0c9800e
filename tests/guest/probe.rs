//! The hostile program: nothing forbidden works in a zone, on any step of the ladder; and outside one the
//! same acts do work, so that their being refused means something.

use std::process::Command;

use zoneward::probe::ACTS;

use super::support::real::run_with;

fn probe(level: Option<&str>) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_zoneward"));
    command.args(["--set", &format!("run_dir={}", dir.path().display())]);
    if let Some(level) = level {
        command.args(["--set", &format!("zone.level={level}")]);
    }
    let output = run_with(command.arg("probe"), "");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn nothing_forbidden_works_in_a_zone() {
    assert!(ACTS.iter().filter(|act| !act.allowed).count() >= 100);
    let levels: &[Option<&str>] = if rustix::process::geteuid().is_root() {
        &[None, Some("no-user-namespace"), Some("filters-only")]
    } else {
        &[None, Some("filters-only")]
    };
    for level in levels {
        let (succeeded, table) = probe(*level);
        assert!(succeeded, "{level:?}: {table}");
        assert_eq!(table.lines().filter(|line| line.starts_with("ok")).count(), ACTS.len(), "{table}");
        assert!(table.contains(&format!("{} acts, 0 not as they should be", ACTS.len())), "{table}");
    }
}

#[test]
fn outside_a_zone_the_same_acts_work() {
    for name in [
        "create /tmp/pwned",
        "open the host's /etc/passwd",
        "make a socket: TCP over IPv4",
        "make a socket: UNIX stream",
        "make a socket: netlink",
        "fork",
        "clone a process",
        "open /proc",
        "open /proc/1/status",
        "ask for another's session",
        "open another by descriptor",
        "look whether another lives (kill 0)",
        "signal another",
        "make itself dumpable",
        "change its personality",
    ] {
        let index = ACTS.iter().position(|act| act.name == name).unwrap_or_else(|| panic!("{name}"));
        let mut victim = Command::new("sleep").arg("100").spawn().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_zoneward"));
        command.args(["zone-act", &index.to_string(), &victim.id().to_string()]);
        let output = run_with(&mut command, "");
        victim.kill().unwrap();
        victim.wait().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "succeeded", "{name}");
    }
    let _ = std::fs::remove_file("/tmp/pwned");
}
