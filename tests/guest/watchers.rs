//! Watchers under fire: the agent is killed at random points of random work, and watchers leave and come
//! back at random. What each of them saw is the journal, with nothing missing and nothing twice.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use zoneward::{
    client::{EventWatcher, Watched},
    proto::v1::{self, watch_events_request::Start},
};

use super::support::{Clients, connect_unix, machine, real::Real};

/// A number below `most`, by chance.
fn chance(most: u64) -> u64 {
    RandomState::new().build_hasher().finish() % most
}

/// Creates, changes and deletes VMs; what the killed agent does not answer may or may not have happened.
async fn work(socket: std::path::PathBuf, done: CancellationToken) {
    let mut clients = Clients::new(connect_unix(socket).await);
    let mut made: Vec<String> = Vec::new();
    while !done.is_cancelled() {
        match chance(4) {
            0 => {
                let request = v1::CreateVmRequest { vm: Some(machine()), ..Default::default() };
                if let Ok(answer) = clients.vms.create_vm(request).await {
                    made.push(answer.into_inner().vm.unwrap().uuid);
                }
            }
            1 if made.len() > 3 => {
                let uuid = made.remove(0);
                let _ = clients.delete(&uuid).await;
            }
            _ => {
                let Some(uuid) = made.last().cloned() else { continue };
                let vm = v1::VmSpec { alias: Some(format!("a{}", chance(1000))), ..Default::default() };
                let request = v1::UpdateVmRequest { uuid, vm: Some(Box::new(vm)), ..Default::default() };
                let _ = clients.vms.update_vm(request).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(chance(5))).await;
    }
}

/// Follows; now and then leaves and comes back with its cursor. Gives what it saw up to `last`.
async fn follow(socket: std::path::PathBuf, mut last: tokio::sync::watch::Receiver<i64>) -> Vec<i64> {
    let mut start = Start::Beginning(true);
    let mut seen = Vec::new();
    loop {
        let request = v1::WatchEventsRequest { start: Some(start.clone()), ..Default::default() };
        let clients = Clients::new(connect_unix(socket.clone()).await);
        let Ok(mut watcher) = EventWatcher::start(clients.events, request).await else {
            // The agent is just being killed.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let stay = tokio::time::sleep(Duration::from_millis(100 + chance(900)));
        tokio::pin!(stay);
        loop {
            tokio::select! {
                () = &mut stay => break,
                item = watcher.next() => match item.unwrap() {
                    Watched::Event(event) => seen.push(event.sequence),
                    Watched::Reconnected { snapshot_restarts } => assert!(!snapshot_restarts),
                    _ => {}
                },
                _ = last.changed() => {}
            }
            let end = *last.borrow();
            if end > 0 && seen.last().is_some_and(|newest| *newest >= end) {
                return seen;
            }
        }
        if let Some(cursor) = watcher.cursor() {
            start = Start::Cursor(cursor.to_owned());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_watcher_saw_the_journal() {
    let mut agent = Real::start().await;
    let done = CancellationToken::new();
    let (tell_end, end) = tokio::sync::watch::channel(0);
    let mut workers = tokio::task::JoinSet::new();
    let mut watchers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        workers.spawn(work(agent.socket(), done.clone()));
    }
    for _ in 0..4 {
        watchers.spawn(follow(agent.socket(), end.clone()));
    }
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100 + chance(400))).await;
        agent.kill();
        agent.resume().await;
    }
    done.cancel();
    workers.join_all().await;
    let mut clients = agent.clients().await;
    let journal: Vec<i64> = clients.journal().await.iter().map(|event| event.sequence).collect();
    assert!(journal.len() > 50, "{}", journal.len());
    tell_end.send(*journal.last().unwrap()).unwrap();
    for seen in watchers.join_all().await {
        assert_eq!(seen, journal);
    }
}
