//! The hostile program: nothing forbidden works in a zone, on any step of the ladder; and outside one the
//! same acts do work, so that their being refused means something.

use std::process::Command;

use zoneward::{internals::probe::ACTS, proto::v1};

use super::support::{disk, ignored::needs_root, machine, real::run_with};

fn probe(level: Option<&str>) -> (bool, String) {
    probe_without(level, "")
}

fn probe_without(level: Option<&str>, without: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_zoneward"));
    command.args(["--set", &format!("run_dir={}", dir.path().display())]);
    if let Some(level) = level {
        command.args(["--set", &format!("zone.level={level}")]);
    }
    command.arg("probe");
    if !without.is_empty() {
        command.args(["--without", without]);
    }
    let output = run_with(&mut command, "");
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
        let target = format!(r#"{{"victim":{},"address":0,"disk":[47],"socket":"none"}}"#, victim.id());
        command.args(["zone-act", &index.to_string(), &target]);
        let output = run_with(&mut command, "");
        victim.kill().unwrap();
        victim.wait().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "succeeded", "{name}");
    }
    let _ = std::fs::remove_file("/tmp/pwned");
}

/// What the filter of system calls alone keeps a hypervisor from.
const SECCOMP: &[&str] = &[
    "make a socket: TCP over IPv4",
    "make a socket: UDP over IPv4",
    "make a socket: TCP over IPv6",
    "make a socket: UDP over IPv6",
    "make a socket: netlink",
    "make a socket: vsock",
    "make a socket: UNIX stream",
    "make a socket: UNIX datagram",
    "fork",
    "vfork",
    "clone a process",
    "clone a process that shares memory",
    "clone into a user namespace",
    "clone3",
    "run itself again",
    "raise its own limit",
    "unshare the user namespace",
    "set up io_uring",
    "use keys",
    "add a key",
    "adjust the clock",
    "change segment descriptors",
    "change its personality",
    "make shared memory",
    "make a semaphore",
    "make a message queue",
    "make itself dumpable",
    "be traced",
    "use another number for openat2",
    "run a program from memory",
    "ask for the credentials of who controls it",
    "ask who controls it",
    "let the kernel tell who sends",
    "lock a file",
    "lock a file and wait",
    "lock an open file",
    "make a pair of UNIX sockets",
    "make a pair of datagram sockets",
    "take room behind its disk",
    "take room behind its disk by zeroes",
    "take the host's asynchronous I/O",
    "unlock its disk",
];
/// What Landlock keeps it from too.
const PROGRAMS: &[&str] = &["run a program", "run a shell", "run a program below a folder"];
/// What its own pid namespace alone keeps it from.
const PROCESSES: &[&str] = &[
    "ask for another's process group",
    "ask for another's session",
    "ask for another's processors",
    "ask for another's scheduler",
];
/// What both its own pid namespace and the filter keep it from.
const SIGNALS: &[&str] = &[
    "ask for another's priority",
    "ask for another's limits",
    "open another by descriptor",
    "look whether another lives (kill 0)",
    "signal another",
    "signal everybody",
    "signal another's thread",
    "signal another's thread the old way",
    "slow another down",
    "limit another",
];

/// With a mechanism left out, what it guards works, and nothing else: the probe can fail, and every
/// mechanism is good for something. What is guarded twice needs both to be left out.
#[test]
fn without_a_mechanism_what_it_guards_works() {
    if needs_root("what a rootless zone's mechanisms guard was not looked at") {
        return;
    }
    let cases: &[(&str, &[&[&str]])] = &[
        ("read-only-mounts", &[]),
        ("landlock", &[]),
        ("network-namespace", &[]),
        ("seccomp", &[SECCOMP]),
        ("pid-namespace", &[PROCESSES]),
        ("cgroups", &[&["use more memory than its limit"]]),
        ("read-only-mounts,landlock", &[&["open the zone's own file for writing"]]),
        ("seccomp,landlock", &[SECCOMP, PROGRAMS]),
        (
            "seccomp,landlock,network-namespace",
            &[SECCOMP, PROGRAMS, &["connect to the host's abstract socket"]],
        ),
        ("seccomp,landlock,pid-namespace", &[SECCOMP, PROGRAMS, PROCESSES, SIGNALS]),
    ];
    for (without, guarded) in cases {
        let (succeeded, table) = probe_without(Some("full"), without);
        let wrong = table.lines().filter(|line| line.starts_with("WRONG"));
        let mut found: Vec<&str> = wrong.map(|line| line[25..70].trim()).collect();
        let mut expected: Vec<&str> = guarded.concat();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "without {without}");
        assert_eq!(succeeded, expected.is_empty(), "the exit status, without {without}");
        assert!(table.contains("no VM has such a zone"), "{table}");
    }
}

/// A process that got into a running hypervisor's place, with all that can be entered entered, is as
/// powerless.
#[tokio::test]
async fn nothing_forbidden_works_in_the_zone_of_a_running_vm() {
    let agent = super::support::real::Real::start().await;
    let with_disk = v1::VmSpec { disks: vec![disk(1)], ..machine() };
    let (mut clients, uuid, _) = super::survival::booted_as(&agent, with_disk).await;
    let before = clients.get(&uuid).await.unwrap();
    let output = run_with(agent.zoneward().args(["probe", "--vm", &uuid]), "");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    let bombs = 2;
    assert!(table.contains(&format!("{} acts, 0 not", ACTS.len() - bombs)), "{table}");
    assert_eq!(clients.get(&uuid).await.unwrap(), before, "the VM did not notice");
    let none = run_with(agent.zoneward().args(["probe", "--vm", &uuid::Uuid::new_v4().to_string()]), "");
    assert!(String::from_utf8_lossy(&none.stderr).contains("does not run"), "{none:?}");
}
