//! A real guest asks its host over its second serial port.

use zoneward::proto::v1;

use super::{
    support::{machine, net::Guest, real::Real},
    survival::booted_as,
};

#[tokio::test]
async fn a_guest_asks_and_writes_and_the_agent_is_killed_in_between() {
    let mut agent = Real::start().await;
    let spec = v1::VmSpec { alias: Some("asker".into()), ..machine() };
    let (_, uuid, mut offset) = booted_as(&agent, spec).await;
    let mut ask = async |agent: &Real, command: &str, answer: &str| {
        agent.vmadm_with(&["console", &uuid], &format!("mdata {command}\n"));
        let mut clients = agent.clients().await;
        (_, offset) = clients.console_until(&uuid, offset, &format!("MDATA: {answer}\r")).await;
    };
    ask(&agent, "GET sdc:uuid", &format!("SUCCESS {uuid}")).await;
    ask(&agent, "GET sdc:alias", "SUCCESS asker").await;
    ask(&agent, "GET nothing", "NOTFOUND ").await;
    // A pair of words, each in base64: colour=blue.
    ask(&agent, "PUT \"Y29sb3Vy Ymx1ZQ==\"", "SUCCESS OK").await;
    let (text, _) = agent.vmadm_ok(&["get", &uuid]);
    let vm: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(vm["customer_metadata"]["colour"], "blue");
    let (text, _) = agent.vmadm_ok(&["boot-log", &uuid]);
    assert!(text.contains("GUEST_METADATA"), "{text}");

    agent.kill();
    agent.resume().await;
    ask(&agent, "GET colour", "SUCCESS blue").await;
    ask(&agent, "DELETE colour", "SUCCESS OK").await;
    ask(&agent, "GET colour", "NOTFOUND ").await;
    // The operator's changes are there at once.
    agent.vmadm_with(&["update", &uuid], r#"{"set_customer_metadata": {"motd": "hello"}}"#);
    ask(&agent, "GET motd", "SUCCESS hello").await;
    let mut clients = agent.clients().await;
    let by_guest =
        clients.journal().await.iter().filter(|event| event.actor == format!("guest:{uuid}")).count();
    // The two changes, and nothing of what was only read.
    assert_eq!(by_guest, 2);
    clients.stop(&uuid, true).await.unwrap();
}

#[tokio::test]
async fn a_seed_disk_is_read_only_and_not_booted_from() {
    let agent = Real::start().await;
    let machine = serde_json::json!({
        "internal_metadata": {"cloudinit_datasource": "nocloud"},
        "customer_metadata": {"cloud-init:user-data": "#cloud-config\n# from outside\n"},
    });
    let mut guest = Guest::boot(&agent, machine).await;
    guest
        .run(
            &agent,
            "mount -t vfat -o ro,iocharset=ascii /dev/vda /mnt && cat /mnt/user-data",
            "# from outside",
        )
        .await;
    guest
        .run(
            &agent,
            "grep -c instance-id /mnt/meta-data; cat /sys/block/vda/ro /sys/block/vda/serial",
            "1\r\n1\r\ncidata",
        )
        .await;
}
