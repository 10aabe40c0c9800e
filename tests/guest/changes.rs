//! What can be changed while a real guest runs.

use zoneward::proto::v1;

use super::{
    support::{disk, ignored::needs_root, machine, real::Real},
    survival::{booted, booted_as},
};

/// Pause, go on, interrupt; the guest does not notice but by the clock.
#[tokio::test]
async fn a_guest_is_halted_interrupted_and_goes_on() {
    let mut agent = Real::start().await;
    let (mut clients, uuid, offset) = booted(&agent).await;
    agent.vmadm_ok(&["pause", &uuid]);
    let info: serde_json::Value =
        serde_json::from_str(&agent.vmadm_ok(&["info", &uuid, "status"]).0).unwrap();
    assert_eq!(info["status"]["running"], false);
    assert_eq!(clients.get(&uuid).await.unwrap().status.unwrap().state(), v1::VmState::Paused);
    // The next agent finds it as it is.
    agent.kill();
    agent.resume().await;
    let mut clients = agent.clients().await;
    assert_eq!(clients.get(&uuid).await.unwrap().status.unwrap().state(), v1::VmState::Paused);
    agent.vmadm_ok(&["resume", &uuid]);
    agent.vmadm_with(&["console", &uuid], "echo went-$((40+2))\n");
    clients.console_until(&uuid, offset, "went-42").await;
    agent.vmadm_ok(&["sysrq", &uuid, "nmi"]);
    agent.vmadm_ok(&["sysrq", &uuid, "screenshot"]);
    let picture = std::fs::read(agent.root(&uuid).join("tmp/vm.ppm")).unwrap();
    assert!(picture.starts_with(b"P6\n"), "a picture");
    // A paused guest feels the power button.
    agent.vmadm_ok(&["pause", &uuid]);
    agent.vmadm_ok(&["stop", &uuid]);
    let exit = clients.get(&uuid).await.unwrap().status.unwrap().exit.unwrap();
    assert_eq!(exit.reason(), v1::ExitReason::Operator);
}

/// A CD is taken out and another put in, and the guest reads the other one.
#[tokio::test]
async fn another_medium_is_put_in_while_the_guest_runs() {
    let agent = Real::start().await;
    let (mut clients, uuid, offset) = booted(&agent).await;
    // Sectors that say what they are.
    std::fs::write(agent.root(&uuid).join("other.iso"), "OTHERDISC".repeat(20_000)).unwrap();
    agent.vmadm_ok(&["change-media", &uuid]);
    agent.vmadm_ok(&["change-media", &uuid, "/other.iso"]);
    agent.vmadm_with(&["console", &uuid], "for i in 1 2 3 4 5 6; do sleep 1; dd if=/dev/sr0 bs=2048 count=1 2>/dev/null | head -c 9; echo; done\n");
    clients.console_until(&uuid, offset, "OTHERDISC").await;
    agent.vmadm_ok(&["stop", "-F", &uuid]);
}

/// Limits follow an update at once, on the host's own control groups.
#[tokio::test]
async fn limits_are_changed_while_the_guest_runs() {
    if needs_root("no control group can be made") {
        return;
    }
    let agent = Real::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(v1::VmSpec { disks: vec![disk(1)], ..machine() }).await;
    clients.start(&uuid).await.unwrap();
    agent.vmadm_ok(&["update", &uuid, "cpu_cap=70", "max_physical_memory=900", "cpu_shares=300"]);
    let limits = clients.get(&uuid).await.unwrap().status.unwrap().limits;
    for wanted in ["=70000", "=943718400", "=3072"] {
        let v2 = ["=70000 100000", "=943718400", "=300"];
        let there = |limit: &v1::Limit| {
            limit.mechanism.ends_with(wanted) || v2.iter().any(|w| limit.mechanism.ends_with(w))
        };
        assert!(limits.iter().any(there), "{wanted}: {limits:?}");
    }
    // And down again, below what memory and swap together were.
    agent.vmadm_ok(&["update", &uuid, "max_physical_memory=600", "cpu_cap=0"]);
    let limits = clients.get(&uuid).await.unwrap().status.unwrap().limits;
    assert!(limits.iter().all(|limit| limit.effective), "{limits:?}");
    assert!(limits.iter().any(|limit| limit.mechanism.ends_with("=629145600")), "{limits:?}");
}

/// A viewer is asked for the password that the VM has now.
#[tokio::test]
async fn the_screens_password_is_asked_for() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let agent = Real::start().await;
    let (mut clients, uuid, _) = booted_as(&agent, machine()).await;
    let types = async |clients: &mut super::support::Clients| {
        let info =
            clients.vms.get_vm_info(v1::GetVmInfoRequest { uuid: uuid.clone(), types: vec!["vnc".into()] });
        let vnc = info.await.unwrap().into_inner().info.unwrap().fields["vnc"].clone();
        let Some(prost_types::value::Kind::StructValue(vnc)) = vnc.kind else { panic!("{vnc:?}") };
        let Some(prost_types::value::Kind::NumberValue(port)) = vnc.fields["port"].kind else {
            panic!("a port")
        };
        let address = format!("127.0.0.1:{port}");
        let mut viewer = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut banner = [0; 12];
        viewer.read_exact(&mut banner).await.unwrap();
        viewer.write_all(&banner).await.unwrap();
        let mut count = [0; 1];
        viewer.read_exact(&mut count).await.unwrap();
        let mut types = vec![0; count[0].into()];
        viewer.read_exact(&mut types).await.unwrap();
        types
    };
    let password = || {
        let info: serde_json::Value =
            serde_json::from_str(&agent.vmadm_ok(&["info", &uuid, "vnc"]).0).unwrap();
        info["vnc"]["password"].as_str().unwrap().to_owned()
    };
    assert_eq!(types(&mut clients).await, [2], "one that the agent made");
    let made = password();
    assert_eq!(made.len(), 8);
    agent.vmadm_ok(&["update", &uuid, "vnc_password=geheim"]);
    assert_eq!(types(&mut clients).await, [2], "VNC authentication");
    assert_eq!(password(), "geheim");
    agent.vmadm_ok(&["update", &uuid, "vnc_password="]);
    assert_eq!(types(&mut clients).await, [2]);
    assert_eq!(password(), made);
}
