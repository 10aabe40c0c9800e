//! What a real hypervisor does to its console, and what it says about itself.

use super::{
    support::real::{Real, target},
    survival::booted,
};

/// A guest that floods its console costs bounded room, and the newest bytes are there.
#[tokio::test]
async fn a_flood_is_bounded() {
    use std::os::unix::fs::MetadataExt as _;
    let agent = Real::start_with(&["console.keep_kib=64"]).await;
    let (mut clients, uuid, offset) = booted(&agent).await;
    agent.vmadm_with(
        &["console", &uuid],
        "dd if=/dev/zero bs=1024 count=1500 2>/dev/null | tr '\\0' x; echo; echo flood-over\n",
    );
    // The follower may meet a gap: it is told, so offsets still add up.
    let (mut next, mut text) = (offset, Vec::new());
    let request = zoneward::proto::v1::ReadLogRequest { uuid: uuid.clone(), offset, follow: true };
    let mut stream = clients.consoles.read_log(request).await.unwrap().into_inner();
    while !String::from_utf8_lossy(&text).contains("\nflood-over") {
        match stream.message().await.unwrap().unwrap().item.unwrap() {
            zoneward::proto::v1::read_log_response::Item::Data(data) => {
                assert_eq!(data.offset, next);
                next += i64::try_from(data.data.len()).unwrap();
                text = [&text[text.len().saturating_sub(100)..], &data.data[..]].concat();
            }
            zoneward::proto::v1::read_log_response::Item::Gap(gap) => next = gap.to,
        }
    }
    let log = agent.dir.path().join("zones").join(&uuid).join("console.log").metadata().unwrap();
    assert!(
        log.len() > 1_500_000 && log.blocks() * 512 < 600 << 10,
        "{} bytes in {} blocks",
        log.len(),
        log.blocks()
    );
}

/// vmadm's info types, from a real QEMU, and its picture.
#[tokio::test]
async fn info_and_screen() {
    let agent = Real::start().await;
    let (_, uuid, _) = booted(&agent).await;
    let info: serde_json::Value = serde_json::from_str(&agent.vmadm_ok(&["info", &uuid]).0).unwrap();
    assert_eq!(info["status"]["running"], true);
    assert!(info["version"]["qemu"]["major"].as_i64().unwrap() >= 7);
    assert_eq!(info["kvm"]["enabled"], false);
    assert_eq!(info["cpus"][0]["CPU"], 0);
    let cd = info["block"].as_array().unwrap().iter().find(|b| b["type"] == "cdrom").unwrap();
    assert_eq!((&cd["device"], &cd["inserted"]["ro"]), (&"drive0".into(), &true.into()));
    assert!(info["blockstats"][0]["stats"]["rd_bytes"].as_i64().unwrap() > 1 << 20);
    assert!(info["pci"][0]["devices"].as_array().unwrap().len() > 3);
    assert!(info["chardev"].as_array().unwrap().iter().any(|c| c["label"] == "console"));

    let picture = target().join("screen-of-a-guest.png");
    agent.vmadm_ok(&["screenshot", &uuid, picture.to_str().unwrap()]);
    let png = std::fs::read(&picture).unwrap();
    // IHDR: width and height, big endian.
    let number = |at: usize| png[at..at + 4].iter().fold(0_u32, |n, b| n << 8 | u32::from(*b));
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"));
    assert_eq!((number(16), number(20)), (720, 400), "text mode");
    assert!(png.len() > 2000, "not a blank screen: {} bytes", png.len());
}
