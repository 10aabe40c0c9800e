//! From an ISO onto the empty disk, and up from the disk: `order=cd,once=d` for real.

use zoneward::proto::v1;

use super::support::{
    disk, machine,
    real::{Real, guest},
};

async fn install(firmware: &str) {
    let agent = Real::start().await;
    let mut clients = agent.clients().await;
    let vm = v1::VmSpec { bootrom: Some(firmware.into()), disks: vec![disk(1024)], ..machine() };
    let uuid = clients.create(vm).await;
    let iso = guest().join("tiny-install.iso");
    agent.vmadm_ok(&["put-file", &uuid, iso.to_str().unwrap(), "/install.iso"]);
    agent.vmadm_ok(&["boot", &uuid, "order=cd,once=d", "cdrom=/install.iso,ide"]);
    let (text, offset) = clients.console_until(&uuid, 0, "GUEST: ready").await;
    let at = |wanted: &str| text.find(wanted).unwrap_or_else(|| panic!("{wanted} in {text}"));
    assert!(at("boot src=iso") < at("install done /dev/vda"));
    assert!(at("install done /dev/vda") < at("boot src=disk"), "the guest's own reboot comes up from disk");
    assert!(text.contains(&format!("firmware={firmware}")));

    clients.console_until(&uuid, offset, "/ # ").await;
    agent.vmadm_ok(&["stop", &uuid]);
    let offset = i64::try_from(clients.console_log(&uuid).await.len()).unwrap();
    agent.vmadm_ok(&["boot", &uuid]);
    let (text, _) = clients.console_until(&uuid, offset, "GUEST: ready").await;
    assert!(text.contains("boot src=disk"), "{text}");
    assert!(!text.contains("disk sr0"), "the CD was for one boot: {text}");
    agent.vmadm_ok(&["delete", &uuid]);
}

#[tokio::test]
async fn bios() {
    install("bios").await;
}

#[tokio::test]
async fn uefi() {
    install("uefi").await;
}
