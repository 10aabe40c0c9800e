//! Files in a zone's root over gRPC.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use zoneward::proto::v1::{self, put_file_request::Item};

use super::support::{Clients, eventually, fields, machine, metadata, reason, sha256, simulated::Simulated};

async fn zone() -> (Simulated, Clients, String) {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    (agent, clients, uuid)
}

fn header(uuid: &str, path: &str, content: &[u8]) -> v1::PutFileHeader {
    v1::PutFileHeader {
        uuid: uuid.to_owned(),
        path: path.to_owned(),
        size: i64::try_from(content.len()).unwrap(),
        sha256: sha256(content),
        ..Default::default()
    }
}

async fn list(clients: &mut Clients, uuid: &str, path: &str) -> v1::ListFilesResponse {
    let request = v1::ListFilesRequest { uuid: uuid.to_owned(), path: path.to_owned(), ..Default::default() };
    clients.vms.list_files(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn put_list_delete() {
    let (agent, mut clients, uuid) = zone().await;
    let content = vec![3; 2_500_000];
    let chunks = content.chunks(1 << 20).map(<[u8]>::to_vec).collect();
    let file = clients.put(header(&uuid, "/a.iso", &content), chunks).await.unwrap();
    assert_eq!((file.path.as_str(), file.size), ("/a.iso", 2_500_000));
    assert_eq!(std::fs::read(agent.zonepath(&uuid).join("root/a.iso")).unwrap(), content);
    let files = list(&mut clients, &uuid, "").await.files;
    assert_eq!((files.len(), files[0].r#type()), (1, v1::file_entry::Type::File));
    assert_eq!(files[0].modified, file.modified);

    let delete = |path: &str| v1::DeleteFileRequest {
        uuid: uuid.clone(),
        path: path.to_owned(),
        ..Default::default()
    };
    let other = |etag: &str| v1::DeleteFileRequest { etag: etag.to_owned(), ..delete("/a.iso") };
    assert_eq!(reason(&clients.vms.delete_file(other("g0")).await.unwrap_err()), "ETAG_MISMATCH");
    let stale = v1::PutFileHeader { etag: "g0".into(), ..header(&uuid, "/b.iso", b"b") };
    assert_eq!(reason(&clients.put(stale, vec![b"b".to_vec()]).await.unwrap_err()), "ETAG_MISMATCH");
    let etag = clients.get(&uuid).await.unwrap().etag;
    clients.vms.delete_file(other(&etag)).await.unwrap();
    let status = clients.vms.delete_file(delete("/a.iso")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "FILE_NOT_FOUND"));
    assert_eq!(fields(&clients.vms.delete_file(delete("/")).await.unwrap_err()), ["path"]);
    let actions: Vec<_> = clients
        .journal()
        .await
        .into_iter()
        .filter_map(|event| match event.kind {
            Some(v1::event::Kind::File(file)) => Some((file.path.clone(), file.action(), file.size)),
            _ => None,
        })
        .collect();
    assert_eq!(
        actions,
        [
            ("/a.iso".to_owned(), v1::file_changed::Action::Put, 2_500_000),
            ("/a.iso".to_owned(), v1::file_changed::Action::Deleted, 2_500_000)
        ]
    );
}

#[tokio::test]
async fn a_cut_upload_never_shows_and_is_resumed() {
    let (agent, mut clients, uuid) = zone().await;
    let content: Vec<u8> = (0..600_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let (sender, stream) = mpsc::channel(4);
    let upload = tokio::spawn({
        let mut clients = clients.clone();
        async move { clients.vms.put_file(ReceiverStream::new(stream)).await }
    });
    for item in
        [Item::Header(header(&uuid, "/a.iso", &content)), Item::Chunk(content[..400_000].to_vec().into())]
    {
        sender.send(v1::PutFileRequest { item: Some(item) }).await.unwrap();
    }
    eventually("the part exists", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move {
            let uploads = list(&mut clients, &uuid, "/").await.uploads;
            uploads.first().is_some_and(|upload| upload.committed == 400_000).then_some(())
        }
    })
    .await;
    upload.abort();
    assert!(upload.await.unwrap_err().is_cancelled());
    drop(sender);
    let listed = list(&mut clients, &uuid, "/").await;
    assert_eq!(listed.files, [], "not under its final name");
    let upload = &listed.uploads[0];
    assert_eq!(
        (upload.path.as_str(), upload.size, upload.sha256.clone()),
        ("/a.iso", 600_000, sha256(&content))
    );

    let beyond = v1::PutFileHeader { offset: 500_000, ..header(&uuid, "/a.iso", &content) };
    let status = eventually("the lock is free", || {
        let (mut clients, beyond) = (clients.clone(), beyond.clone());
        async move {
            let status = clients.put(beyond, vec![]).await.unwrap_err();
            (reason(&status) != "UPLOAD_BUSY").then_some(status)
        }
    })
    .await;
    assert_eq!((status.code(), metadata(&status, "committed").as_str()), (Code::OutOfRange, "400000"));
    let rest = v1::PutFileHeader { offset: 400_000, ..header(&uuid, "/a.iso", &content) };
    clients.put(rest, vec![content[400_000..].to_vec()]).await.unwrap();
    assert_eq!(std::fs::read(agent.zonepath(&uuid).join("root/a.iso")).unwrap(), content);
}

#[tokio::test]
async fn what_is_not_as_announced_is_refused_and_leaves_nothing() {
    let (agent, mut clients, uuid) = zone().await;
    for (content, code) in
        [(&b"wrong"[..], Code::DataLoss), (b"right and more", Code::DataLoss), (b"rig", Code::DataLoss)]
    {
        let status = clients.put(header(&uuid, "/a", b"right"), vec![content.to_vec()]).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (code, "UPLOAD_BROKEN"));
        assert!(!agent.zonepath(&uuid).join("root/a").exists());
    }
    let too_big = vec![0; (1 << 20) + 1];
    let status = clients.put(header(&uuid, "/b", &too_big), vec![too_big]).await.unwrap_err();
    assert_eq!(fields(&status), ["chunk"]);
}

#[tokio::test]
async fn bad_headers() {
    let (agent, mut clients, uuid) = zone().await;
    std::os::unix::fs::symlink("/etc", agent.zonepath(&uuid).join("root/etc")).unwrap();
    let good = header(&uuid, "/a", b"x");
    for (bad, field) in [
        (v1::PutFileHeader { path: "a".into(), ..good.clone() }, "header.path"),
        (v1::PutFileHeader { path: "/../a".into(), ..good.clone() }, "header.path"),
        (v1::PutFileHeader { path: "/".into(), ..good.clone() }, "header.path"),
        (v1::PutFileHeader { path: "/nul\0".into(), ..good.clone() }, "header.path"),
        (v1::PutFileHeader { size: -1, ..good.clone() }, "header.size"),
        (v1::PutFileHeader { offset: -1, ..good.clone() }, "header.offset"),
        (v1::PutFileHeader { sha256: "abc".into(), ..good.clone() }, "header.sha256"),
        (v1::PutFileHeader { uuid: "x".into(), ..good.clone() }, "header.uuid"),
    ] {
        let status = clients.put(bad, vec![b"x".to_vec()]).await.unwrap_err();
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]));
    }
    let link = v1::PutFileHeader { path: "/etc/motd".into(), ..good.clone() };
    let status = clients.put(link, vec![b"x".to_vec()]).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "FILE_REFUSED"));
    let nowhere = v1::PutFileHeader { path: "/no/folder".into(), ..good.clone() };
    assert_eq!(clients.put(nowhere, vec![b"x".to_vec()]).await.unwrap_err().code(), Code::NotFound);
    let huge = v1::PutFileHeader { size: 1 << 60, ..good.clone() };
    assert_eq!(clients.put(huge, vec![]).await.unwrap_err().code(), Code::ResourceExhausted);

    clients.put(good.clone(), vec![b"x".to_vec()]).await.unwrap();
    assert_eq!(clients.put(good.clone(), vec![b"x".to_vec()]).await.unwrap_err().code(), Code::AlreadyExists);
    clients.put(v1::PutFileHeader { overwrite: true, ..good }, vec![b"x".to_vec()]).await.unwrap();
}

#[tokio::test]
async fn lists_are_paged() {
    let (agent, mut clients, uuid) = zone().await;
    let root = agent.zonepath(&uuid).join("root");
    std::fs::create_dir(root.join("sub")).unwrap();
    for n in 0..5 {
        std::fs::write(root.join(format!("sub/{n}")), "").unwrap();
    }
    let mut request = v1::ListFilesRequest {
        uuid: uuid.clone(),
        path: "/sub".into(),
        page_size: 2,
        page_token: String::new(),
    };
    let mut seen = Vec::new();
    loop {
        let page = clients.vms.list_files(request.clone()).await.unwrap().into_inner();
        assert!(page.files.len() <= 2);
        seen.extend(page.files.into_iter().map(|file| file.path));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, ["/sub/0", "/sub/1", "/sub/2", "/sub/3", "/sub/4"]);
    request.page_size = -1;
    assert_eq!(fields(&clients.vms.list_files(request).await.unwrap_err()), ["page_size"]);
}

/// Uploads that send nothing cost no thread: the agent goes on.
#[tokio::test]
async fn idle_uploads_hold_up_nobody() {
    let (agent, mut clients, uuid) = zone().await;
    let mut idle = Vec::new();
    for connection in 0..3 {
        let other = agent.clients().await;
        for n in 0..200 {
            let (sender, stream) = mpsc::channel(1);
            let content = format!("{connection}-{n}");
            let header = header(&uuid, &format!("/{content}"), content.as_bytes());
            sender.send(v1::PutFileRequest { item: Some(Item::Header(header)) }).await.unwrap();
            let mut other = other.clone();
            let upload = tokio::spawn(async move { other.vms.put_file(ReceiverStream::new(stream)).await });
            idle.push((sender, upload));
        }
    }
    eventually("all are under way", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { (list(&mut clients, &uuid, "/").await.uploads.len() == 600).then_some(()) }
    })
    .await;
    let another = clients.create(machine()).await;
    clients.start(&another).await.unwrap();
    for (_, upload) in &idle {
        upload.abort();
    }
}

/// Begins an upload that announces `size` bytes, sends some and stays.
async fn begun(
    clients: &Clients,
    header: v1::PutFileHeader,
    chunk: Vec<u8>,
) -> (mpsc::Sender<v1::PutFileRequest>, tokio::task::JoinHandle<Result<(), tonic::Status>>) {
    let (sender, stream) = mpsc::channel(4);
    let upload = tokio::spawn({
        let mut clients = clients.clone();
        async move { clients.vms.put_file(ReceiverStream::new(stream)).await.map(drop) }
    });
    for item in [Item::Header(header), Item::Chunk(chunk.into())] {
        sender.send(v1::PutFileRequest { item: Some(item) }).await.unwrap();
    }
    (sender, upload)
}

/// Who announces much and sends little has little; what was cut is listed, deletable, and makes room for another.
#[tokio::test]
async fn what_was_not_sent_is_not_kept() {
    use std::os::unix::fs::MetadataExt as _;
    let (agent, mut clients, uuid) = zone().await;
    let uploads = agent.zonepath(&uuid).join("uploads");
    let room = || -> u64 {
        std::fs::read_dir(&uploads)
            .unwrap()
            .flatten()
            .map(|file| file.metadata().unwrap().blocks() * 512)
            .sum()
    };
    let large = |path: &str, sha256: &str| v1::PutFileHeader {
        size: 200 << 20,
        sha256: sha256.to_owned(),
        ..header(&uuid, path, b"")
    };
    let listed = |list: v1::ListFilesResponse| {
        list.uploads.into_iter().map(|upload| (upload.path, upload.committed)).collect::<Vec<_>>()
    };
    let (sender, upload) = begun(&clients, large("/a", &"a".repeat(64)), vec![1; 1000]).await;
    eventually("it is listed", || {
        let mut clients = clients.clone();
        let uuid = uuid.clone();
        async move { (listed(list(&mut clients, &uuid, "").await) == [("/a".to_owned(), 1000)]).then_some(()) }
    })
    .await;
    assert!(room() < 1 << 20, "{} bytes are taken", room());
    let delete = |path: &str| v1::DeleteFileRequest {
        uuid: uuid.clone(),
        path: path.to_owned(),
        ..Default::default()
    };
    assert_eq!(
        clients.vms.delete_file(delete("/a")).await.unwrap_err().code(),
        Code::NotFound,
        "it is under way"
    );
    drop(sender);
    upload.await.unwrap().unwrap_err();
    assert_eq!(listed(list(&mut clients, &uuid, "").await), [("/a".to_owned(), 1000)]);

    // A newer one to the same path.
    let (sender, upload) = begun(&clients, large("/a", &"b".repeat(64)), vec![2; 500]).await;
    drop(sender);
    upload.await.unwrap().unwrap_err();
    assert_eq!(listed(list(&mut clients, &uuid, "").await), [("/a".to_owned(), 500)]);
    clients.vms.delete_file(delete("/a")).await.unwrap();
    assert_eq!(listed(list(&mut clients, &uuid, "").await), []);
    assert_eq!(std::fs::read_dir(&uploads).unwrap().count(), 0);
    let last = clients.journal().await.pop().unwrap();
    let Some(v1::event::Kind::File(file)) = last.kind else { panic!("{last:?}") };
    assert_eq!(
        (file.path.as_str(), file.action(), file.size),
        ("/a", v1::file_changed::Action::Discarded, 500)
    );
}

/// What is on its way counts; what an earlier agent reserved or left open is mended by the next.
#[tokio::test]
async fn uploads_have_a_share_of_the_host() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let mut agent = Simulated::start_with(|config| config.capacity.disk_overcommit = 1e-9).await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let status = clients.put(header(&uuid, "/a", &[7; 2000]), vec![vec![7; 2000]]).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "CAPACITY"));
    agent.stop().await;

    agent.config.capacity.disk_overcommit = 0.0;
    agent.resume().await;
    let mut clients = agent.clients().await;
    let (sender, upload) =
        begun(&clients, v1::PutFileHeader { size: 5000, ..header(&uuid, "/b", &[]) }, vec![1; 1000]).await;
    drop(sender);
    upload.await.unwrap().unwrap_err();
    let disk = |host: v1::GetHostResponse| {
        host.capacity.into_iter().find(|one| one.resource == "disk").unwrap().promised
    };
    assert_eq!(disk(clients.host.get_host(v1::GetHostRequest {}).await.unwrap().into_inner()), 1);
    clients.put(header(&uuid, "/c", b"c"), vec![b"c".to_vec()]).await.unwrap();
    agent.stop().await;

    let zonepath = agent.zonepath(&uuid);
    let part = std::fs::read_dir(zonepath.join("uploads")).unwrap().flatten().map(|file| file.path());
    let part = part.into_iter().find(|path| path.extension().is_some_and(|end| end == "part")).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&part).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 50 << 20).unwrap();
    let state = agent.config.state_dir.clone();
    let open = [zonepath.clone(), zonepath.join("root/c"), state.clone(), state.join("state.db")];
    for path in &open {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    agent.config.capacity.upload_hours = 24;
    agent.resume().await;
    assert!(part.metadata().unwrap().blocks() * 512 < 1 << 20, "the reservation is given back");
    for path in &open {
        assert_eq!(path.metadata().unwrap().mode() & 0o077, 0, "{}", path.display());
    }
    for path in ["state.db-wal", "state.db-shm"].map(|name| state.join(name)) {
        assert!(path.metadata().map_or(0, |meta| meta.mode() & 0o077) == 0, "{}", path.display());
    }
    let mut clients = agent.clients().await;
    assert_eq!(list(&mut clients, &uuid, "").await.uploads.len(), 1);
    agent.stop().await;
    // Nobody went on with it.
    agent.config.capacity.upload_hours = 0;
    agent.resume().await;
    let mut clients = agent.clients().await;
    eventually("it is gone", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { list(&mut clients, &uuid, "").await.uploads.is_empty().then_some(()) }
    })
    .await;
    let last = clients.journal().await.pop().unwrap();
    assert!(
        matches!(last.kind, Some(v1::event::Kind::File(file)) if file.action() == v1::file_changed::Action::Discarded)
    );
}

/// Names that a terminal would obey.
#[tokio::test]
async fn names_that_are_obeyed_are_refused() {
    let (_agent, mut clients, uuid) = zone().await;
    for name in ["/a\u{1b}[2J", "/a\nb", "/a\u{9b}b", "/a\u{202e}gpj.exe"] {
        let status = clients.put(header(&uuid, name, b"x"), vec![b"x".to_vec()]).await.unwrap_err();
        assert_eq!(fields(&status), ["header.path"], "{name:?}");
    }
    clients.put(header(&uuid, "/ümläut-日本", b"x"), vec![b"x".to_vec()]).await.unwrap();
}
