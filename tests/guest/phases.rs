//! What a guest reaches by itself is told once for its boot, whichever agent runs then.

use serde_json::json;
use zoneward::proto::v1::{BootPhase, boot_phase::Phase};

use super::support::{
    eventually,
    net::{Guest, Net},
    real::{Real, guest},
};

#[tokio::test]
async fn phases_of_a_boot_whose_agent_was_killed_are_told_once() {
    let Some(net) = Net::new().await else { return };
    let mut agent = net.agent(&[]).await;
    let nic = json!({"nic_tag": "lan", "model": "virtio", "ip": "10.0.0.5", "netmask": "255.255.255.0"});
    let machine = json!({"nics": [nic], "customer_metadata": {"colour": "blue"}});
    let files = [guest().join("tiny.iso")];
    let mut guest = Guest::boot_from(&agent, machine, &files, &["order=d", "cdrom=/tiny.iso,ide"]).await;
    // The firmware is not even done.
    agent.kill();
    agent.resume().await;
    guest.reconnect(&agent).await;
    guest.until("/ # ").await;
    guest.run(&agent, "lease", "LEASE: 10.0.0.5").await;
    guest.run(&agent, "mdata GET colour", "SUCCESS blue").await;
    let late = [Phase::FirstConsoleByte, Phase::GuestAddress, Phase::GuestMetadata];
    let told = phases_with(&agent, &guest, &late).await;
    // They count from the same call.
    let running = told.iter().find(|phase| phase.phase() == Phase::Running).unwrap();
    for phase in told.iter().filter(|phase| late.contains(&phase.phase())) {
        assert!(phase.elapsed_us > running.elapsed_us, "{told:?}");
    }

    // Another agent hears of the same again.
    agent.kill();
    agent.resume().await;
    guest.reconnect(&agent).await;
    guest.run(&agent, "ip addr flush dev eth0; lease", "LEASE: 10.0.0.5").await;
    guest.run(&agent, "mdata GET colour", "SUCCESS blue").await;
    agent.vmadm_ok(&["stop", "-F", &guest.uuid]);
    assert_eq!(guest.phases(&agent).await, told);
}

/// What is told of its boot when all of these are.
async fn phases_with(agent: &Real, guest: &Guest, wanted: &[Phase]) -> Vec<BootPhase> {
    eventually("its phases", || async {
        let told = guest.phases(agent).await;
        wanted.iter().all(|wanted| told.iter().any(|phase| phase.phase() == *wanted)).then_some(told)
    })
    .await
}
