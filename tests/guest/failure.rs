//! Boots that can't work.

use std::os::unix::fs::PermissionsExt as _;

use super::support::{machine, metadata, real::Real, reason};

#[tokio::test]
async fn a_hypervisor_that_ends_at_once_is_quoted() {
    let agent = Real::start_with(&["qemu.tcg_cpu=pentium9"]).await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let status = clients.start(&uuid).await.unwrap_err();
    assert_eq!((reason(&status).as_str(), metadata(&status, "step").as_str()), ("BOOT_FAILED", "control"));
    assert!(status.message().contains("pentium9"), "its own words: {status:?}");
    assert!(!agent.dir.path().join("run").join(&uuid).exists());
    let output = agent.vmadm(&["boot", &uuid]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.starts_with(&format!("Unable to start VM {uuid}: boot failed in step control: ")), "{text}");
}

#[tokio::test]
async fn a_hypervisor_that_is_missing_or_no_program() {
    let agent = Real::start_with(&["qemu.binary=/nonexistent/qemu"]).await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let status = clients.start(&uuid).await.unwrap_err();
    assert!(status.message().contains("install the package qemu-system-x86"), "{status:?}");
    drop(agent);

    let dir = tempfile::tempdir().unwrap();
    let fake = dir.path().join("qemu");
    std::fs::write(&fake, "not a program").unwrap();
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
    let agent = Real::start_with(&[&format!("qemu.binary={}", fake.display())]).await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let status = clients.start(&uuid).await.unwrap_err();
    assert_eq!(metadata(&status, "step"), "hypervisor");
    assert!(status.message().contains("cannot run") && status.message().contains("xec format"), "{status:?}");
}

/// A hypervisor that never answers is given up, killed, and leaves nothing.
#[tokio::test]
async fn a_hypervisor_that_says_nothing_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let fake = dir.path().join("qemu");
    std::fs::write(&fake, "#!/bin/sh\necho only this >&2\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
    let agent = Real::start_with(&[&format!("qemu.binary={}", fake.display()), "qemu.start_seconds=1"]).await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let status = clients.start(&uuid).await.unwrap_err();
    assert_eq!(metadata(&status, "step"), "control");
    assert!(status.message().contains("did not answer"), "{status:?}");
    assert!(status.message().contains("only this"), "{status:?}");
    assert!(!agent.dir.path().join("run").join(&uuid).exists());
}

#[tokio::test]
async fn two_vms_do_not_write_the_same_disk() {
    let agent = Real::start().await;
    let mut clients = agent.clients().await;
    let shared = zoneward::proto::v1::DiskSpec {
        nocreate: Some(true),
        path: Some("/d.raw".into()),
        ..Default::default()
    };
    let uuid = clients
        .create(zoneward::proto::v1::VmSpec { disks: vec![shared.clone(), shared], ..machine() })
        .await;
    std::fs::write(agent.root(&uuid).join("d.raw"), vec![0; 1 << 20]).unwrap();
    let status = clients.start(&uuid).await.unwrap_err();
    assert!(status.message().contains("\"write\" lock"), "{status:?}");
}
