//! A Debian that nobody prepared: its own cloud-init, and systemd's DHCP clients. Built by a script with debootstrap,
//! which takes minutes, so it is asked for: `make test-long`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use serde_json::{Value, json};

use super::support::{
    net::{Guest, Net},
    real::{Real, target},
};

/// The folder of a Debian with these packages.
pub(crate) fn build(name: &str, packages: &str) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = BUILDING.lock();
    let out = target().join(name);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/debian.sh");
    assert!(Command::new(script).arg(&out).arg(packages).status().unwrap().success());
    out
}

async fn boot(agent: &Real, out: &Path, more: Value) -> Guest {
    let mut machine = json!({"ram": 768, "hostname": "deb1", "resolvers": ["10.0.0.2", "fd00::2"],
        "disks": [{"nocreate": true, "path": "/debian.img", "model": "virtio"}],
        "nics": [{"nic_tag": "lan", "model": "virtio", "interface": "net0", "mac": "02:00:00:00:00:05",
            "ips": ["10.0.0.5/24", "fd00::5/64"], "gateways": ["10.0.0.1"], "primary": true}]});
    machine.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let files = ["debian.img", "debian.iso"].map(|name| out.join(name));
    let model = if machine["brand"] == "bhyve" { "ahci" } else { "ide" };
    Guest::boot_from(agent, machine, &files, &["order=d", &format!("cdrom=/debian.iso,{model}")]).await
}

#[tokio::test]
#[ignore = "builds a Debian guest and boots it twice; make test-long"]
async fn cloud_init_and_networkd_configure_themselves() {
    configures_itself("kvm").await;
}

#[tokio::test]
#[ignore = "builds a Debian guest and boots it twice; make test-long"]
async fn they_do_so_under_bhyve() {
    configures_itself("bhyve").await;
}

async fn configures_itself(brand: &str) {
    let out = build("debian", "iputils-ping,cloud-init,python3-cffi-backend");
    let Some(net) = Net::new().await else { return };
    let agent = net.agent(&[]).await;
    let user_data =
        "#cloud-config\nruncmd:\n  - echo \"CONFIGURED $(hostname) by $(cloud-id)\" >/dev/ttyS0\n";
    let metadata = |more: Value| {
        let mut metadata =
            json!({"root_authorized_keys": "ssh-ed25519 AAAAC3Nza me", "cloud-init:user-data": user_data});
        metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        metadata
    };

    // Over the second serial port.
    let mut guest =
        boot(&agent, &out, json!({"brand": brand, "customer_metadata": metadata(json!({}))})).await;
    guest.until("CONFIGURED deb1 by joyent").await;
    guest.run(&agent, "\nip -o addr show | cat; echo addr''esses", "addresses").await;
    guest.run(&agent, "ip -4 -o addr show scope global | awk '{print $4}'", "10.0.0.5/24").await;
    guest.run(&agent, "cat /home/debian/.ssh/authorized_keys", "ssh-ed25519 AAAAC3Nza me").await;
    let phases = guest.phases(&agent).await;
    assert!(phases.iter().any(|phase| phase.phase().as_str_name() == "PHASE_GUEST_METADATA"), "{phases:?}");
    agent.vmadm_ok(&["delete", &guest.uuid]);

    // From its seed disk, which says that addresses come by DHCP, of both kinds.
    let dhcp = json!({"version": 2, "ethernets": {"net0": {
        "match": {"macaddress": "02:00:00:00:00:05"}, "dhcp4": true, "dhcp6": true}}});
    let more = json!({"brand": brand, "internal_metadata": {"cloudinit_datasource": "nocloud"},
        "customer_metadata": metadata(json!({"cloud-init:network-config": dhcp.to_string()}))});
    let mut guest = boot(&agent, &out, more).await;
    guest.until("CONFIGURED deb1 by nocloud").await;
    guest.run(&agent, "\nip -4 -o addr show scope global | awk '{print $4}'", "10.0.0.5/24").await;
    let wait = "until ip -6 addr show scope global | grep -q fd00::5; do sleep 1; done; ip -6 -o addr show scope global | awk '{print \"SIX\", $4}'";
    guest.run(&agent, wait, "SIX fd00::5/128").await;
    guest.run(&agent, "ip route | grep default", "via 10.0.0.1").await;
    guest.run(&agent, "ip -6 route | grep 'fd00::/64'", "fd00::/64 dev").await;
    let mut addresses: Vec<String> =
        guest.phases(&agent).await.into_iter().map(|phase| phase.address).collect();
    addresses.retain(|address| !address.is_empty());
    addresses.sort();
    assert_eq!(addresses, ["10.0.0.5", "fd00::5"]);
}
