//! The journey that must always work, letter by letter.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::support::real::{Real, guest, ok};

const EXAMPLE: &str = r#"{"brand":"kvm","vcpus":1,"autoboot":false,"ram":1024,"resolvers":["208.67.222.222","208.67.220.220"],"disks":[{"boot":true,"model":"virtio","size":40960}],"nics":[{"nic_tag":"admin","model":"virtio","ip":"10.88.88.51","netmask":"255.255.255.0","gateway":"10.88.88.1","primary":1}]}"#;

#[tokio::test]
async fn with_vmadm_on_the_local_socket() {
    let agent = Real::start().await;
    let mut clients = agent.clients().await;
    let mut events = tokio::process::Command::from(agent.vmadm_command())
        .args(["events", "--full", "--ready"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut events = BufReader::new(events.stdout.take().unwrap()).lines();
    assert!(events.next_line().await.unwrap().unwrap().ends_with("ready"));

    let (_, created) = ok(&["create"], agent.vmadm_with(&["create"], EXAMPLE));
    let uuid = created.trim().strip_prefix("Successfully created VM ").unwrap().to_owned();
    let disk = agent.dir.path().join("zones").join(&uuid).join("disk0");
    assert_eq!(disk.metadata().unwrap().len(), 40960 << 20);
    std::fs::copy(guest().join("tiny.iso"), agent.root(&uuid).join("tiny.iso")).unwrap();
    let (_, booted) = agent.vmadm_ok(&["boot", &uuid, "order=cd,once=d", "cdrom=/tiny.iso,ide"]);
    assert_eq!(booted, format!("Successfully started VM {uuid}\n"));

    let (info, _) = agent.vmadm_ok(&["info", &uuid, "vnc"]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let port = info["vnc"]["port"].as_i64().unwrap();
    assert_eq!(
        (&info["vnc"]["host"], info["vnc"]["display"].as_i64()),
        (&"127.0.0.1".into(), port.checked_sub(5900))
    );

    let mac = clients.get(&uuid).await.unwrap().spec.unwrap().nics[0].mac.clone().unwrap();
    let (text, offset) = clients.console_until(&uuid, 0, "/ # ").await;
    for wanted in [
        "GUEST: boot src=iso firmware=bios product=SmartDC_HVM",
        &format!("uuid={uuid}"),
        "cpus=1",
        "GUEST: disk vda sectors=83886080",
        &format!("mac={mac}"),
    ] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    // History first; what is typed reaches the guest.
    let (history, _) = ok(&["console"], agent.vmadm_with(&["console", &uuid], "echo $((6 * 7))-answer\n"));
    assert!(history.contains("GUEST: ready"), "{history}");
    let (_, offset) = clients.console_until(&uuid, offset, "42-answer").await;
    let (log, _) = agent.vmadm_ok(&["console", "--log", &uuid]);
    assert!(log.contains("42-answer"));

    let (_, stopped) = agent.vmadm_ok(&["stop", &uuid]);
    assert_eq!(stopped, format!("Successfully completed stop for VM {uuid}\n"));
    let (farewell, _) = clients.console_until(&uuid, offset, "going down for poweroff").await;
    assert!(farewell.contains("GUEST: power button"), "by ACPI: {farewell}");
    let (_, deleted) = agent.vmadm_ok(&["delete", &uuid]);
    assert_eq!(deleted, format!("Successfully deleted VM {uuid}\n"));
    assert!(!disk.exists() && !agent.dir.path().join("run").join(&uuid).exists());

    let mut seen = Vec::new();
    while let Some(line) = events.next_line().await.unwrap() {
        seen.push(line.clone());
        if line.ends_with("delete") {
            break;
        }
    }
    let seen = seen.join("\n");
    for wanted in
        ["- create", "boot ZONE_READY", "boot RUNNING", "boot FIRST_CONSOLE_BYTE", "-> \"stopping\""]
    {
        assert!(seen.contains(wanted), "{wanted} in {seen}");
    }
}
