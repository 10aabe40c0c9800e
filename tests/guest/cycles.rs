//! Lives of VMs, one after another, leave nothing behind.

use std::collections::{BTreeMap, HashSet};

use zoneward::proto::v1;

use super::support::{disk, eventually, machine, real::Real};

/// What an agent and its host could leak.
fn resources(agent: &Real) -> BTreeMap<&'static str, usize> {
    let pid = agent.pid();
    let count = |path: String| std::fs::read_dir(path).map_or(0, Iterator::count);
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mine = format!("PPid:\t{pid}");
    let namespaces: HashSet<std::path::PathBuf> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            status.lines().any(|line| line == mine)
        })
        .filter_map(|entry| std::fs::read_link(entry.path().join("ns/mnt")).ok())
        .collect();
    let groups = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("{}-*", agent.name())])
        .output()
        .unwrap();
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let folder = agent.dir.path().display().to_string();
    BTreeMap::from([
        ("namespaces", namespaces.len()),
        (
            "control groups",
            groups.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count(),
        ),
        ("sockets", sockets.lines().filter(|line| line.contains(&folder)).count()),
        ("descriptors", count(format!("/proc/{pid}/fd"))),
        ("children", children.split_whitespace().count()),
        ("zones", count(agent.dir.path().join("zones").display().to_string())),
        ("run", count(agent.dir.path().join("run").display().to_string())),
    ])
}

#[tokio::test]
async fn create_boot_kill_delete() {
    let agent = Real::start().await;
    agent.tolerate(&["the hypervisor stopped its guest and does not say why"]);
    let mut clients = agent.clients().await;
    let mut before = None;
    // `ROUNDS=200 cargo test` for a long look.
    let rounds = std::env::var("ROUNDS").map_or(30, |text| text.parse().unwrap());
    for round in 0..rounds {
        let uuid = clients.create(v1::VmSpec { disks: vec![disk(16)], ..machine() }).await;
        clients.start(&uuid).await.unwrap();
        match round % 3 {
            0 => drop(clients.stop(&uuid, true).await.unwrap()),
            1 => {
                let pid = clients.get(&uuid).await.unwrap().status.unwrap().pid.unwrap();
                let process = rustix::process::Pid::from_raw(pid).unwrap();
                rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
            }
            // Deleted while it runs.
            _ => {}
        }
        clients.delete(&uuid).await.unwrap();
        // The first rounds find out what the host can do.
        if round == 2 {
            before = Some(resources(&agent));
        }
    }
    let before = before.unwrap();
    eventually("what was used is given back", || {
        let same = resources(&agent) == before;
        async move { same.then_some(()) }
    })
    .await;
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&agent.dir.path().display().to_string()), "{mounts}");
    // Every user of the range is free again: the next VM is the first one.
    let uuid = clients.create(machine()).await;
    clients.start(&uuid).await.unwrap();
    if rustix::process::geteuid().is_root() {
        let pid = clients.get(&uuid).await.unwrap().status.unwrap().pid.unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("Uid:\t1900000000\t"), "{status}");
    }
}
