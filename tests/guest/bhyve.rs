//! Brand bhyve on QEMU: a guest looks where its devices are, is installed, and is moved between the brands.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Value, json};
use zoneward::{internals::probe::ACTS, proto::v1};

use super::support::{
    ignored::needs_root,
    net::Guest,
    real::{Real, guest, run_with},
};

fn nic(mac: u8, primary: bool) -> Value {
    json!({"nic_tag": "admin", "model": "virtio", "ip": "dhcp", "mac": format!("02:00:00:00:00:0{mac}"), "primary": primary})
}

fn tiny() -> Vec<PathBuf> {
    vec![guest().join("tiny.iso")]
}

/// What the guest finds: PCI functions with their classes, and disks and interfaces with what they say of themselves.
async fn devices(agent: &Real, guest: &mut Guest) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let text = guest.run(agent, "devices", "DEVICES ARE  ALL").await;
    let lines = |prefix: &str| {
        let all = text.lines().filter_map(|line| line.trim().strip_prefix(prefix)?.split_once(' '));
        all.map(|(at, what)| (at.to_owned(), what.to_owned())).collect()
    };
    (lines("PCI "), lines("AT "))
}

/// `0:4:1` as Linux writes it.
fn linux(slot: &str) -> String {
    let parts: Vec<u8> = slot.split(':').map(|part| part.parse().unwrap()).collect();
    format!("{:02x}:{:02x}.{}", parts[0], parts[1], parts[2])
}

#[tokio::test]
async fn a_guest_finds_its_devices_where_smartos_puts_them() {
    let agent = Real::start().await;
    let machine = json!({"brand": "bhyve", "disks": [
        {"size": 20, "model": "nvme"},
        {"size": 21, "model": "virtio", "boot": true},
        {"size": 22, "model": "ahci", "pci_slot": "7"},
        {"size": 23, "model": "virtio", "pci_slot": "1:0:0", "guest_block_size": "512/4096", "notrim": true},
        {"size": 24, "model": "virtio", "pci_slot": "200:31:0"},
        {"media": "cdrom", "path": "/tiny.iso", "model": "ahci"}],
        "nics": [nic(1, false), nic(2, true), nic(3, false)]});
    let mut guest = Guest::boot_from(&agent, machine, &tiny(), &["order=d"]).await;
    guest.until("/ # ").await;
    let (mut pci, at) = devices(&agent, &mut guest).await;
    for (slot, class) in [
        ("0:0:0", "0600"), // host bridge
        ("0:3:0", "0106"), // ahci: the CD
        ("0:4:0", "0100"), // virtio: the boot disk, though it is the second
        ("0:4:1", "0108"), // nvme
        ("0:6:0", "0200"), // the primary interface
        ("0:6:1", "0200"),
        ("0:6:2", "0200"),
        ("0:7:0", "0106"),
        ("0:30:0", "0300"), // screen
        ("0:30:1", "0c03"), // xHCI with the tablet
        ("0:31:0", "0601"), // LPC
        ("1:0:0", "0100"),
        ("200:31:0", "0100"),
    ] {
        let found = pci.remove(&linux(slot)).unwrap_or_else(|| panic!("nothing at {slot}: {pci:?}"));
        assert!(found.starts_with(class), "{slot}: {found}");
    }
    // Besides, only what makes the other buses.
    assert!(pci.values().all(|what| what.starts_with("0604") || what.starts_with("0600")), "{pci:?}");
    let is = |slot: &str, wanted: &str| {
        let found = &at[&linux(slot)];
        assert!(found.contains(wanted), "{slot}: {found}");
    };
    is("0:4:0", "disk1 512/512 discard=");
    is("0:4:1", "disk0 ");
    is("0:4:1", "nvme0");
    is("1:0:0", "disk3 512/4096 discard=0");
    is("200:31:0", "disk4 ");
    assert!(!at[&linux("200:31:0")].contains("discard=0"), "{at:?}");
    is("0:6:0", "02:00:00:00:00:02");
    is("0:6:1", "02:00:00:00:00:01");
    is("0:6:2", "02:00:00:00:00:03");
    let (vm, _) = agent.vmadm_ok(&["get", &guest.uuid]);
    let vm: Value = serde_json::from_str(&vm).unwrap();
    assert!(vm["hypervisor"].as_str().unwrap().starts_with("QEMU "), "{vm}");
    // `info` knows the drives of each model by their names.
    let (info, _) = agent.vmadm_ok(&["info", &guest.uuid, "block"]);
    let info: Value = serde_json::from_str(&info).unwrap();
    let names: Vec<&str> =
        info["block"].as_array().unwrap().iter().map(|each| each["device"].as_str().unwrap()).collect();
    for name in ["drive0", "drive1", "drive2", "drive3", "drive4", "drive5"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    agent.vmadm_ok(&["stop", "-F", &guest.uuid]);
}

/// From an ISO onto the disk, up from the disk on each model, with an agent that is killed in between.
async fn life(firmware: &str) {
    let mut agent = Real::start().await;
    let machine = json!({"brand": "bhyve", "bootrom": firmware, "alias": "installed",
        "disks": [{"size": 1024, "boot": true, "model": "virtio"}], "nics": [nic(1, true)]});
    let iso = [guest().join("tiny-install.iso")];
    // Firmware boots from the ahci drive; the guest's kernel has no driver for it, and reads the other.
    let options = ["order=cd,once=d", "cdrom=/tiny-install.iso,ahci", "cdrom=/tiny-install.iso,virtio"];
    let mut guest = Guest::boot_from(&agent, machine, &iso, &options).await;
    let text = guest.until("GUEST: ready").await;
    let at = |wanted: &str| text.find(wanted).unwrap_or_else(|| panic!("{wanted} in {text}"));
    assert!(at("boot src=iso") < at("install done /dev/vda"));
    assert!(at("install done /dev/vda") < at("boot src=disk"), "the guest's own reboot comes up from disk");
    assert!(text.contains(&format!("firmware={firmware} product=SmartDC_HVM uuid={}", guest.uuid)), "{text}");
    guest.until("/ # ").await;

    guest.run(&agent, "mdata GET sdc:alias", "MDATA: SUCCESS installed").await;
    let picture = agent.dir.path().join("screen.png");
    agent.vmadm_ok(&["screenshot", &guest.uuid, picture.to_str().unwrap()]);
    assert!(picture.metadata().unwrap().len() > 1000);

    agent.kill();
    agent.resume().await;
    guest.reconnect(&agent).await;
    guest.run(&agent, "echo still''-here", "still-here").await;
    guest.run(&agent, "mdata GET sdc:uuid", &format!("MDATA: SUCCESS {}", guest.uuid)).await;
    let stopping = agent.vmadm_ok(&["stop", &guest.uuid]);
    guest.until("GUEST: going down for poweroff").await;
    let exit = agent.clients().await.get(&guest.uuid).await.unwrap().status.unwrap().exit.unwrap();
    assert_eq!(exit.reason(), v1::ExitReason::Operator, "{stopping:?}");

    let vars = agent.dir.path().join("zones").join(&guest.uuid).join("efi-vars.fd");
    assert_eq!(vars.exists(), firmware == "uefi");
    let path = agent.dir.path().join("zones").join(&guest.uuid).join("disk0");
    for model in ["ahci", "nvme"] {
        let before = std::fs::read(&vars).ok();
        guest.update(&agent, &json!({"update_disks": [{"path": path, "model": model}]}));
        agent.vmadm_ok(&["boot", &guest.uuid]);
        assert!(guest.until("GUEST: ready").await.contains("boot src=disk"), "{model}");
        guest.until("/ # ").await;
        agent.vmadm_ok(&["stop", "-F", &guest.uuid]);
        // What the firmware wrote of the last run is what this run began with.
        let template = std::fs::read("/usr/share/OVMF/OVMF_VARS_4M.fd").unwrap_or_default();
        assert!(before.is_none_or(|before| before != template && before.len() == template.len()));
    }
    agent.vmadm_ok(&["delete", &guest.uuid]);
}

#[tokio::test]
async fn a_life_with_bios() {
    life("bios").await;
}

#[tokio::test]
async fn a_life_with_uefi() {
    life("uefi").await;
}

/// Installed under kvm, its disk file boots under bhyve.
#[tokio::test]
async fn an_installed_disk_boots_under_either_brand() {
    let agent = Real::start().await;
    let disk = json!([{"size": 256, "boot": true, "model": "virtio"}]);
    let iso = [guest().join("tiny-install.iso")];
    let mut kvm = Guest::boot_from(
        &agent,
        json!({"disks": disk}),
        &iso,
        &["order=cd,once=d", "cdrom=/tiny-install.iso,ide"],
    )
    .await;
    kvm.until("boot src=disk").await;
    kvm.until("/ # ").await;
    kvm.run(
        &agent,
        "mount -t vfat -o iocharset=ascii /dev/vda1 /mnt; echo moved >/mnt/note; umount /mnt; echo writ''ten",
        "written",
    )
    .await;
    agent.vmadm_ok(&["stop", "-F", &kvm.uuid]);
    let created = run_with(
        agent.vmadm_command().arg("create"),
        &json!({"brand": "bhyve", "autoboot": false, "disks": disk}).to_string(),
    );
    let said = String::from_utf8(created.stderr).unwrap();
    let uuid = said.trim().rsplit(' ').next().unwrap().to_owned();
    let file = |uuid: &str| agent.dir.path().join("zones").join(uuid).join("disk0");
    // As an operator copies it.
    let copied = std::process::Command::new("cp")
        .args(["--sparse=always"])
        .arg(file(&kvm.uuid))
        .arg(file(&uuid))
        .status();
    assert!(copied.unwrap().success());
    agent.vmadm_ok(&["boot", &uuid]);
    let mut bhyve = kvm;
    bhyve.become_another(&uuid);
    assert!(bhyve.until("GUEST: ready").await.contains("boot src=disk"));
    bhyve.until("/ # ").await;
    bhyve.run(&agent, "mount -t vfat -o iocharset=ascii /dev/vda1 /mnt; cat /mnt/note", "moved").await;
    agent.vmadm_ok(&["stop", "-F", &uuid]);
}

#[tokio::test]
async fn a_guest_without_a_screen_has_its_seed_and_its_zone() {
    let agent = Real::start_with(&[r#"qemu.firmware_dirs=["/usr/share/OVMF"]"#]).await;
    let machine = json!({"brand": "bhyve", "bootrom": "/usr/share/OVMF/OVMF_CODE_4M.fd", "vnc_port": -1, "vnc_password": "secret",
        "internal_metadata": {"cloudinit_datasource": "nocloud"},
        "customer_metadata": {"cloud-init:user-data": "#cloud-config\n# from outside\n"},
        "disks": [{"size": 20, "model": "virtio"}]});
    let mut guest = Guest::boot_from(&agent, machine, &tiny(), &["order=d", "cdrom=/tiny.iso,ahci"]).await;
    let text = guest.until("/ # ").await;
    assert!(text.contains("firmware=uefi"), "{text}");
    let (pci, at) = devices(&agent, &mut guest).await;
    assert!(!pci.contains_key(&linux("0:30:0")), "{pci:?}");
    assert!(at[&linux("0:5:0")].contains("cidata"), "{at:?}");
    let seed = at[&linux("0:5:0")].split(' ').next().unwrap();
    let mount = format!("mount -t vfat -o ro,iocharset=ascii /dev/{seed} /mnt && cat /mnt/user-data");
    guest.run(&agent, &mount, "# from outside").await;
    for wanted in [&["screenshot", &guest.uuid, "/dev/null"][..], &["vnc", &guest.uuid]] {
        let said = String::from_utf8(agent.vmadm(wanted).stderr).unwrap();
        assert!(said.contains("no screen"), "{said}");
    }
    if !needs_root("a zone can't be entered") {
        let output = run_with(agent.zoneward().args(["probe", "--vm", &guest.uuid]), "");
        let table = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
        assert!(table.contains(&format!("{} acts, 0 not", ACTS.len() - 2)), "{table}");
    }
    agent.vmadm_ok(&["stop", "-F", &guest.uuid]);
}
