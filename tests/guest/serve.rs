//! The program itself.

use std::os::unix::fs::PermissionsExt as _;

use super::support::real::{Real, moment, run_with};

#[tokio::test]
async fn two_agents_live_side_by_side_and_none_shares_folders() {
    let first = Real::start().await;
    let _second = Real::start().await;
    let output = run_with(first.zoneward().arg("serve"), "");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("another agent is using"), "{text}");
    moment().await;
    first.vmadm_ok(&["list"]);
}

#[tokio::test]
async fn the_socket_is_its_owners_alone() {
    let agent = Real::start().await;
    let mode = agent.socket().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn what_can_not_be_served_is_said() {
    let agent = Real::start().await;
    for (set, text) in [
        ("listen=nowhere", "listen: \"nowhere\" is not an address"),
        ("colour=red", "colour"),
        ("qemu.accel=warp", "warp"),
    ] {
        let output = run_with(agent.zoneward().args(["--set", set, "serve"]), "");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{set}");
        assert!(stderr.contains(text), "{set}: {stderr}");
    }
    let other = tempfile::tempdir().unwrap();
    let folder = |name: &str| format!("{name}_dir={}", other.path().join(name).display());
    let mut command = agent.zoneward();
    for set in ["listen=127.0.0.1:0", "tls.dir=/nonexistent"]
        .map(str::to_owned)
        .into_iter()
        .chain(["state", "zones", "run"].map(folder))
    {
        command.args(["--set", &set]);
    }
    let output = run_with(command.arg("serve"), "");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("zoneward pki init"), "what to do: {stderr}");
}

#[tokio::test]
async fn the_doctor_names_each_thing() {
    let agent = Real::start().await;
    let output = run_with(agent.zoneward().arg("doctor"), "");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for what in [
        "QEMU",
        "Brand kvm",
        "in the shape of bhyve's machine; there is no bhyve on this host",
        "KVM",
        "UEFI firmware",
        "User",
        "Namespaces",
        "Limits",
        "Folders",
        "Zones",
        "Certificates",
        "Networks",
    ] {
        assert!(text.contains(what), "{what} in {text}");
    }
    assert!(output.status.success(), "{text}");
    let output = run_with(agent.zoneward().args(["--set", "qemu.binary=/nonexistent", "doctor"]), "");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && text.contains("apt-get install qemu-system-x86"), "{text}");
}

/// systemd hears when the agent serves, that it gets on, and that it goes.
#[tokio::test]
async fn systemd_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(super::support::GUEST)).unwrap();
    let notify = format!("NOTIFY_SOCKET={}", path.display());
    let mut agent = Real::start_wrapped(&["env", &notify, "WATCHDOG_USEC=300000"], &[]).await;
    let hear = || {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    };
    assert_eq!(hear(), "READY=1");
    for _ in 0..3 {
        assert_eq!(hear(), "WATCHDOG=1");
    }
    assert!(agent.terminate().success());
    let rest = std::iter::repeat_with(hear).find(|word| word != "WATCHDOG=1");
    assert_eq!(rest.as_deref(), Some("STOPPING=1"));
}
