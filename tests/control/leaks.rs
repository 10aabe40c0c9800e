//! What no VM has: listed, and removed only when somebody says so.

use std::{fs, path::Path};

use tonic::Code;
use uuid::Uuid;
use zoneward::{
    internals::zone::Group,
    proto::v1::{self, leak::Kind},
};

use super::support::{Clients, fields, machine, sha256, simulated::Simulated};

async fn leaks(clients: &mut Clients) -> Vec<v1::Leak> {
    clients.host.list_leaks(v1::ListLeaksRequest::default()).await.unwrap().into_inner().leaks
}

async fn reclaim(clients: &mut Clients, ids: &[String], validate_only: bool) -> Vec<v1::ReclaimResult> {
    let request = v1::ReclaimLeaksRequest { ids: ids.to_vec(), validate_only, ..Default::default() };
    clients.host.reclaim_leaks(request).await.unwrap().into_inner().results
}

fn make(path: &Path, files: &[&str]) {
    fs::create_dir_all(path).unwrap();
    for file in files {
        fs::write(path.join(file), "x").unwrap();
    }
}

#[tokio::test]
async fn folders_groups_and_parts_of_uploads() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let vm = clients.create(machine()).await;
    clients.start(&vm).await.unwrap();
    // What a VM has is no leak, an upload that can go on neither.
    let header = v1::PutFileHeader {
        uuid: vm.clone(),
        path: "/half".into(),
        size: 10,
        sha256: sha256(b"0123456789"),
        ..Default::default()
    };
    clients.put(header, vec![b"01234".to_vec()]).await.unwrap_err();
    assert_eq!(leaks(&mut clients).await, []);

    let stray = Uuid::new_v4();
    make(&agent.config.zones_dir.join(stray.to_string()), &["disk0"]);
    make(&agent.config.run_dir.join(stray.to_string()), &["qmp.sock"]);
    make(&agent.config.zones_dir.join("lost+found"), &[]);
    make(&agent.zonepath(&vm).join("uploads"), &["dead.part", "new.part"]);
    let dead = fs::File::options().write(true).open(agent.zonepath(&vm).join("uploads/dead.part")).unwrap();
    dead.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3600)).unwrap();
    let group = |name: &str, uuid, populated| Group { uuid, path: agent.dir.path().join(name), populated };
    let (empty, busy) = (group("empty", stray, false), group("busy", Uuid::new_v4(), true));
    make(&empty.path, &[]);
    make(&busy.path, &[]);
    agent.host.set_groups(vec![empty.clone(), busy]);
    let found = leaks(&mut clients).await;
    let kinds: Vec<_> = found.iter().map(|leak| (leak.kind(), leak.reclaimable)).collect();
    assert_eq!(
        kinds,
        [
            (Kind::ControlGroup, false),
            (Kind::ControlGroup, true),
            (Kind::RunFolder, true),
            (Kind::Upload, true),
            (Kind::ZoneFolder, true),
        ]
    );
    assert_eq!(found[4].uuid, stray.to_string());

    let mut ids: Vec<String> = found.iter().map(|leak| leak.id.clone()).collect();
    ids.push("zone-folder:/etc".to_owned());
    let results = reclaim(&mut clients, &ids, true).await;
    let would: Vec<_> = results.iter().map(|result| result.reclaimed).collect();
    assert_eq!(would, [false, true, true, true, true, false]);
    assert_eq!(leaks(&mut clients).await, found, "only said");
    let results = reclaim(&mut clients, &ids, false).await;
    assert_eq!(results.iter().map(|result| result.reclaimed).collect::<Vec<_>>(), would);
    assert!(results[0].reason.contains("another agent's"), "{:?}", results[0]);
    assert!(results[5].reason.contains("no such leak"), "{:?}", results[5]);
    assert_eq!(leaks(&mut clients).await, found[..1]);
    assert!(agent.config.zones_dir.join("lost+found").exists() && Path::new("/etc").exists());
    assert_eq!(clients.state(&vm).await, v1::VmState::Running);
    let told = clients.journal().await.into_iter().filter_map(|event| match event.kind {
        Some(v1::event::Kind::Reclaimed(reclaimed)) => Some((reclaimed.leak, event.actor)),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told.len(), 4);
    assert!(told.iter().all(|(_, actor)| actor.starts_with("unix:uid=")), "{told:?}");
}

#[tokio::test]
async fn a_hypervisor_of_nobody_is_killed_only_by_name() {
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    clients.start(&uuid).await.unwrap();
    agent.stop().await;
    // The state file was lost.
    for file in fs::read_dir(&agent.config.state_dir).unwrap().flatten() {
        fs::remove_file(file.path()).unwrap();
    }
    agent.resume().await;
    assert!(agent.process(&uuid).is_alive(), "an agent that knows nothing kills nothing");
    let mut clients = agent.clients().await;
    let found = leaks(&mut clients).await;
    assert_eq!(found.iter().map(v1::Leak::kind).collect::<Vec<_>>(), [Kind::Process, Kind::ZoneFolder]);
    // Its disks are not taken from under it.
    let kept = reclaim(&mut clients, &[found[1].id.clone()], false).await;
    assert!(kept[0].reason.contains("reclaim that first"), "{kept:?}");
    assert!(agent.process(&uuid).is_alive() && agent.zonepath(&uuid).exists());
    let request = v1::ReclaimLeaksRequest {
        ids: vec![found[0].id.clone()],
        request_id: Uuid::new_v4().to_string(),
        ..Default::default()
    };
    let first = clients.host.reclaim_leaks(request.clone()).await.unwrap().into_inner();
    assert!(first.results[0].reclaimed, "{first:?}");
    assert!(!agent.process(&uuid).is_alive());
    assert!(agent.zonepath(&uuid).exists(), "the disks were not named");
    let again = clients.host.reclaim_leaks(request).await.unwrap().into_inner();
    assert_eq!(again, first, "a repeat has the answer");
}

#[tokio::test]
async fn pages_and_bad_requests() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    for _ in 0..5 {
        make(&agent.config.zones_dir.join(Uuid::new_v4().to_string()), &[]);
    }
    let all = leaks(&mut clients).await;
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListLeaksRequest { page_size: 2, page_token };
        let page = clients.host.list_leaks(request).await.unwrap().into_inner();
        assert!(page.leaks.len() <= 2);
        seen.extend(page.leaks);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, all);
    for ids in [vec![], vec!["x".to_owned(); 1001]] {
        let request = v1::ReclaimLeaksRequest { ids, ..Default::default() };
        let status = clients.host.reclaim_leaks(request).await.unwrap_err();
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["ids".to_owned()]));
    }
}
