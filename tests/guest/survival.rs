//! The agent is not the VM.

use zoneward::proto::v1;

use super::support::{
    Clients,
    ignored::needs_root,
    machine,
    real::{Real, guest},
};

pub(crate) async fn booted(agent: &Real) -> (Clients, String, i64) {
    booted_as(agent, machine()).await
}

pub(crate) async fn booted_as(agent: &Real, spec: v1::VmSpec) -> (Clients, String, i64) {
    let mut clients = agent.clients().await;
    let uuid = clients.create(spec).await;
    std::fs::copy(guest().join("tiny.iso"), agent.root(&uuid).join("tiny.iso")).unwrap();
    agent.vmadm_ok(&["boot", &uuid, "order=d", "cdrom=/tiny.iso,ide"]);
    let (_, offset) = clients.console_until(&uuid, 0, "/ # ").await;
    (clients, uuid, offset)
}

fn vnc_port(agent: &Real, uuid: &str) -> i64 {
    let info: serde_json::Value = serde_json::from_str(&agent.vmadm_ok(&["info", uuid, "vnc"]).0).unwrap();
    info["vnc"]["port"].as_i64().unwrap()
}

#[tokio::test]
async fn a_killed_agent_disturbs_no_guest() {
    let mut agent = Real::start().await;
    let (clients, uuid, offset) = booted(&agent).await;
    agent.vmadm_with(
        &["console", &uuid],
        "n=0; while [ $n -lt 400 ]; do echo tick-$n; n=$((n+1)); sleep 0.1; done\n",
    );
    let mut clients = clients;
    let (_, seen) = clients.console_until(&uuid, offset, "tick-3\r").await;
    let (pid, port) = (clients.get(&uuid).await.unwrap().status.unwrap().pid, vnc_port(&agent, &uuid));
    agent.kill();
    let log = agent.dir.path().join("zones").join(&uuid).join("console.log");
    let grown = |than: u64| {
        let size = log.metadata().unwrap().len();
        async move { (size > than + 20).then_some(()) }
    };
    let size = log.metadata().unwrap().len();
    super::support::eventually("the console grows with no agent", || grown(size)).await;

    agent.resume().await;
    let mut clients = agent.clients().await;
    let status = clients.get(&uuid).await.unwrap().status.unwrap();
    assert_eq!((status.state(), status.pid), (v1::VmState::Running, pid));
    assert_eq!(vnc_port(&agent, &uuid), port, "a viewer finds its screen again");
    // From where the reader was: no byte is missing, none is double.
    let (text, offset) = clients.console_until(&uuid, seen, "tick-60\r").await;
    let ticks: Vec<u32> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("tick-").and_then(|n| n.parse().ok()))
        .collect();
    assert!(ticks.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ticks:?}");
    assert_eq!((ticks.first(), ticks.last()), (Some(&4), Some(&60)));
    agent.vmadm_with(&["console", &uuid], "\u{3}");
    clients.console_until(&uuid, offset, "/ # ").await;

    agent.vmadm_ok(&["stop", &uuid]);
    let exit = clients.get(&uuid).await.unwrap().status.unwrap().exit.unwrap();
    assert_eq!(exit.reason(), v1::ExitReason::Operator);
}

#[tokio::test]
async fn sigterm_leaves_guests_alone_too() {
    let mut agent = Real::start().await;
    let (mut clients, uuid, _) = booted(&agent).await;
    let pid = clients.get(&uuid).await.unwrap().status.unwrap().pid;
    assert!(agent.terminate().success());
    agent.resume().await;
    let mut clients = agent.clients().await;
    assert_eq!(clients.get(&uuid).await.unwrap().status.unwrap().pid, pid);
    // A guest that ends while nobody looks is known to have ended.
    agent.kill();
    let process = rustix::process::Pid::from_raw(pid.unwrap()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    agent.resume().await;
    let mut clients = agent.clients().await;
    let status = clients.get(&uuid).await.unwrap().status.unwrap();
    assert_eq!(status.state(), v1::VmState::Stopped);
}

/// What the launcher wrote is gone or makes no sense: the control groups know the hypervisor, too.
#[tokio::test]
async fn a_hypervisor_is_found_without_its_file() {
    if needs_root("there are no control groups") {
        return;
    }
    let mut agent = Real::start().await;
    agent.tolerate(&["looking for the hypervisor in its control groups"]);
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    clients.start(&uuid).await.unwrap();
    let pid = clients.get(&uuid).await.unwrap().status.unwrap().pid;
    let run = agent.dir.path().join("run").join(&uuid);
    agent.kill();
    std::fs::write(run.join("process.json"), "{\"pid\": ").unwrap();
    agent.resume().await;
    let mut clients = agent.clients().await;
    let status = clients.get(&uuid).await.unwrap().status.unwrap();
    assert_eq!((status.state(), status.pid), (v1::VmState::Running, pid));
    agent.kill();
    std::fs::write(run.join("process.json"), "[]").unwrap();
    std::fs::write(run.join("cgroup.json"), "\0").unwrap();
    let process = rustix::process::Pid::from_raw(pid.unwrap()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    super::support::eventually("it is gone", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.unwrap())).unwrap_or_default();
        async move { (stat.is_empty() || stat.contains(") Z ")).then_some(()) }
    })
    .await;
    agent.resume().await;
    let mut clients = agent.clients().await;
    assert_eq!(clients.state(&uuid).await, v1::VmState::Stopped);
    clients.start(&uuid).await.unwrap();
    clients.delete(&uuid).await.unwrap();
}

/// A reboot whose agent is killed while the guest takes its time: the next agent starts the VM again.
#[tokio::test]
async fn a_reboot_outlives_its_agent() {
    let mut agent = Real::start().await;
    let (mut clients, uuid, offset) = booted(&agent).await;
    agent.vmadm_with(&["console", &uuid], "acpi ignore; echo deaf-$((1+1))\n");
    clients.console_until(&uuid, offset, "deaf-2").await;
    let mut reboot = agent.vmadm_command().args(["reboot", &uuid]).spawn().unwrap();
    let state = |wanted: v1::VmState, clients: &Clients| {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { (clients.state(&uuid).await == wanted).then_some(()) }
    };
    super::support::eventually("it stops", || state(v1::VmState::Stopping, &clients)).await;
    agent.kill();
    assert!(!reboot.wait().unwrap().success());
    agent.resume().await;
    let mut clients = agent.clients().await;
    let pid = clients.get(&uuid).await.unwrap().status.unwrap().pid;
    agent.vmadm_with(&["console", &uuid], "poweroff -f\n");
    super::support::eventually("it runs again", || state(v1::VmState::Running, &clients)).await;
    assert_ne!(clients.get(&uuid).await.unwrap().status.unwrap().pid, pid, "another hypervisor");
    clients.stop(&uuid, true).await.unwrap();
}
