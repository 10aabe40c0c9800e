//! What interfaces are plugged into, and that nothing is left of it.

use serde_json::{Value, json};

use super::support::{
    net::{Guest, Net},
    real::{Real, ok, run_with},
};

fn nic(tag: &str, number: u8) -> Value {
    json!({"nic_tag": tag, "model": "virtio", "mac": format!("02:00:00:00:00:0{number}"),
        "ips": [format!("10.0.0.{number}/24")]})
}

fn take(number: u8) -> String {
    format!("ip addr add 10.0.0.{number}/24 dev eth0; ip link set eth0 up; echo tak''en")
}

/// A bridge of the host's, the agent's own with a way out, and an interface that is shared: who is reached by each.
#[tokio::test]
async fn each_kind_leads_where_it_says() {
    let Some(net) = Net::new().await else { return };
    let (Some(one), Some(other)) = tokio::join!(Net::new(), Net::new()) else { return };
    // Cables to two other hosts, and a bridge that the host itself is on.
    for (far, near, there, ip) in
        [(&one, "up0", "far0", "10.0.0.21/24"), (&other, "up1", "far1", "10.0.0.22/24")]
    {
        net.ok(&["ip", "link", "add", near, "type", "veth", "peer", "name", there, "netns", &far.pid()]);
        net.ok(&["ip", "link", "set", near, "up"]);
        far.ok(&["ip", "addr", "add", ip, "dev", there]);
        far.ok(&["ip", "link", "set", there, "up"]);
    }
    net.ok(&["ip", "link", "add", "br0", "type", "bridge"]);
    net.ok(&["ip", "addr", "add", "10.0.0.20/24", "dev", "br0"]);
    net.ok(&["ip", "link", "set", "br0", "up"]);
    let mut agent = net
        .agent(&[
            "network.tags.host.kind=bridge",
            "network.tags.host.link=br0",
            "network.tags.wan.kind=uplink",
            "network.tags.wan.link=up0",
            "network.tags.shared.kind=macvtap",
            "network.tags.shared.link=up1",
            "network.tags.gone.kind=bridge",
            "network.tags.gone.link=br1",
        ])
        .await;
    agent.tolerate(&["interfaces on it lead nowhere"]);
    let (listed, _) = agent.vmadm_ok(&["nic-tags"]);
    for line in [
        "gone                  bridge     br1              -                1500   the bridge br1 is not there",
        "host                  bridge     br0              -                1500   -",
        "lan                   etherstub  zw-lan           -                1500   -",
        "wan                   uplink     zw-wan           up0              1500   -",
    ] {
        assert!(listed.lines().any(|other| other == line), "{line} in {listed}");
    }
    let on = async |tag: &str, number: u8, reached: &[&str], not_reached: &[&str]| {
        let mut guest = Guest::boot(&agent, json!({"nics": [nic(tag, number)]})).await;
        guest.run(&agent, &take(number), "taken\r").await;
        for (ips, said) in [(reached, " 1 packets received"), (not_reached, " 0 packets received")] {
            for ip in ips {
                guest.run(&agent, &format!("ping -c 1 -W 10 {ip}"), said).await;
            }
        }
        guest
    };
    let wan = on("wan", 5, &["10.0.0.21"], &["10.0.0.20"]).await;
    agent.vmadm_ok(&["delete", &wan.uuid]);
    let shared = on("shared", 5, &["10.0.0.22"], &["10.0.0.20"]).await;
    // A macvtap does not go with its holder.
    assert_eq!(net.links().iter().filter(|name| name.starts_with("zw")).count(), 1, "{:?}", net.links());
    agent.vmadm_ok(&["delete", &shared.uuid]);
    let host = on("host", 5, &["10.0.0.20"], &["10.0.0.21"]).await;
    // An etherstub is for guests alone, whatever the host listens on.
    let mut stub = on("lan", 6, &[], &["10.0.0.20"]).await;
    stub.run(&agent, "arping -c 1 -w 2 -I eth0 10.0.0.20", "Received 0 response").await;
    agent.vmadm_ok(&["delete", &stub.uuid]);
    // The host's bridge goes away under a guest: it is alone, and its VM can't be started again.
    let mut host = host;
    net.ok(&["ip", "link", "del", "br0"]);
    host.run(&agent, "ping -c 1 -W 1 10.0.0.20; echo alo''ne", "alone\r").await;
    let said = String::from_utf8_lossy(&agent.vmadm(&["reboot", &host.uuid]).stderr).into_owned();
    assert!(said.contains("Cannot reboot vm: nic tag \"host\": the bridge br0 is not there"), "{said}");
    super::support::eventually("it is said", || {
        let said = agent.log().matches("interfaces on it lead nowhere").count();
        // One was never there, this one is gone.
        async move { (said == 2).then_some(()) }
    })
    .await;
    // It comes back, as when a host's network is restarted: so does the guest's, with what it may send.
    let bridge = |net: &Net| {
        net.ok(&["ip", "link", "add", "br0", "type", "bridge"]);
        net.ok(&["ip", "addr", "add", "10.0.0.20/24", "dev", "br0"]);
        net.ok(&["ip", "link", "set", "br0", "up"]);
    };
    bridge(&net);
    let ping = "until ping -c 1 -W 1 10.0.0.20 >/dev/null; do :; done; echo reach''ed";
    host.run(&agent, ping, "reached\r").await;
    let forge = "ip addr add 10.0.0.66/24 dev eth0; ping -c 1 -W 1 -I 10.0.0.66 10.0.0.20";
    host.run(&agent, forge, " 0 packets received").await;
    // While no agent runs, too; and the cable that an uplink is made of.
    let mut wan = Guest::boot(&agent, json!({"nics": [nic("shared", 8), nic("wan", 7)]})).await;
    wan.run(&agent, &take(7).replace("eth0", "eth1"), "taken\r").await;
    // What can't come back keeps nothing else from it.
    net.ok(&["ip", "link", "del", &net.link_of_kind("macvtap")]);
    agent.kill();
    net.ok(&["ip", "link", "del", "br0"]);
    bridge(&net);
    net.ok(&["ip", "link", "set", "up0", "nomaster"]);
    agent.resume().await;
    for guest in [&mut host, &mut wan] {
        guest.reconnect(&agent).await;
    }
    host.run(&agent, ping, "reached\r").await;
    wan.run(&agent, &ping.replace("0.20", "0.21"), "reached\r").await;
    net.ok(&["ip", "link", "del", "br0"]);
    agent.vmadm_ok(&["delete", &wan.uuid]);
    agent.vmadm_ok(&["stop", &host.uuid, "-F"]);
    let said = String::from_utf8_lossy(&agent.vmadm(&["start", &host.uuid]).stderr).into_owned();
    assert!(said.contains("nic tag \"host\": the bridge br0 is not there"), "{said}");
    agent.terminate();
    assert_eq!(net.links(), ["up0", "up1"].map(str::to_owned), "and the cables are the host's");
    assert_eq!(net.rules(), "");
}

/// What an uplink would take from the host is refused, and so is another agent's bridge.
#[tokio::test]
async fn what_is_somebody_elses_is_left_alone() {
    let Some(net) = Net::new().await else { return };
    net.ok(&["ip", "link", "add", "up0", "type", "veth", "peer", "name", "far0"]);
    net.ok(&["ip", "addr", "add", "10.9.0.1/24", "dev", "up0"]);
    let agent = net.agent(&["network.tags.wan.kind=uplink", "network.tags.wan.link=up0"]).await;
    let other = net.agent(&[]).await;
    let create = |agent: &Real, tag: &str, number: u8| {
        let machine = json!({"brand": "kvm", "autoboot": false, "nics": [nic(tag, number)]});
        let (_, said) = ok(&["create"], run_with(agent.vmadm_command().arg("create"), &machine.to_string()));
        said.trim().rsplit(' ').next().unwrap().to_owned()
    };
    let refusal = |agent: &Real, uuid: &str| {
        let output = agent.vmadm(&["start", uuid]);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refusal(&agent, &create(&agent, "wan", 5));
    assert!(said.contains("up0 has an address of the host, which would be lost"), "{said}");
    assert_eq!(net.links(), ["far0", "up0"].map(str::to_owned), "nothing was changed");
    let (first, second) = (create(&agent, "lan", 6), create(&other, "lan", 6));
    agent.vmadm_ok(&["start", &first]);
    let said = refusal(&other, &second);
    assert!(said.contains("zw-lan is not this agent's bridge; give network.prefix another value"), "{said}");
    agent.vmadm_ok(&["stop", &first, "-F"]);
    other.vmadm_ok(&["start", &second]);
    let missing = net.agent(&["network.nft=/nonexistent/nft", "network.prefix=n"]).await;
    let third = create(&missing, "lan", 5);
    let said = refusal(&missing, &third);
    assert!(said.contains("install the package nftables"), "{said}");
    assert!(!net.links().iter().any(|name| name.starts_with("n-")), "{:?}", net.links());
}

/// A change that could not take effect is not made.
#[tokio::test]
async fn an_update_without_its_rules_is_refused() {
    let Some(net) = Net::new().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let (nft, broken) = (dir.path().join("nft"), dir.path().join("broken"));
    let script = format!(
        "#!/bin/sh\n[ -e {} ] && echo it is broken >&2 && exit 1\nexec nft \"$@\"\n",
        broken.display()
    );
    std::fs::write(&nft, script).unwrap();
    std::fs::set_permissions(&nft, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let agent = net.agent(&[&format!("network.nft={}", nft.display())]).await;
    agent.tolerate(&["the links of a failed boot could not be removed"]);
    let machine = json!({"brand": "kvm", "autoboot": false, "nics": [nic("lan", 5)]});
    let (_, said) = ok(&["create"], run_with(agent.vmadm_command().arg("create"), &machine.to_string()));
    let uuid = said.trim().rsplit(' ').next().unwrap().to_owned();
    std::fs::write(&broken, "").unwrap();
    let said = String::from_utf8_lossy(&agent.vmadm(&["start", &uuid]).stderr).into_owned();
    assert!(said.contains("step links") && said.contains("it is broken"), "{said}");
    assert_eq!(agent.vmadm_ok(&["list", "-H", "-o", "state"]).0.trim(), "stopped");
    std::fs::remove_file(&broken).unwrap();
    agent.vmadm_ok(&["start", &uuid]);
    let change = json!({"firewall_enabled": true}).to_string();
    std::fs::write(&broken, "").unwrap();
    let refused = agent.vmadm_with(&["update", &uuid], &change);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("it is broken"), "{said}");
    assert!(!net.rules().contains("echo-request"), "{}", net.rules());
    assert_eq!(agent.vmadm_ok(&["list", "-H", "-o", "firewall_enabled"]).0.trim(), "false");
    std::fs::remove_file(&broken).unwrap();
    ok(&["update"], agent.vmadm_with(&["update", &uuid], &change));
    assert!(net.rules().contains("echo-request"), "{}", net.rules());
    agent.vmadm_ok(&["delete", &uuid]);
    assert_eq!((net.links(), net.rules()), (vec![], String::new()));
}

/// Many VMs on one network, started and stopped again and again in every way, with agents killed in between.
#[tokio::test]
async fn nothing_is_left() {
    let Some(net) = Net::new().await else { return };
    let mut agent = net.agent(&[]).await;
    // One that an agent was killed in the middle of stopping may be on its way out when the next looks.
    agent.tolerate(&["lost: the hypervisor is left alone", "requests for an address are not answered"]);
    // `VMS=20 LIVES=50 cargo test` for a long look.
    let number = |name: &str, usual: u8| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let (vms, lives) = (number("VMS", 4), number("LIVES", 4));
    let create = |number: u8| {
        let machine = json!({"brand": "kvm", "autoboot": false, "ram": 64, "firewall_enabled": number > 2,
            "nics": [{"nic_tag": "lan", "model": "virtio", "ips": [format!("10.0.0.{number}/24")]},
                {"nic_tag": "lan", "vlan_id": 7, "model": "e1000", "ips": ["dhcp"]}]});
        let (_, said) = ok(&["create"], run_with(agent.vmadm_command().arg("create"), &machine.to_string()));
        said.trim().rsplit(' ').next().unwrap().to_owned()
    };
    let uuids: Vec<String> = (1..=vms).map(create).collect();
    for life in 0..lives {
        let mut clients = agent.clients().await;
        let mut starts = tokio::task::JoinSet::new();
        for uuid in &uuids {
            let (mut clients, uuid) = (clients.clone(), uuid.clone());
            starts.spawn(async move { clients.start(&uuid).await.map(drop) });
        }
        for started in starts.join_all().await {
            started.unwrap();
        }
        let links = net.links();
        assert_eq!(links.len(), 2 * usize::from(vms) + 2, "{links:?}");
        let mut pids = Vec::new();
        for uuid in &uuids {
            let pid = clients.get(uuid).await.unwrap().status.unwrap().pid.unwrap();
            pids.push(rustix::process::Pid::from_raw(pid).unwrap());
        }
        if life % 2 == 0 {
            // Some end while no agent runs.
            agent.kill();
            for pid in pids.iter().step_by(2) {
                rustix::process::kill_process(*pid, rustix::process::Signal::KILL).unwrap();
            }
            agent.resume().await;
        }
        let mut clients = agent.clients().await;
        for uuid in &uuids {
            let _ = clients.stop(uuid, true).await;
        }
        let left = super::support::eventually("nothing is left", || {
            let left = (net.links(), net.rules());
            async move { (left.0.is_empty() && left.1.is_empty()).then_some(left) }
        });
        left.await;
    }
    // Of no VM: reported, and removed when somebody says so.
    let uuid = "b8ab5fc1-8576-45ef-bb51-9826b52a4651";
    let rules = format!("table netdev zw {{\n chain vm-{uuid}-020000000001-in {{ }}\n}}\n");
    ok(&["nft"], run_with(&mut net.command(&["nft", "-f", "-"]), &rules));
    let (leaks, said) = agent.vmadm_ok(&["leaks"]);
    assert_eq!(leaks.trim_end(), format!("link:{uuid}"));
    assert!(said.contains("no VM has this UUID"), "{said}");
    agent.vmadm_ok(&["reclaim", "--all"]);
    assert_eq!(net.rules(), "");
    assert_eq!(agent.vmadm_ok(&["leaks"]).0, "");
}
