//! Watching from a snapshot on.

use std::collections::HashSet;

use tokio_stream::StreamExt as _;
use zoneward::proto::v1::{self, watch_events_request::Start, watch_events_response::Item};

use super::{
    super::support::{GUEST, machine, simulated::Simulated},
    next_event, watch,
};

/// The place where a snapshot ends and changes begin is exact: no change is missing, none was seen already.
#[tokio::test]
async fn a_snapshot_then_changes() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    for index in 0..100 {
        let alias = Some(format!("vm{index}"));
        clients.create(v1::VmSpec { alias, ..machine() }).await;
    }
    // Changes go on while the snapshot is told.
    let mut busy = clients.clone();
    let uuids: Vec<String> = clients
        .vms
        .list_vms(v1::ListVmsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .vms
        .into_iter()
        .map(|vm| vm.uuid)
        .collect();
    let targets = uuids.clone();
    let worker = tokio::spawn(async move {
        for (index, uuid) in targets.iter().cycle().take(200).enumerate() {
            let vm = v1::VmSpec { hostname: Some(format!("h{index}")), ..Default::default() };
            let request =
                v1::UpdateVmRequest { uuid: uuid.clone(), vm: Some(Box::new(vm)), ..Default::default() };
            busy.vms.update_vm(request).await.unwrap();
        }
    });
    let mut stream = watch(&mut clients, Some(Start::Snapshot(true)), &[]).await;
    let mut known: std::collections::HashMap<String, v1::Vm> = std::collections::HashMap::new();
    let number = |vm: &v1::Vm| vm.etag[1..].parse::<u64>().unwrap();
    loop {
        let message = stream.next().await.unwrap().unwrap();
        match message.item.unwrap() {
            Item::Snapshot(vm) => {
                assert!(message.cursor.is_empty());
                assert!(known.insert(vm.uuid.clone(), vm).is_none(), "each VM once");
            }
            Item::SnapshotEnd(_) => break,
            other => panic!("{other:?} in the middle of the snapshot"),
        }
    }
    assert_eq!(known.len(), 100);
    worker.await.unwrap();
    let mut last: std::collections::HashMap<String, String> = std::collections::HashMap::new();
    for uuid in &uuids {
        last.insert(uuid.clone(), clients.get(uuid).await.unwrap().etag);
    }
    while known.values().any(|vm| vm.etag != last[&vm.uuid]) {
        let event = next_event(&mut stream).await;
        let Some(v1::event::Kind::Modified(modified)) = event.kind else { panic!("{event:?}") };
        let vm = modified.vm.unwrap();
        assert_eq!(number(&vm), number(&known[&vm.uuid]) + 1, "no change is missing, none comes twice");
        known.insert(vm.uuid.clone(), vm);
    }
    for uuid in &uuids {
        assert_eq!(clients.get(uuid).await.unwrap().spec, known[uuid].spec);
    }
}

/// A VM that is made again under its UUID is another, also for who had the first in a snapshot.
#[tokio::test]
async fn one_made_again_after_a_snapshot_is_told() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    clients.start(&uuid).await.unwrap();
    let mut stream = watch(&mut clients, Some(Start::Snapshot(true)), &[]).await;
    while !matches!(stream.next().await.unwrap().unwrap().item.unwrap(), Item::Bookmark(_)) {}
    clients.delete(&uuid).await.unwrap();
    clients.create(v1::VmSpec { uuid: Some(uuid.clone()), ..machine() }).await;
    loop {
        if let Some(v1::event::Kind::Created(_)) = next_event(&mut stream).await.kind {
            break;
        }
    }
}

/// VMs that are made and removed while snapshots are taken are in the snapshot or come behind it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_falls_between_a_snapshot_and_what_follows() {
    let agent = Simulated::start().await;
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let agent = agent.clients();
            async move {
                let mut clients = agent.await;
                let mut made = Vec::new();
                for index in 0..40 {
                    let uuid = clients.create(machine()).await;
                    match index % 4 {
                        3 => clients.delete(&uuid).await.unwrap(),
                        _ => made.push(uuid),
                    }
                }
                made
            }
        })
        .collect();
    let watchers: Vec<_> = (0..8)
        .map(|_| {
            let clients = agent.clients();
            async move {
                let mut clients = clients.await;
                let mut streams = Vec::new();
                for _ in 0..12 {
                    streams.push(watch(&mut clients, Some(Start::Snapshot(true)), &[]).await);
                }
                streams
            }
        })
        .collect();
    let (made, streams) =
        tokio::join!(futures_util::future::join_all(workers), futures_util::future::join_all(watchers));
    let made: HashSet<String> = made.into_iter().flatten().collect();
    for mut stream in streams.into_iter().flatten() {
        let mut known: HashSet<String> = HashSet::new();
        let follow = async {
            // Those that are removed later may be known meanwhile.
            while known != made {
                match stream.next().await.unwrap().unwrap().item.unwrap() {
                    Item::Snapshot(vm) => assert!(known.insert(vm.uuid), "told twice"),
                    Item::Event(event) => match event.kind.unwrap() {
                        v1::event::Kind::Created(_) => assert!(known.insert(event.uuid), "told twice"),
                        // One that was gone before the snapshot came to it is not known.
                        v1::event::Kind::Deleted(_) => drop(known.remove(&event.uuid)),
                        _ => {}
                    },
                    Item::SnapshotEnd(_) | Item::Bookmark(_) => {}
                }
            }
        };
        let followed = tokio::time::timeout(GUEST, follow).await;
        let (missing, more) = (made.difference(&known).count(), known.difference(&made).count());
        assert!(followed.is_ok(), "{missing} VMs are missing, {more} are not there");
    }
}
