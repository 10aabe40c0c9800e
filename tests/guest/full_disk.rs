//! A full disk refuses changes, disturbs no guest, and is over when there is room again.

use std::path::{Path, PathBuf};

use tonic::Code;
use zoneward::proto::v1;

use super::{
    support::{disk, ignored::ignore, machine, real::Real, reason},
    survival::booted,
};

/// A small file system, unmounted when this is dropped.
struct Small {
    at: PathBuf,
}

impl Small {
    fn mount(at: &Path, bytes: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        rustix::mount::mount("none", at, "tmpfs", rustix::mount::MountFlags::empty(), &*size).ok()?;
        Some(Self { at: at.to_owned() })
    }

    /// Takes all the room that is left.
    fn fill(&self) -> PathBuf {
        use std::io::Write as _;
        let path = self.at.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn of_the_state_folder() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(&dir.path().join("state"), "4m") else {
        ignore("no file system can be mounted here (not root?)");
        return;
    };
    let agent = Real::start_with(&[&format!("state_dir={}", small.at.display())]).await;
    agent.tolerate(&["a change could not be written", "done without a word in the journal"]);
    let (mut clients, uuid, offset) = booted(&agent).await;
    let before = clients.journal().await.len();
    let filler = small.fill();

    let request = v1::CreateVmRequest { vm: Some(machine()), ..Default::default() };
    let status = clients.vms.create_vm(request.clone()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "NO_ROOM"), "{status:?}");
    let status = clients.stop(&uuid, false).await.unwrap_err();
    assert_eq!(reason(&status), "NO_ROOM");
    assert_eq!(clients.state(&uuid).await, v1::VmState::Running, "what can't be written down is not done");
    assert_eq!(clients.vms.list_vms(v1::ListVmsRequest::default()).await.unwrap().into_inner().vms.len(), 1);
    assert_eq!(clients.journal().await.len(), before, "and not told");
    agent.vmadm_with(&["console", &uuid], "echo still-$((40 + 2))\n");
    clients.console_until(&uuid, offset, "still-42").await;

    std::fs::remove_file(filler).unwrap();
    clients.vms.create_vm(request).await.unwrap();
    clients.stop(&uuid, false).await.unwrap();
}

#[tokio::test]
async fn imports_leave_room_for_vms() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(&dir.path().join("zones"), "256m") else {
        ignore("no file system can be mounted here (not root?)");
        return;
    };
    let agent = Real::start_with(&[&format!("zones_dir={}", small.at.display())]).await;
    let path = dir.path().join("large");
    // Nothing in it is a hole.
    let mut content: Vec<u8> = vec![7; 300 << 20];
    content[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(&path, &content).unwrap();
    let refused = agent.imgadm(&["import", "-q", path.to_str().unwrap()]);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && error.contains("16 MiB are kept free for VMs"), "{error}");
    assert_eq!(agent.imgadm_ok(&["list", "-aH"]).0, "", "nothing is left of it");
    assert_eq!(std::fs::read_dir(small.at.join("images")).unwrap().count(), 0);
}

#[tokio::test]
async fn of_the_zones_folder() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(&dir.path().join("zones"), "8m") else {
        ignore("no file system can be mounted here (not root?)");
        return;
    };
    let agent = Real::start_with(&[&format!("zones_dir={}", small.at.display())]).await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(v1::VmSpec { disks: vec![disk(1)], ..machine() }).await;
    let content = vec![1; 16 << 20];
    let header = v1::PutFileHeader {
        uuid: uuid.clone(),
        path: "/big".into(),
        size: 16 << 20,
        sha256: super::support::sha256(&content),
        ..Default::default()
    };
    let chunks = content.chunks(1 << 20).map(<[u8]>::to_vec).collect();
    let status = clients.put(header, chunks).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "NO_ROOM"));
    let filler = small.fill();
    let request = v1::CreateVmRequest { vm: Some(machine()), ..Default::default() };
    let refused = clients.vms.create_vm(request).await;
    // Folders may still fit; if not, nothing is left of the try.
    if let Err(status) = refused {
        assert_eq!(reason(&status), "NO_ROOM");
        assert_eq!(
            clients.vms.list_vms(v1::ListVmsRequest::default()).await.unwrap().into_inner().vms.len(),
            1
        );
    }
    std::fs::remove_file(filler).unwrap();
    clients.start(&uuid).await.unwrap();
    clients.delete(&uuid).await.unwrap();
}
