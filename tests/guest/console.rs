//! What a real hypervisor does to its console, and what it says about itself.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    support::{
        machine,
        real::{Real, target},
    },
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

/// What a viewer says until it is shown a screen.
async fn greet(viewer: &mut tokio::net::TcpStream) {
    let mut banner = [0; 12];
    viewer.read_exact(&mut banner).await.unwrap();
    assert_eq!(&banner, b"RFB 003.008\n");
    viewer.write_all(&banner).await.unwrap();
    let mut types = [0; 2];
    viewer.read_exact(&mut types).await.unwrap();
    assert_eq!(types, [1, 1], "one type: nothing is asked for");
    viewer.write_all(&[1]).await.unwrap();
    let mut result = [0; 4];
    viewer.read_exact(&mut result).await.unwrap();
    viewer.write_all(&[1]).await.unwrap();
    // ServerInit: size, pixel format, name.
    let mut init = [0; 24];
    viewer.read_exact(&mut init).await.unwrap();
    assert!(u16::from_be_bytes([init[0], init[1]]) >= 640, "{init:?}");
    let name = u32::from_be_bytes([init[20], init[21], init[22], init[23]]);
    viewer.read_exact(&mut vec![0; usize::try_from(name).unwrap()]).await.unwrap();
}

/// A screen over the API alone: the VM has no port, and a viewer's port is the operator's own.
#[tokio::test]
async fn a_viewer_sees_the_screen_without_a_port_of_the_host() {
    use std::io::{BufRead as _, BufReader};

    let agent = Real::start().await;
    let (mut clients, uuid, _) =
        super::survival::booted_as(&agent, zoneward::proto::v1::VmSpec { vnc_port: Some(-1), ..machine() })
            .await;
    let mut tunnel =
        agent.vmadm_command().args(["vnc", &uuid]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut address = String::new();
    BufReader::new(tunnel.stdout.take().unwrap()).read_line(&mut address).unwrap();
    // One that is well-behaved stays while others are not.
    let mut first = tokio::net::TcpStream::connect(address.trim()).await.unwrap();
    greet(&mut first).await;
    for garbage in [&[0xff_u8; 100_000][..], b"RFB 999.999\n", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut bad = tokio::net::TcpStream::connect(address.trim()).await.unwrap();
        let _ = bad.write_all(garbage).await;
        // It is cut off, with or without an answer.
        let _ = bad.read_to_end(&mut Vec::new()).await;
    }
    // As much garbage behind a proper greeting.
    let mut bad = tokio::net::TcpStream::connect(address.trim()).await.unwrap();
    greet(&mut bad).await;
    let _ = bad.write_all(&[0xff; 100_000]).await;
    let _ = bad.read_to_end(&mut Vec::new()).await;
    // FramebufferUpdateRequest of the whole of a small corner; the answer is a FramebufferUpdate.
    first.write_all(&[3, 0, 0, 0, 0, 0, 0, 16, 0, 16]).await.unwrap();
    let mut answer = [9; 4];
    first.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[0], 0, "{answer:?}");
    assert_eq!(clients.state(&uuid).await, zoneward::proto::v1::VmState::Running);
    tunnel.kill().unwrap();
    tunnel.wait().unwrap();
}

/// The operator's console goes on over a restart of the agent, at the byte where it broke.
#[tokio::test]
async fn the_console_connects_again() {
    use std::io::Write as _;
    let mut agent = Real::start().await;
    let (mut clients, uuid, offset) = booted(&agent).await;
    let since = offset.to_string();
    let mut console = agent
        .vmadm_command()
        .args(["console", "--since", &since, &uuid])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = console.stdin.take().unwrap();
    keys.write_all(
        b"n=0; while [ $n -lt 60 ]; do echo tick-$n; n=$((n+1)); sleep 0.1; done; echo over-$((1+1))\n",
    )
    .unwrap();
    clients.console_until(&uuid, offset, "tick-3\r").await;
    agent.kill();
    agent.resume().await;
    let mut clients = agent.clients().await;
    clients.console_until(&uuid, offset, "over-2").await;
    drop(keys);
    let output = console.wait_with_output().unwrap();
    let (text, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let ticks: Vec<u32> =
        text.lines().filter_map(|line| line.trim().strip_prefix("tick-")?.parse().ok()).collect();
    assert_eq!(ticks, (0..60).collect::<Vec<_>>(), "{told}");
    assert!(told.contains("The connection is lost") && told.contains("no output was missed"), "{told}");
    let (log, _) = agent.vmadm_ok(&["boot-log", &uuid]);
    for line in ["Boot of ", "ZONE_READY", "HYPERVISOR_SPAWNED", "RUNNING", "FIRST_CONSOLE_BYTE", "█"] {
        assert!(log.contains(line), "{log}");
    }
    print!("{log}");
}
