//! Boots that can't work.

use zoneward::proto::v1;

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

/// What QEMU does not take is refused before anything is made.
#[tokio::test]
async fn a_cpu_that_qemu_does_not_make_is_refused() {
    let agent = Real::start().await;
    let mut clients = agent.clients().await;
    let mut validate = async |cpu_type: &str| {
        let vm = v1::VmSpec { cpu_type: Some(cpu_type.into()), ..machine() };
        let request = v1::ValidateVmRequest { vm: Some(Box::new(vm)), ..Default::default() };
        clients.vms.validate_vm(request).await.unwrap().into_inner().violations
    };
    for wrong in ["max,foo=bar", "qemu64,pmu=maybe", "qemu64,phys-bits=99", "qemu64,level=x"] {
        let found = validate(wrong).await;
        assert_eq!(found.len(), 1, "{wrong}");
        assert_eq!(found[0].field, "cpu_type");
        assert!(found[0].description.contains("does not take it: "), "{found:?}");
    }
    for right in ["qemu64,aes=on", "qemu64,family=6,model=3", "max,pmu=off"] {
        assert_eq!(validate(right).await, [], "{right}");
    }
}

#[tokio::test]
async fn a_hypervisor_that_is_missing_or_no_program() {
    let agent = Real::start_with(&["qemu.binary=/nonexistent/qemu"]).await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let status = clients.start(&uuid).await.unwrap_err();
    assert!(status.message().contains("install the package qemu-system-x86"), "{status:?}");
    drop(agent);

    let agent = Real::start_with(&["qemu.binary=/usr/share/common-licenses/GPL-3"]).await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let status = clients.start(&uuid).await.unwrap_err();
    assert_eq!(metadata(&status, "step"), "hypervisor");
    assert!(status.message().contains("cannot run /usr/share/common-licenses/GPL-3"), "{status:?}");
}

/// A hypervisor that never answers is given up, killed, and leaves nothing.
#[tokio::test]
async fn a_hypervisor_that_says_nothing_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let silent = dir.path().join("silent");
    let source =
        "#include <stdio.h>\n#include <unistd.h>\nint main(void) { fputs(\"only this\", stderr); pause(); }";
    let compiled = super::support::real::run_with(
        std::process::Command::new("cc").args(["-x", "c", "-", "-o"]).arg(&silent),
        source,
    );
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    // Only where the zone has no root of its own can a program lie outside the platform.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let binary = format!("qemu.binary={}", silent.display());
    let agent = Real::start_with(&[&binary, "qemu.start_seconds=1", "zone.level=filters-only"]).await;
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
    let other_name = zoneward::proto::v1::DiskSpec { path: Some("/e.raw".into()), ..shared.clone() };
    let uuid =
        clients.create(zoneward::proto::v1::VmSpec { disks: vec![shared, other_name], ..machine() }).await;
    std::fs::write(agent.root(&uuid).join("d.raw"), vec![0; 1 << 20]).unwrap();
    std::fs::hard_link(agent.root(&uuid).join("d.raw"), agent.root(&uuid).join("e.raw")).unwrap();
    let status = clients.start(&uuid).await.unwrap_err();
    assert!(status.message().contains("\"write\" lock"), "{status:?}");
}
