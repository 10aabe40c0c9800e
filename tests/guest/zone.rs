//! The zone around a real QEMU, seen from outside.

use std::{collections::HashMap, os::unix::process::CommandExt as _};

use zoneward::{proto::v1, spec::Restriction};

use super::{
    support::{Clients, disk, ignored::needs_root, machine, metadata, real::Real, reason},
    survival::booted,
};

fn status_of(pid: i32) -> HashMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(k, v)| (k.to_owned(), v.trim().to_owned()))
        .collect()
}

/// What a process has open.
fn descriptors(pid: i32) -> Vec<(String, String)> {
    let folder = format!("/proc/{pid}/fd");
    let entries = std::fs::read_dir(&folder).unwrap();
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().to_string_lossy().into_owned();
            let target = std::fs::read_link(format!("{folder}/{name}")).ok()?;
            Some((name, target.to_string_lossy().into_owned()))
        })
        .collect()
}

async fn restrictions(clients: &mut Clients, uuid: &str) -> Vec<v1::Restriction> {
    clients.get(uuid).await.unwrap().status.unwrap().restrictions
}

fn assert_all(found: &[v1::Restriction], least: usize) {
    assert_eq!(found.len(), Restriction::ALL.len());
    for restriction in found {
        assert!(restriction.enforced && restriction.reason.is_empty(), "{restriction:?}");
        let needed = if restriction.kind() == v1::restriction::Kind::CreateProcess { 1 } else { least };
        assert!(restriction.mechanisms.len() >= needed, "{restriction:?}");
    }
}

#[tokio::test]
async fn a_running_guests_hypervisor_is_kept_from_all_five() {
    if needs_root("the rootless zone has a test of its own") {
        return;
    }
    let mut agent = Real::start().await;
    let (mut clients, uuid, _) = booted(&agent).await;
    let host = clients.host.get_host(v1::GetHostRequest {}).await.unwrap().into_inner();
    assert_all(&host.restrictions, 2);
    assert_all(&restrictions(&mut clients, &uuid).await, 2);

    let pid = clients.get(&uuid).await.unwrap().status.unwrap().pid.unwrap();
    let status = status_of(pid);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
    assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", "2"));
    let filters: u32 = status["Seccomp_filters"].parse().unwrap();
    // QEMU's own would be a third, and is not loaded: what lets it would let the guest load as many as it likes.
    assert_eq!(filters, 2, "the zone's");
    assert!(status["Uid"].starts_with("19000"), "a user of its own: {}", status["Uid"]);
    assert!(status["NSpid"].ends_with("\t1"), "the zone's init: {}", status["NSpid"]);

    // Nothing is open that the machine does not need, and nothing twice but QEMU's own copies.
    for (number, target) in descriptors(pid) {
        let needed = [
            "/console.in",     // standard input
            "/console.log",    // standard output
            "/hypervisor.log", // its messages
            "/tiny.iso",       // the CD
        ];
        let known = needed.iter().any(|name| target.ends_with(name))
            || target.starts_with("anon_inode:[event") // its own: eventfd, eventpoll
            || target == "anon_inode:[signalfd]"
            || target.starts_with("/memfd:displaysurface") // the guest's screen, since QEMU 9.2
            || target.starts_with("socket:"); // control and metadata, and the agent's connections to them
        assert!(known, "descriptor {number} is {target}");
    }
    let sockets = descriptors(pid).iter().filter(|(_, target)| target.starts_with("socket:")).count();
    assert!(sockets <= 4, "{sockets}");

    let names = |folder: &str| {
        let entries = std::fs::read_dir(format!("/proc/{pid}/root{folder}")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names("/"), ["bin", "dev", "lib", "lib64", "tiny.iso", "usr"]);
    assert_eq!(names("/dev"), ["null"], "no KVM where it is not used");
    let devices = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    assert_eq!(devices.lines().count(), 3, "lo alone: {devices}");

    // Another VM is another user.
    let other = clients.create(machine()).await;
    clients.start(&other).await.unwrap();
    let other_pid = clients.get(&other).await.unwrap().status.unwrap().pid.unwrap();
    assert_ne!(status_of(other_pid)["Uid"], status["Uid"]);

    // Measured again by the next agent.
    agent.kill();
    agent.resume().await;
    let mut clients = agent.clients().await;
    assert_all(&restrictions(&mut clients, &uuid).await, 2);
}

/// Each step down the ladder still boots a guest, and still keeps it from all five.
#[tokio::test]
async fn weaker_hosts_enforce_all_five_too() {
    if needs_root("the ladder was not walked") {
        return;
    }
    for level in ["no-user-namespace", "filters-only"] {
        let agent = Real::start_with(&[&format!("zone.level={level}")]).await;
        let (mut clients, uuid, _) = booted(&agent).await;
        assert_all(&restrictions(&mut clients, &uuid).await, 1);
        agent.vmadm_ok(&["stop", "-F", &uuid]);
    }
}

#[tokio::test]
async fn a_host_that_can_not_enforce_refuses_unless_it_is_allowed_by_name() {
    // A rootless zone for root is none.
    let level = if rustix::process::geteuid().is_root() { "zone.level=rootless" } else { "zone.level=full" };
    let agent = Real::start_with(&[level]).await;
    agent.tolerate(&["this host can't build zones"]);
    let mut clients = agent.clients().await;
    let uuid = clients.create(v1::VmSpec { disks: vec![disk(1)], ..machine() }).await;
    let status = clients.start(&uuid).await.unwrap_err();
    assert_eq!((reason(&status).as_str(), metadata(&status, "step").as_str()), ("BOOT_FAILED", "hypervisor"));
    assert!(status.message().contains("MODIFY_FILESYSTEM can't be enforced"), "{status:?}");
    assert!(status.message().contains("zone.allow_missing"), "what to do: {status:?}");
    let host = clients.host.get_host(v1::GetHostRequest {}).await.unwrap().into_inner();
    assert!(host.restrictions.iter().all(|restriction| !restriction.enforced));
    drop(agent);

    let names: Vec<String> = Restriction::ALL.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let allow = format!("zone.allow_missing=[{}]", names.join(","));
    let agent = Real::start_with(&[level, &allow]).await;
    agent.tolerate(&["this host can't build zones"]);
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    clients.start(&uuid).await.unwrap();
    let unknown = super::support::real::run_with(
        agent.zoneward().args(["--set", "zone.allow_missing=[\"ALL\"]", "serve"]),
        "",
    );
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("ALL"));
}

/// An ordinary user gets a zone in a user namespace, with nothing of the five lost.
#[tokio::test]
async fn an_ordinary_user_has_zones_too() {
    if needs_root("every other test is this one then") {
        return;
    }
    let nobody = 65534;
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(nobody), Some(nobody)).unwrap();
    // The build may lie where only root may look.
    let program = dir.path().join("zoneward");
    std::fs::copy(env!("CARGO_BIN_EXE_zoneward"), &program).unwrap();
    let mut command = std::process::Command::new(&program);
    for name in ["zones", "state", "run"] {
        command.args(["--set", &format!("{name}_dir={}", dir.path().join(name).display())]);
    }
    command
        .args(["--set", "qemu.accel=tcg", "serve"])
        .uid(nobody)
        .gid(nobody)
        .stderr(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    let socket = dir.path().join("run/zoneward.sock");
    super::support::eventually("the agent serves", || {
        let serves = std::os::unix::net::UnixStream::connect(&socket).is_ok();
        async move { serves.then_some(()) }
    })
    .await;
    let mut clients = Clients::new(super::support::connect_unix(socket).await);
    let uuid = clients.create(v1::VmSpec { disks: vec![disk(1)], ..machine() }).await;
    let started = clients.start(&uuid).await;
    let found = restrictions(&mut clients, &uuid).await;
    let deleted = clients.delete(&uuid).await;
    child.kill().unwrap();
    child.wait().unwrap();
    started.unwrap();
    deleted.unwrap();
    assert_all(&found, 1);
}
