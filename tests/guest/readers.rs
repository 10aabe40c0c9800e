//! A long console with a fast, a slow and a stalled reader, and an agent that is killed in the middle.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use tonic::Streaming;
use zoneward::proto::v1::{self, read_log_response::Item};

use super::{
    support::{Clients, real::Real},
    survival::booted,
};

/// What the console keeps, and what the agent may hold in memory whatever its readers do.
const KEEP_KIB: u64 = 2048;
const AGENT_KIB: u64 = 96 << 10;
/// A guest that prints nothing for so long is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// How much the guest writes: `CONSOLE_MIB`, which is 1024 for the long run.
fn mebibytes() -> u64 {
    std::env::var("CONSOLE_MIB").map_or(6, |text| text.parse().expect("a number"))
}

async fn read_log(clients: &mut Clients, uuid: &str, offset: i64) -> Streaming<v1::ReadLogResponse> {
    let request = v1::ReadLogRequest { uuid: uuid.to_owned(), offset, follow: true };
    clients.consoles.read_log(request).await.unwrap().into_inner()
}

/// Takes one item; offsets add up, and what was skipped is told. False at the end.
async fn step(stream: &mut Streaming<v1::ReadLogResponse>, next: &mut i64, skipped: &mut i64) -> bool {
    let Ok(Some(message)) = stream.message().await else { return false };
    match message.item.unwrap() {
        Item::Data(data) => {
            assert_eq!(data.offset, *next, "an offset that was not told");
            *next += i64::try_from(data.data.len()).unwrap();
        }
        Item::Gap(gap) => {
            assert_eq!(gap.from, *next);
            assert!(gap.to > gap.from);
            *skipped += gap.to - gap.from;
            *next = gap.to;
        }
    }
    true
}

/// Kibibytes of the agent that are in memory.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Checks what is between the marks, byte by byte: it is what tests/guest/flood.c writes.
fn check(output: &Path, total: u64) {
    let mut reader = BufReader::new(File::open(output).unwrap());
    let mut line = Vec::new();
    while !line.starts_with(b"BEGIN-2") {
        line.clear();
        assert!(reader.read_until(b'\n', &mut line).unwrap() > 0, "no beginning");
    }
    let mut state = 88_172_645_463_325_252_u64;
    let mut piece = vec![0; 4096];
    let mut left = total;
    while left > 0 {
        let length = usize::try_from(left.min(4096)).unwrap();
        reader.read_exact(&mut piece[..length]).unwrap();
        for (at, byte) in piece[..length].iter().enumerate() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let wanted = if at % 64 == 63 { b'\n' } else { b'a' + u8::try_from(state % 26).unwrap() };
            assert_eq!(*byte, wanted, "byte {} of {total}", total - left + at as u64);
        }
        left -= length as u64;
    }
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.starts_with("\r\nEND-0"), "{rest}");
}

#[tokio::test]
async fn a_long_console_with_three_readers_and_a_killed_agent() {
    let keep = format!("console.keep_kib={KEEP_KIB}");
    let mut agent = Real::start_with(&[&keep]).await;
    let (mut clients, uuid, offset) = booted(&agent).await;
    let total = mebibytes() << 20;

    let seen = agent.dir.path().join("fast");
    let mut fast = agent
        .vmadm_command()
        .args(["console", "--read-only", "--since", &offset.to_string(), &uuid])
        .stdin(Stdio::piped())
        .stdout(File::create(&seen).unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let command = format!("echo BEGIN-$((1+1)); flood {total}; echo; echo END-$?\n");
    let mut writing = agent.vmadm_command();
    writing.args(["console", "--since", &offset.to_string(), &uuid]).stdout(Stdio::null());
    assert!(super::support::real::run_with(&mut writing, &command).status.success());

    let mut stalled = read_log(&mut clients, &uuid, offset).await;
    let mut slow = read_log(&mut clients, &uuid, offset).await;
    let (mut slow_at, mut slow_skipped) = (offset, 0);
    let (mut restarted, mut largest, mut length, mut progress) = (false, 0, 0, Instant::now());
    let start = Instant::now();
    let log = agent.dir.path().join("zones").join(&uuid).join("console.log");
    let mut tail = String::new();
    while !tail.contains("\nEND-") {
        assert!(progress.elapsed() < STUCK, "stuck at {length} of {total} bytes\n{tail}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        // A piece now and then: slower than the guest.
        if !step(&mut slow, &mut slow_at, &mut slow_skipped).await {
            slow = read_log(&mut clients, &uuid, slow_at).await;
        }
        let now = seen.metadata().unwrap().len();
        if now > length {
            (length, progress) = (now, Instant::now());
        }
        largest = largest.max(resident_kib(agent.pid()));
        assert!(log.metadata().unwrap().blocks() / 2 < KEEP_KIB + 1024, "the log is not bounded");
        if !restarted && length > total / 2 {
            agent.kill();
            agent.resume().await;
            restarted = true;
            clients = agent.clients().await;
            stalled = read_log(&mut clients, &uuid, offset).await;
        }
        tail = tail_of(&seen);
    }
    eprintln!(
        "{} MiB in {:.0?}; the agent held {largest} KiB, the log {} KiB; the slow reader skipped {slow_skipped} bytes",
        length >> 20,
        start.elapsed(),
        log.metadata().unwrap().blocks() / 2,
    );

    drop(fast.stdin.take());
    let told = fast.wait_with_output().unwrap();
    assert!(told.status.success());
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("Connected again") && !told.contains("not kept"), "{told}");
    // A gibibyte takes a while to look at; a client that answers nobody meanwhile would be taken for dead.
    let checked = tokio::task::spawn_blocking({
        let seen = seen.clone();
        move || check(&seen, total)
    });
    checked.await.unwrap();
    assert!(restarted && length >= total);
    assert!(largest < AGENT_KIB, "{largest} KiB");
    // Who comes late, or stalled, is told what is gone, and can read the rest.
    let end = offset + i64::try_from(length).unwrap();
    let (mut stalled_at, mut stalled_skipped) = (offset, 0);
    while stalled_at < end {
        assert!(step(&mut stalled, &mut stalled_at, &mut stalled_skipped).await);
    }
    while slow_at < end {
        if !step(&mut slow, &mut slow_at, &mut slow_skipped).await {
            slow = read_log(&mut clients, &uuid, slow_at).await;
        }
    }
    assert!(stalled_skipped > 0 || length < KEEP_KIB << 10, "{stalled_skipped} of {length}");
    clients.stop(&uuid, true).await.unwrap();
}

/// The last bytes of a file.
fn tail_of(path: &Path) -> String {
    use std::io::{Seek as _, SeekFrom};
    let mut file = File::open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(length.saturating_sub(200))).unwrap();
    let mut tail = String::new();
    let _ = file.read_to_string(&mut tail);
    tail
}
