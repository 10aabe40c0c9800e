//! A hypervisor in a guest's hands: a program in QEMU's place, in the real zone, with the descriptors of a real VM. What
//! it holds takes no more of the host than the VM's own sizes, tells nothing of the agent, and forges nothing.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use zoneward::proto::v1;

use super::support::{
    Clients, disk, eventually,
    ignored::needs_root,
    machine,
    real::{Real, guest},
};

/// A VM whose hypervisor is hostile.
pub(crate) struct Hostile {
    pub(crate) agent: Real,
    pub(crate) clients: Clients,
    pub(crate) uuid: String,
    offset: i64,
}

/// The disk's descriptor: behind those of metadata and control.
const DISK: i64 = 12;
const MIB: i64 = 1 << 20;

impl Hostile {
    pub(crate) async fn start(sets: &[&str], spec: v1::VmSpec) -> Self {
        let folder = guest().join("hostile");
        let platform = format!("zone.platform={}", folder.display());
        // With no namespaces a zone has the host's names.
        let binary = format!("qemu.binary={}", folder.join("bin/qemu-system-x86_64").display());
        let binary = sets.contains(&"zone.level=filters-only").then_some(binary.as_str());
        let sets: Vec<&str> = sets.iter().copied().chain([platform.as_str()]).chain(binary).collect();
        let agent = Real::start_with(&sets).await;
        let mut clients = agent.clients().await;
        let uuid = clients.create(spec).await;
        clients.start(&uuid).await.unwrap();
        let mut this = Self { agent, clients, uuid, offset: 0 };
        this.until("hostile: ready\n").await;
        this
    }

    pub(crate) async fn until(&mut self, wanted: &str) -> String {
        let (seen, offset) = self.clients.console_until(&self.uuid, self.offset, wanted).await;
        self.offset = offset;
        seen
    }

    pub(crate) fn say(&self, line: &str) {
        let (uuid, line) = (&self.uuid, format!("{line}\n"));
        super::support::real::ok(&["console"], self.agent.vmadm_with(&["console", uuid], &line));
    }

    /// Makes a system call there; 0, or the error.
    pub(crate) async fn call(&mut self, number: libc::c_long, arguments: &[&dyn std::fmt::Display]) -> i32 {
        let words: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        self.say(&format!("call {number} {}", words.join(" ")));
        self.until("= ").await;
        let answer = self.until("\n").await;
        let error = answer.split_whitespace().nth(1).unwrap_or_else(|| panic!("{answer:?}"));
        error.parse().unwrap()
    }

    fn zone(&self) -> PathBuf {
        self.agent.dir.path().join("zones").join(&self.uuid)
    }

    pub(crate) async fn resume(&mut self) {
        self.agent.resume().await;
        self.clients = self.agent.clients().await;
    }
}

/// Bytes that a file has of its disk.
fn room(path: &Path) -> u64 {
    path.metadata().map_or(0, |found| found.blocks() * 512)
}

fn ignored() -> bool {
    needs_root("a zone of another platform can't be made")
}

#[tokio::test]
async fn nothing_that_it_holds_takes_more_of_the_host_than_the_machine_has() {
    if ignored() {
        return;
    }
    let mut hostile = Hostile::start(&[], v1::VmSpec { disks: vec![disk(32)], ..machine() }).await;
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    for fd in [1, 2, DISK] {
        for mode in [keep, 0, keep | libc::FALLOC_FL_ZERO_RANGE, libc::FALLOC_FL_UNSHARE_RANGE] {
            let arguments: [&dyn std::fmt::Display; 4] = [&fd, &mode, &(32 * MIB), &3_000_000_000_i64];
            assert_ne!(hostile.call(libc::SYS_fallocate, &arguments).await, 0, "{fd} {mode}");
        }
        for size in [(16 << 20) + 1, 1_i64 << 44] {
            assert_ne!(hostile.call(libc::SYS_ftruncate, &[&fd, &size]).await, 0, "{fd} {size}");
        }
    }
    // What QEMU needs works: to give room back, and to cut a file to nothing.
    let hole = libc::FALLOC_FL_PUNCH_HOLE | keep;
    assert_eq!(hostile.call(libc::SYS_fallocate, &[&DISK, &hole, &0, &(4 * MIB)]).await, 0);
    assert_eq!(hostile.call(libc::SYS_pwrite64, &[&DISK, &"@buffer", &65536, &0]).await, 0);
    // Output and last words are no files: nothing in them can be cut, made larger or overwritten.
    for fd in [1, 2] {
        assert_eq!(hostile.call(libc::SYS_fcntl, &[&fd, &libc::F_SETFL, &libc::O_NONBLOCK]).await, 0);
        assert_eq!(hostile.call(libc::SYS_pwrite64, &[&fd, &"@buffer", &65536, &0]).await, libc::ESPIPE);
        assert_eq!(hostile.call(libc::SYS_lseek, &[&fd, &0, &0]).await, libc::ESPIPE);
        assert_eq!(hostile.call(libc::SYS_ftruncate, &[&fd, &0]).await, libc::EINVAL);
    }
    let zone = hostile.zone();
    assert!(
        room(&zone.join("disk0")) <= 32 << 20 && zone.join("disk0").metadata().unwrap().len() == 32 << 20
    );
    assert!(room(&zone.join("console.log")) <= 1 << 20);
    let history = hostile.clients.console_log(&hostile.uuid.clone()).await;
    assert!(history.starts_with("hostile: ready\n"), "{}", &history[..40]);
    // Nothing is written beyond its largest disk.
    for at in [32 * MIB, 64 * MIB, 1 << 44] {
        assert_eq!(
            hostile.call(libc::SYS_pwrite64, &[&DISK, &"@buffer", &1, &at]).await,
            libc::EFBIG,
            "{at}"
        );
    }
    assert_eq!(zone.join("disk0").metadata().unwrap().len(), 32 << 20);
}

/// A disk that is smaller than another of the machine can be made as large, until the hypervisor ends.
#[tokio::test]
async fn what_a_disk_was_made_larger_by_is_taken_back() {
    if ignored() {
        return;
    }
    let disks = vec![disk(1), disk(40)];
    let mut hostile = Hostile::start(&[], v1::VmSpec { disks, ..machine() }).await;
    hostile.agent.tolerate(&["the hypervisor changed the size of its disk"]);
    assert_eq!(hostile.call(libc::SYS_pwrite64, &[&DISK, &"@buffer", &4096, &(20 * MIB)]).await, 0);
    let small = hostile.zone().join("disk0");
    assert!(small.metadata().unwrap().len() > 20 << 20);
    hostile.clients.stop(&hostile.uuid.clone(), true).await.unwrap();
    eventually("it has its size again", || {
        let size = small.metadata().unwrap().len();
        async move { (size == 1 << 20).then_some(()) }
    })
    .await;
}

/// A screenshot's file is the zone's own memory.
#[tokio::test]
async fn a_screenshot_takes_nothing_of_the_hosts_disk() {
    if ignored() {
        return;
    }
    let mut hostile = Hostile::start(&[], machine()).await;
    // It is handed over, and there is no picture in it.
    let request = v1::TakeScreenshotRequest { uuid: hostile.uuid.clone() };
    let status = hostile.clients.vms.take_screenshot(request).await.unwrap_err();
    assert!(status.message().contains("picture"), "{status:?}");
    let pid = hostile.clients.get(&hostile.uuid.clone()).await.unwrap().status.unwrap().pid.unwrap();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        assert!(
            !target.starts_with(std::env::temp_dir()) || target.starts_with(hostile.agent.dir.path()),
            "{target:?}"
        );
    }
}

#[tokio::test]
async fn it_learns_nothing_of_the_agent_and_takes_nothing_that_all_share() {
    if ignored() {
        return;
    }
    for level in ["full", "no-user-namespace", "filters-only"] {
        let mut hostile = Hostile::start(&[&format!("zone.level={level}")], machine()).await;
        let socket = libc::SOL_SOCKET;
        for option in [77, libc::SO_PEERCRED, libc::SO_PEERSEC, 59] {
            let arguments: [&dyn std::fmt::Display; 5] = [&"@control", &socket, &option, &"@buffer", &"@int"];
            assert_eq!(hostile.call(libc::SYS_getsockopt, &arguments).await, libc::EPERM, "{level} {option}");
        }
        for option in [76, libc::SO_PASSCRED, libc::SO_PASSSEC] {
            let arguments: [&dyn std::fmt::Display; 5] = [&"@control", &socket, &option, &"@int", &4];
            assert_eq!(hostile.call(libc::SYS_setsockopt, &arguments).await, libc::EPERM, "{level} {option}");
        }
        let asked: [&dyn std::fmt::Display; 5] = [&"@control", &socket, &libc::SO_TYPE, &"@buffer", &"@int"];
        assert_eq!(hostile.call(libc::SYS_getsockopt, &asked).await, 0, "what QEMU needs");
        assert_eq!(hostile.call(libc::SYS_io_setup, &[&1024, &"@buffer"]).await, libc::ENOSYS);
        for kind in [libc::SOCK_DGRAM, libc::SOCK_STREAM, libc::SOCK_SEQPACKET] {
            let arguments: [&dyn std::fmt::Display; 4] = [&libc::AF_UNIX, &kind, &0, &"@buffer"];
            assert_eq!(hostile.call(libc::SYS_socketpair, &arguments).await, libc::EPERM, "{level} {kind}");
        }
        for lock in [libc::F_SETLK, libc::F_SETLKW, libc::F_OFD_SETLK, libc::F_OFD_SETLKW, libc::F_SETLEASE] {
            assert_eq!(
                hostile.call(libc::SYS_fcntl, &[&1, &lock, &"@buffer"]).await,
                libc::EPERM,
                "{level} {lock}"
            );
        }
        let filter: [&dyn std::fmt::Display; 3] = [&libc::SECCOMP_SET_MODE_FILTER, &0, &"@buffer"];
        assert_eq!(hostile.call(libc::SYS_seccomp, &filter).await, libc::EPERM, "{level}");
        let to_a_name: [&dyn std::fmt::Display; 6] = [&"@control", &"@buffer", &1, &0, &"@buffer", &110];
        assert_eq!(hostile.call(libc::SYS_sendto, &to_a_name).await, libc::EPERM);
        let uuid = hostile.uuid.clone();
        hostile.clients.delete(&uuid).await.unwrap();
    }
}

/// It calls itself a launcher, and what the launcher wrote is gone: it is found all the same, and no second one starts on
/// its disk, whoever would try.
#[tokio::test]
async fn whatever_it_calls_itself_it_is_not_dead() {
    if ignored() {
        return;
    }
    let mut hostile = Hostile::start(&[], v1::VmSpec { disks: vec![disk(1)], ..machine() }).await;
    hostile.agent.tolerate(&["a leak; vmadm reclaim removes it"]);
    let uuid = hostile.uuid.clone();
    let pid = hostile.clients.get(&uuid).await.unwrap().status.unwrap().pid;
    hostile.say("name zone-init");
    hostile.until("= named\n").await;
    let run = hostile.agent.dir.path().join("run").join(&uuid);
    hostile.agent.kill();
    for file in ["process.json", "cgroup.json"] {
        std::fs::remove_file(run.join(file)).unwrap();
    }
    hostile.resume().await;
    let status = hostile.clients.get(&uuid).await.unwrap().status.unwrap();
    assert_eq!((status.state(), status.pid), (v1::VmState::Running, pid));
    let disk = std::fs::File::open(hostile.zone().join("disk0")).unwrap();
    let lock = rustix::fs::flock(&disk, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert_eq!(lock, Err(rustix::io::Errno::WOULDBLOCK), "the disk is its own");
    // Nor can it give the lock up.
    assert_eq!(hostile.call(libc::SYS_flock, &[&DISK, &libc::LOCK_UN]).await, libc::EPERM);
    // It ends like any other, and its groups, which no record names, are a leak.
    hostile.clients.delete(&uuid).await.unwrap();
    for leak in hostile.agent.vmadm_ok(&["leaks"]).0.lines() {
        hostile.agent.vmadm_ok(&["reclaim", leak]);
    }
    assert_eq!(hostile.agent.vmadm_ok(&["leaks"]).0.trim(), "");
}

/// Its first thread is gone, and another one has everything: it lives, for the next agent too.
#[tokio::test]
async fn one_whose_first_thread_ended_is_not_dead() {
    if ignored() {
        return;
    }
    let mut hostile = Hostile::start(&[], v1::VmSpec { disks: vec![disk(1)], ..machine() }).await;
    hostile.agent.tolerate(&["lost: the hypervisor is left alone"]);
    let uuid = hostile.uuid.clone();
    let pid = hostile.clients.get(&uuid).await.unwrap().status.unwrap().pid.unwrap();
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    hostile.say("leader");
    hostile.until("= alone\n").await;
    eventually("its first thread is gone", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        async move { stat.contains(") Z ").then_some(()) }
    })
    .await;
    assert_eq!(threads(), 2);
    hostile.agent.kill();
    hostile.resume().await;
    assert_eq!(hostile.clients.state(&uuid).await, v1::VmState::Lost);
    hostile.clients.start(&uuid).await.unwrap_err();
    hostile.clients.stop(&uuid, true).await.unwrap();
    eventually("it is ended", || async move { (threads() == 0).then_some(()) }).await;
    assert_eq!(hostile.clients.state(&uuid).await, v1::VmState::Stopped);
}

/// What it took from a disk's size is back for the next one.
#[tokio::test]
async fn a_disk_that_it_emptied_has_its_size_again() {
    if ignored() {
        return;
    }
    let mut hostile = Hostile::start(&[], v1::VmSpec { disks: vec![disk(8)], ..machine() }).await;
    hostile.agent.tolerate(&["the hypervisor changed the size of its disk"]);
    let uuid = hostile.uuid.clone();
    let disk = hostile.zone().join("disk0");
    assert_eq!(hostile.call(libc::SYS_ftruncate, &[&DISK, &0]).await, 0);
    assert_eq!(disk.metadata().unwrap().len(), 0);
    hostile.clients.stop(&uuid, true).await.unwrap();
    eventually("it has its size", || {
        let size = disk.metadata().unwrap().len();
        async move { (size == 8 << 20).then_some(()) }
    })
    .await;
}

/// The process that empties the pipes of this agent's hypervisors.
fn logger(agent: &Real) -> i32 {
    let run = agent.dir.path().join("run");
    let holds = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let ours =
            |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).is_ok_and(|to| to.starts_with(&run));
        words.split(|byte| *byte == 0).nth(1) == Some(b"zone-logger") && files.into_iter().any(ours)
    };
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find(holds).expect("a logger")
}

fn end(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// No byte is lost or doubled, whether the agent is killed, the logger, or both; one that floods waits meanwhile.
#[tokio::test]
async fn history_outlives_the_agent_and_the_logger() {
    if ignored() {
        return;
    }
    let mut hostile = Hostile::start(&["console.keep_kib=65536"], machine()).await;
    let log = hostile.zone().join("console.log");
    let size = || log.metadata().unwrap().len();
    let begin = size();
    let block: u64 = 65536;
    let mut written = 0;
    let print = |hostile: &Hostile, times: u64| {
        let line = format!("call {} 1 @buffer {block}\n", libc::SYS_write);
        hostile.say(line.repeat(usize::try_from(times).unwrap()).trim());
        times * block
    };
    let zeroes = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == 0).count() as u64;

    end(logger(&hostile.agent));
    written += print(&hostile, 40);
    eventually("the next logger carries", || {
        let grown = size() > begin + 40 * block;
        async move { grown.then_some(()) }
    })
    .await;
    // More than the pipe holds, with nobody there to take it: the agent is killed first, so that no other logger comes.
    let old = logger(&hostile.agent);
    written += print(&hostile, 40);
    hostile.agent.kill();
    end(old);
    hostile.resume().await;
    eventually("all of it has arrived", || {
        let all = zeroes(&std::fs::read(&log).unwrap()) >= written;
        async move { all.then_some(()) }
    })
    .await;
    assert_eq!(zeroes(&std::fs::read(&log).unwrap()), written, "nothing twice");
    // With a logger and no agent nobody waits.
    hostile.agent.kill();
    let before = size();
    let input = hostile.agent.dir.path().join("run").join(&hostile.uuid).join("console.in");
    let lines = format!("call {} 1 @buffer {block}\n", libc::SYS_write).repeat(64);
    std::fs::write(input, lines).unwrap();
    eventually("it grows by more than a pipe holds", || {
        let grown = size() > before + 64 * block;
        async move { grown.then_some(()) }
    })
    .await;
    hostile.resume().await;
    let last = logger(&hostile.agent);
    hostile.clients.stop(&hostile.uuid.clone(), true).await.unwrap();
    hostile.agent.kill();
    eventually("the logger ends with who needs it", || {
        let gone = !Path::new(&format!("/proc/{last}")).exists()
            || std::fs::read_to_string(format!("/proc/{last}/stat")).unwrap_or_default().contains(") Z ");
        async move { gone.then_some(()) }
    })
    .await;
}

/// What it says while no agent runs, and then ends, is said.
#[tokio::test]
async fn its_last_words_outlive_it() {
    if ignored() {
        return;
    }
    let mut hostile = Hostile::start(&[], machine()).await;
    let uuid = hostile.uuid.clone();
    hostile.agent.kill();
    let input = hostile.agent.dir.path().join("run").join(&uuid).join("console.in");
    std::fs::write(input, format!("call {} 2 @buffer 5\nend 3\n", libc::SYS_write)).unwrap();
    hostile.resume().await;
    let exit = super::guest_exit(&hostile.clients, &uuid).await;
    assert!(matches!(exit.status, 3 | 0), "{exit:?}");
    assert!(hostile.clients.console_log(&uuid).await.ends_with("= 5 0\n"));
}
