//! The units for systemd, in a Debian host of their own that is a guest of ours: its agent has real KVM, as far as TCG
//! gives it that, and control groups of version 2 alone. It takes minutes, so it is asked for: `make test-long`.

use std::{path::Path, process::Command};

use serde_json::json;

use super::{
    debian::build,
    support::{net::Guest, real::Real},
};

/// A disk with the programs, the units and the script.
fn kit(agent: &Real) -> std::path::PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = agent.dir.path().join("kit");
    std::fs::create_dir(&folder).unwrap();
    for program in [env!("CARGO_BIN_EXE_zoneward"), env!("CARGO_BIN_EXE_vmadm")] {
        assert!(
            Command::new("strip")
                .arg("-o")
                .arg(folder.join(name(program)))
                .arg(program)
                .status()
                .unwrap()
                .success()
        );
    }
    let units = ["dist/zoneward.service", "dist/zoneward-guests.service", "dist/zoneward-zones.service"];
    for file in units.iter().chain(&["tests/guest/systemd.sh"]) {
        std::fs::copy(sources.join(file), folder.join(name(file))).unwrap();
    }
    let disk = agent.dir.path().join("kit.img");
    let made =
        Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&folder).arg(&disk).arg("200M").status();
    assert!(made.unwrap().success());
    disk
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

#[tokio::test]
#[ignore = "builds a Debian host and boots it twice; make test-long"]
async fn guests_do_not_notice_what_systemd_does_to_their_agent() {
    let agent = Real::start().await;
    let out = build("debian-host", "qemu-system-x86,seabios,nftables");
    let files = [out.join("debian.img"), out.join("debian.iso"), kit(&agent)];
    let disk = |path: &str| json!({"nocreate": true, "path": path, "model": "virtio"});
    let machine = json!({"ram": 1536, "vcpus": 2, "disks": [disk("/debian.img"), disk("/kit.img")]});
    let mut host = Guest::boot_from(&agent, machine, &files, &["order=d", "cdrom=/debian.iso,ide"]).await;
    host.until("# ").await;
    let steps = ["start", "guest", "restart", "kill", "reexec", "watchdog", "group"];
    sees(&mut host, &agent, "installed", &steps).await;
    host.type_line(&agent, "systemctl reboot");
    host.until("automatic login").await;
    host.until("# ").await;
    sees(&mut host, &agent, "restarted", &["autoboot", "drain"]).await;
}

/// Lets the script do a part of its steps.
async fn sees(host: &mut Guest, agent: &Real, part: &str, steps: &[&str]) {
    host.type_line(agent, &format!("mount /dev/vdb /mnt && /mnt/systemd.sh {part}"));
    for step in steps {
        let said = host.until("HOST: ").await;
        let which = host.until("\n").await;
        assert_eq!(which.trim(), format!("{step} ok"), "{said}{which}");
    }
}
