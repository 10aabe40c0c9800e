//! What bounds a VM, on real control groups.

use std::process::Command;

use zoneward::proto::v1;

use super::{
    guest_exit,
    support::{disk, eventually, ignored::needs_root, machine, metadata, real::Real, reason},
    survival::booted_as,
};

/// A machine whose guest may not use all of the memory that it believes to have.
pub(crate) fn starved() -> v1::VmSpec {
    v1::VmSpec { ram: Some(256), max_physical_memory: Some(256), ..machine() }
}

/// Nothing of a VM is left: the agent's socket exists, and that of who carries output.
fn only_sockets(agent: &Real) {
    let run = std::fs::read_dir(agent.dir.path().join("run")).unwrap();
    let mut names: Vec<_> = run.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "logger.sock");
    assert_eq!(names, ["zoneward.sock"]);
}

#[tokio::test]
async fn a_hypervisor_that_needs_too_much_memory_is_killed_and_that_is_said() {
    if needs_root("no control group can be made") {
        return;
    }
    let mut agent = Real::start_with(&["zone.min_overhead=0"]).await;
    let (mut clients, uuid, _) = booted_as(&agent, starved()).await;
    let pid = clients.get(&uuid).await.unwrap().status.unwrap().pid.unwrap();
    agent.vmadm_with(&["console", &uuid], "cat /dev/zero > /big\n");
    let exit = guest_exit(&clients, &uuid).await;
    assert_eq!((exit.reason(), exit.status), (v1::ExitReason::OutOfMemory, 137), "{exit:?}");
    assert!(exit.detail.contains("max_physical_memory (256 MiB)"), "{exit:?}");
    let journal = clients.journal().await;
    let told = journal.iter().rev().find_map(|event| match &event.kind {
        Some(v1::event::Kind::Modified(modified)) => {
            modified.changes.iter().find(|change| change.path == "exit_reason")
        }
        _ => None,
    });
    assert_eq!(told.unwrap().new_value, "\"out_of_memory\"");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());

    // The same while no agent runs to see it.
    let log = agent.dir.path().join("zones").join(&uuid).join("console.log");
    let end = i64::try_from(log.metadata().unwrap().len()).unwrap();
    agent.vmadm_ok(&["boot", &uuid, "order=d", "cdrom=/tiny.iso,ide"]);
    clients.console_until(&uuid, end, "/ # ").await;
    let pid = clients.get(&uuid).await.unwrap().status.unwrap().pid.unwrap();
    agent.vmadm_with(&["console", &uuid], "sleep 2; cat /dev/zero > /big\n");
    agent.kill();
    eventually("the hypervisor is killed", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        async move { (stat.is_empty() || stat.contains(") Z ")).then_some(()) }
    })
    .await;
    agent.resume().await;
    let mut clients = agent.clients().await;
    let exit = clients.get(&uuid).await.unwrap().status.unwrap().exit.unwrap();
    assert_eq!(exit.reason(), v1::ExitReason::OutOfMemory, "{exit:?}");
}

/// Each limit, as the host's own files say while the VM runs; adopted ones too.
#[tokio::test]
async fn limits_are_the_hosts() {
    if needs_root("no control group can be made") {
        return;
    }
    let mut agent = Real::start().await;
    let mut clients = agent.clients().await;
    let spec = v1::VmSpec {
        cpu_cap: Some(150),
        cpu_shares: Some(200),
        max_physical_memory: Some(700),
        max_swap: Some(800),
        max_lwps: Some(90),
        ..machine()
    };
    let uuid = clients.create(spec).await;
    clients.start(&uuid).await.unwrap();
    let status = clients.get(&uuid).await.unwrap().status.unwrap();
    let mechanism = |status: &v1::VmStatus, property: &str| {
        let found = status.limits.iter().find(|limit| limit.property == property).unwrap().clone();
        assert_eq!(found.effective, found.reason.is_empty());
        if found.effective { found.mechanism } else { format!("none: {}", found.reason) }
    };
    let expected = [
        ("cpu_cap", "cgroup v1 cpu.cfs_quota_us=150000", "cgroup v2 cpu.max=150000 100000"),
        ("cpu_shares", "cgroup v1 cpu.shares=2048", "cgroup v2 cpu.weight=200"),
        (
            "max_physical_memory",
            "cgroup v1 memory.limit_in_bytes=734003200",
            "cgroup v2 memory.max=734003200",
        ),
        (
            "max_swap",
            "cgroup v1 memory.memsw.limit_in_bytes=838860800",
            "cgroup v2 memory.swap.max=104857600",
        ),
        ("max_lwps", "cgroup v1 pids.max=90", "cgroup v2 pids.max=90"),
    ];
    for (property, v1, v2) in expected {
        let found = mechanism(&status, property);
        assert!(found == v1 || found == v2, "{property}: {found}");
    }
    let pid = status.pid.unwrap();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    for controller in ["memory", "pids", "cpu"] {
        let own = |line: &&str| line.split(':').nth(1).unwrap().split(',').any(|name| name == controller);
        let line = groups.lines().find(own).or(groups.lines().find(|line| line.starts_with("0::")));
        assert!(line.unwrap().ends_with(&format!("-{uuid}")), "{controller}: {groups}");
    }
    let rlimits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let processes = rlimits.lines().find(|line| line.starts_with("Max processes")).unwrap();
    assert_eq!(processes.split_whitespace().nth(2), Some("90"), "a second line of defence");

    agent.kill();
    agent.resume().await;
    let mut clients = agent.clients().await;
    let adopted = clients.get(&uuid).await.unwrap().status.unwrap();
    assert_eq!(adopted.limits, status.limits);

    let host = clients.host.get_host(v1::GetHostRequest {}).await.unwrap().into_inner();
    for limit in host.limits.iter().filter(|limit| limit.property != "zfs_io_priority") {
        assert!(limit.effective && !limit.mechanism.contains('='), "{limit:?}");
    }
    assert_eq!(host.limits.len(), 6);
    clients.delete(&uuid).await.unwrap();
    assert!(!groups_are_left(&uuid), "control groups are left");
}

/// Whether any hierarchy still has a group of the VM.
pub(crate) fn groups_are_left(uuid: &str) -> bool {
    let output = Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("*{uuid}*")])
        .output()
        .unwrap();
    !output.stdout.is_empty()
}

/// An agent that may not make control groups, because their file systems are read only around it.
#[tokio::test]
async fn a_host_that_can_not_limit_refuses_or_says_so() {
    if needs_root("no cgroup file system can be made read only") {
        return;
    }
    let wrap = "mount --make-rprivate / && for m in $(grep -E ' cgroup2? ' /proc/mounts | cut -d' ' -f2); \
                do mount -o remount,ro,bind $m || exit 9; done; exec \"$0\" \"$@\"";
    let agent = Real::start_wrapped(&["unshare", "-m", "sh", "-c", wrap], &[]).await;
    agent.tolerate(&["cannot remove"]);
    let mut clients = agent.clients().await;
    let uuid = clients.create(v1::VmSpec { disks: vec![disk(1)], ..machine() }).await;
    let status = clients.start(&uuid).await.unwrap_err();
    assert_eq!((reason(&status).as_str(), metadata(&status, "step").as_str()), ("BOOT_FAILED", "hypervisor"));
    for words in ["max_physical_memory can't be enforced", "Read-only file system", "Delegate=yes"] {
        assert!(status.message().contains(words), "{status:?}");
    }
    only_sockets(&agent);
    drop(agent);

    let agent = Real::start_wrapped(&["unshare", "-m", "sh", "-c", wrap], &["zone.limits=best-effort"]).await;
    agent.tolerate(&["cannot remove"]);
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    clients.start(&uuid).await.unwrap();
    let status = clients.get(&uuid).await.unwrap().status.unwrap();
    assert!(status.limits.iter().all(|limit| !limit.effective && !limit.reason.is_empty()), "{status:?}");
    clients.delete(&uuid).await.unwrap();
}

/// A host that gives the agent no namespaces is one step down the ladder, and says why.
#[tokio::test]
async fn a_host_that_forbids_namespaces_is_named() {
    if needs_root("a host without namespaces is made by root") {
        return;
    }
    // An ordinary user of a user namespace in which no network namespace can be made.
    let wrap = "echo 0 > /proc/sys/user/max_net_namespaces && exec unshare -U --map-user=1000 --map-group=1000 \"$0\" \"$@\"";
    let sets = ["zone.level=rootless"];
    let agent = Real::start_wrapped(&["unshare", "-U", "-r", "sh", "-c", wrap], &sets).await;
    agent.tolerate(&["this host can't build zones"]);
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let status = clients.start(&uuid).await.unwrap_err();
    for words in ["can't be enforced on this host", "clone3", "max_*_namespaces"] {
        assert!(status.message().contains(words), "{status:?}");
    }
}

/// A zone's root that is not as the agent made it is refused by name, and nothing is left half-made.
#[tokio::test]
async fn a_root_that_was_tampered_with_is_refused() {
    if needs_root("the zones of root are what is tampered with") {
        return;
    }
    let agent = Real::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let root = agent.root(&uuid);
    std::os::unix::fs::chown(&root, Some(1234), None).unwrap();
    let status = clients.start(&uuid).await.unwrap_err();
    assert!(status.message().contains("belongs to user 1234"), "{status:?}");
    assert!(status.message().contains("chown"), "what to do: {status:?}");
    only_sockets(&agent);
    assert!(!groups_are_left(&uuid));
    std::os::unix::fs::chown(&root, Some(0), None).unwrap();
    clients.start(&uuid).await.unwrap();
}
