//! Images under real QEMU: one disk that was installed becomes many machines.

use std::{fs, os::unix::fs::FileExt as _, path::Path};

use zoneward::proto::v1;

use super::support::{
    Clients, disk, machine,
    real::{Real, guest},
};

/// Installs the guest's system on a disk; returns the VM, stopped.
async fn installed(agent: &Real, clients: &mut Clients) -> String {
    let uuid = clients.create(v1::VmSpec { disks: vec![disk(1024)], ..machine() }).await;
    let iso = guest().join("tiny-install.iso");
    agent.vmadm_ok(&["put-file", &uuid, iso.to_str().unwrap(), "/install.iso"]);
    agent.vmadm_ok(&["boot", &uuid, "order=cd,once=d", "cdrom=/install.iso,ide"]);
    let (text, offset) = clients.console_until(&uuid, 0, "GUEST: ready").await;
    assert!(text.contains("boot src=disk"), "{text}");
    clients.console_until(&uuid, offset, "/ # ").await;
    agent.vmadm_ok(&["stop", &uuid]);
    uuid
}

fn of_image(image: &str, brand: &str) -> v1::VmSpec {
    let disk = v1::DiskSpec { image_uuid: Some(image.to_owned()), boot: Some(true), ..Default::default() };
    v1::VmSpec { brand: brand.into(), disks: vec![disk], ..machine() }
}

/// Boots a VM from its disk; returns what its console said, and the offset behind it.
async fn boot(agent: &Real, clients: &mut Clients, uuid: &str) -> i64 {
    let offset = i64::try_from(clients.console_log(uuid).await.len()).unwrap();
    agent.vmadm_ok(&["boot", uuid]);
    let (text, offset) = clients.console_until(uuid, offset, "GUEST: ready").await;
    assert!(text.contains("boot src=disk"), "{text}");
    clients.console_until(uuid, offset, "/ # ").await.1
}

fn disk_of(agent: &Real, uuid: &str) -> std::path::PathBuf {
    agent.dir.path().join("zones").join(uuid).join("disk0")
}

/// What a guest says to a line.
async fn say(agent: &Real, clients: &mut Clients, uuid: &str, offset: i64, line: &str, wanted: &str) -> i64 {
    super::support::real::ok(&["console"], agent.vmadm_with(&["console", uuid], &format!("{line}\n")));
    clients.console_until(uuid, offset, wanted).await.1
}

#[tokio::test]
async fn an_installed_disk_becomes_machines_of_both_brands() {
    let agent = Real::start().await;
    let mut clients = agent.clients().await;
    let source = installed(&agent, &mut clients).await;
    // As a qcow2 file, so that the zone of the converter has something to read.
    let qcow2 = agent.dir.path().join("installed.qcow2");
    let converted = std::process::Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2", "-c"])
        .args([disk_of(&agent, &source), qcow2.clone()])
        .status();
    assert!(converted.unwrap().success());
    let (said, _) = agent.imgadm_ok(&["import", "--name", "tiny", qcow2.to_str().unwrap()]);
    let image = said.strip_prefix("Imported image ").unwrap().split(' ').next().unwrap().to_owned();
    agent.vmadm_ok(&["delete", &source]);
    let original = agent.dir.path().join("zones/images").join(&image).join("disk");
    let before = digest(&original);

    let kvm = clients.create(of_image(&image, "kvm")).await;
    let bhyve = clients.create(of_image(&image, "bhyve")).await;
    let offset = boot(&agent, &mut clients, &kvm).await;
    // The last sector of the disk, where no file is.
    let write =
        "echo written-by-one | dd of=/dev/vda bs=512 seek=2097151 2>/dev/null; sync; echo done-$((6 * 7))";
    say(&agent, &mut clients, &kvm, offset, write, "done-42").await;
    boot(&agent, &mut clients, &bhyve).await;
    agent.vmadm_ok(&["stop", &kvm]);
    let read =
        "dd if=/dev/vda bs=512 skip=2097151 2>/dev/null | tr -d '\\000' | head -c 20; echo end-$((6 * 7))";
    let offset = boot(&agent, &mut clients, &kvm).await;
    let end = say(&agent, &mut clients, &kvm, offset, read, "end-42").await;
    let text = clients.console_log(&kvm).await;
    let seen = &text[usize::try_from(offset).unwrap()..usize::try_from(end).unwrap()];
    assert!(seen.contains("written-by-one\r\nend-42"), "{seen}");
    assert_eq!(digest(&original), before, "nobody writes an image");
    for vm in [&kvm, &bhyve] {
        let refused = agent.imgadm(&["delete", &image]);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("ImageHasDependentClones"));
        agent.vmadm_ok(&["delete", vm]);
    }
    agent.imgadm_ok(&["delete", &image]);
    assert_eq!(fs::read_dir(agent.dir.path().join("zones/images")).unwrap().count(), 0);
}

/// A guest that owns its hypervisor has written into the header what files it would like to have.
#[tokio::test]
async fn the_header_of_an_overlay_names_nothing() {
    let agent = Real::start().await;
    let mut clients = agent.clients().await;
    let source = installed(&agent, &mut clients).await;
    let (said, _) = agent.imgadm_ok(&["import", "-q", disk_of(&agent, &source).to_str().unwrap()]);
    let image = said.strip_prefix("Imported image ").unwrap().split(' ').next().unwrap().to_owned();
    let vm = clients.create(of_image(&image, "kvm")).await;
    let form = clients.get(&vm).await.unwrap().status.unwrap().disks[0].form.clone();
    if form != "overlay" {
        // This file system shares blocks: there is no header.
        return;
    }
    let secret = agent.dir.path().join("secret");
    fs::write(&secret, vec![b'S'; 1 << 20]).unwrap();
    let overlay = fs::File::options().read(true).write(true).open(disk_of(&agent, &vm)).unwrap();
    let name = secret.to_str().unwrap().as_bytes();
    overlay.write_all_at(name, 4096).unwrap();
    overlay.write_all_at(&4096_u64.to_be_bytes(), 8).unwrap();
    overlay.write_all_at(&u32::try_from(name.len()).unwrap().to_be_bytes(), 16).unwrap();
    boot(&agent, &mut clients, &vm).await;
    agent.vmadm_ok(&["stop", "-F", &vm]);
    // A file for its data, by an incompatible feature and an extension of the header.
    overlay.write_all_at(&0_u64.to_be_bytes(), 8).unwrap();
    overlay.write_all_at(&0_u32.to_be_bytes(), 16).unwrap();
    overlay.write_all_at(&4_u64.to_be_bytes(), 72).unwrap();
    overlay.write_all_at(&0x4441_5441_u32.to_be_bytes(), 104).unwrap();
    overlay.write_all_at(&u32::try_from(name.len()).unwrap().to_be_bytes(), 108).unwrap();
    overlay.write_all_at(name, 112).unwrap();
    let failed = agent.vmadm(&["boot", &vm]);
    let why = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success() && why.contains("boot failed in step"), "{why}");
    assert!(Path::new(&secret).exists());
    agent.vmadm_ok(&["delete", &vm]);
    agent.vmadm_ok(&["delete", &source]);
}

fn digest(path: &Path) -> String {
    let said = std::process::Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(said.stdout).unwrap()
}
