//! The host runs short of what the agent itself needs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tonic::Code;
use zoneward::proto::v1;

use super::{
    support::{eventually, ignored::ignore, machine, real::Real, reason},
    survival::booted,
};

/// A file system of its own for the state, which can be made read-only under who writes to it.
struct Volume {
    at: PathBuf,
}

impl Volume {
    /// None where no file system can be mounted.
    fn mount(dir: &Path) -> Option<Self> {
        let (image, at) = (dir.join("image"), dir.join("state"));
        std::fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        std::fs::create_dir(&at).unwrap();
        let run = |program: &str, words: &[&str]| {
            Command::new(program).args(words).output().is_ok_and(|output| output.status.success())
        };
        let (image, folder) = (image.to_str().unwrap(), at.to_str().unwrap());
        let mounted = run("mkfs.ext4", &["-q", "-F", image]) && run("mount", &["-o", "loop", image, folder]);
        mounted.then_some(Self { at })
    }

    /// Lets nobody write the files of the state, or everybody again.
    fn protect(&self, yes: bool) {
        let files = std::fs::read_dir(&self.at).unwrap().flatten().map(|entry| entry.path());
        let files = files.filter(|path| path.to_string_lossy().contains("state.db"));
        let set = Command::new("chattr").arg(if yes { "+i" } else { "-i" }).args(files).status();
        assert!(set.unwrap().success());
    }

    /// As the kernel does it for a disk that fails.
    fn fail(&self) {
        self.remount("abort");
    }

    fn remount(&self, option: &str) {
        let folder = self.at.to_str().unwrap();
        let remounted = Command::new("mount").args(["-o", &format!("remount,{option}"), folder]).status();
        assert!(remounted.unwrap().success());
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
    }
}

/// A disk that fails under the state: nothing more is changed, and nobody is disturbed.
#[tokio::test]
async fn a_state_folder_that_becomes_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let Some(volume) = Volume::mount(dir.path()) else {
        ignore("no file system can be mounted here (not root, or no loop device)");
        return;
    };
    let mut agent = Real::start_with(&[&format!("state_dir={}", volume.at.display())]).await;
    agent.tolerate(&["a change could not be written", "done without a word in the journal"]);
    let (mut clients, uuid, offset) = booted(&agent).await;
    let request = v1::CreateVmRequest { vm: Some(machine()), ..Default::default() };
    volume.protect(true);
    let status = clients.vms.create_vm(request.clone()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "STATE_READ_ONLY"),
        "{status:?}"
    );
    volume.protect(false);
    let made = clients.vms.create_vm(request.clone()).await.unwrap().into_inner().vm.unwrap();
    clients.delete(&made.uuid).await.unwrap();

    // And one that takes no writes for good.
    let before = clients.journal().await.len();
    volume.fail();
    let status = clients.vms.create_vm(request).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "STATE_READ_ONLY"),
        "{status:?}"
    );
    let status = clients.stop(&uuid, true).await.unwrap_err();
    assert_eq!(reason(&status), "STATE_READ_ONLY");
    assert_eq!(clients.state(&uuid).await, v1::VmState::Running, "what can't be written down is not done");
    assert_eq!(clients.journal().await.len(), before, "the journal is still read");
    agent.vmadm_with(&["console", &uuid], "echo still-$((40 + 2))\n");
    let (_, offset) = clients.console_until(&uuid, offset, "still-42").await;

    // An agent can't start there, and says so; the guest goes on.
    agent.kill();
    let output = super::support::real::run_with(agent.zoneward().arg("serve"), "");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("Read-only file system"), "{text}");
    // It was repaired.
    drop(volume);
    let state = dir.path().join("state");
    let image = dir.path().join("image");
    let _ = Command::new("fsck.ext4").arg("-fy").arg(&image).output().unwrap();
    let mounted = Command::new("mount").arg("-o").arg("loop").arg(&image).arg(&state).status().unwrap();
    assert!(mounted.success());
    let volume = Volume { at: state };
    agent.resume().await;
    let mut clients = agent.clients().await;
    agent.vmadm_with(&["console", &uuid], "echo again-$((40 + 2))\n");
    clients.console_until(&uuid, offset, "again-42").await;
    clients.delete(&uuid).await.unwrap();
    drop((clients, agent, volume));
}

/// No more threads can be made, as on a host where somebody else made too many: the agent answers, and says of
/// what needs one that it can't.
#[tokio::test]
async fn no_more_threads() {
    let group = PathBuf::from("/sys/fs/cgroup/pids").join(format!("zoneward-threads-{}", std::process::id()));
    if std::fs::create_dir(&group).is_err() {
        ignore("no control group with pids (version 1) can be made here");
        return;
    }
    struct Gone(PathBuf);
    impl Drop for Gone {
        fn drop(&mut self) {
            for _ in 0..200 {
                if std::fs::remove_dir(&self.0).is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
    let _gone = Gone(group.clone());
    let agent = Real::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    std::fs::write(group.join("cgroup.procs"), agent.pid().to_string()).unwrap();
    let now = std::fs::read_to_string(group.join("pids.current")).unwrap();
    std::fs::write(group.join("pids.max"), now).unwrap();
    let request = v1::StartVmRequest { uuid: uuid.clone(), ..Default::default() };
    let status = clients.start_with(request.clone()).await.unwrap_err();
    assert_eq!(reason(&status), "BOOT_FAILED", "{status:?}");
    assert_eq!(clients.state(&uuid).await, v1::VmState::Stopped);
    clients.create(machine()).await;
    clients.journal().await;
    assert!(clients.host.get_host(v1::GetHostRequest {}).await.is_ok());
    std::fs::write(group.join("pids.max"), "max").unwrap();
    eventually("it starts", || {
        let (mut clients, request) = (clients.clone(), request.clone());
        async move { clients.start_with(request).await.ok() }
    })
    .await;
    clients.delete(&uuid).await.unwrap();
    std::fs::write("/sys/fs/cgroup/pids/cgroup.procs", agent.pid().to_string()).unwrap();
}
