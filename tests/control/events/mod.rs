//! Watching: every start sees every event once and in order.

mod filters;
mod snapshot;

use tokio_stream::StreamExt as _;
use tonic::{Code, Streaming};
use zoneward::proto::v1::{self, watch_events_request::Start, watch_events_response::Item};

use super::support::{Clients, GUEST, fields, machine, reason, simulated::Simulated};

async fn watch(
    clients: &mut Clients,
    start: Option<Start>,
    uuids: &[&str],
) -> Streaming<v1::WatchEventsResponse> {
    let uuids = uuids.iter().map(|uuid| (*uuid).to_owned()).collect();
    clients
        .events
        .watch_events(v1::WatchEventsRequest { start, uuids, ..Default::default() })
        .await
        .unwrap()
        .into_inner()
}

/// Events up to the bookmark at the end of the journal, and its cursor.
async fn drain(stream: &mut Streaming<v1::WatchEventsResponse>) -> (Vec<v1::Event>, String) {
    let mut events = Vec::new();
    loop {
        let message = stream.next().await.unwrap().unwrap();
        match message.item.unwrap() {
            Item::Event(event) => events.push(event),
            Item::Bookmark(_) => return (events, message.cursor),
            Item::Snapshot(_) | Item::SnapshotEnd(_) => panic!("nobody asked for a snapshot"),
        }
    }
}

async fn next_event(stream: &mut Streaming<v1::WatchEventsResponse>) -> v1::Event {
    let event = async {
        loop {
            if let Item::Event(event) = stream.next().await.unwrap().unwrap().item.unwrap() {
                return event;
            }
        }
    };
    tokio::time::timeout(GUEST, event).await.expect("an event")
}

#[tokio::test]
async fn from_the_beginning_from_now_and_from_a_cursor() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let first = clients.create(machine()).await;
    let (all, cursor) = drain(&mut watch(&mut clients, Some(Start::Beginning(true)), &[]).await).await;
    assert_eq!(all.iter().map(|e| e.sequence).collect::<Vec<_>>(), [1, 2]);
    assert!(all.iter().all(|event| event.uuid == first && event.time.is_some()));

    let mut now = watch(&mut clients, None, &[]).await;
    assert_eq!(drain(&mut now).await.0, []);
    let mut explicit = watch(&mut clients, Some(Start::Now(true)), &[]).await;
    assert_eq!(drain(&mut explicit).await.0, []);
    let second = clients.create(machine()).await;
    let mut resumed = watch(&mut clients, Some(Start::Cursor(cursor)), &[]).await;
    let mut only = watch(&mut clients, Some(Start::Beginning(true)), &[&second]).await;
    for stream in [&mut now, &mut explicit, &mut resumed, &mut only] {
        let event = next_event(stream).await;
        assert_eq!((event.sequence, event.uuid.as_str()), (3, second.as_str()));
    }
}

#[tokio::test]
async fn a_cursor_lives_as_long_as_the_journal() {
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    clients.create(machine()).await;
    let (_, cursor) = drain(&mut watch(&mut clients, Some(Start::Beginning(true)), &[]).await).await;
    agent.stop().await;
    agent.resume().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let mut resumed = watch(&mut clients, Some(Start::Cursor(cursor.clone())), &[]).await;
    assert_eq!(next_event(&mut resumed).await.uuid, uuid);

    let other = Simulated::start().await;
    let mut clients = other.clients().await;
    let request =
        v1::WatchEventsRequest { start: Some(Start::Cursor(cursor)), uuids: vec![], ..Default::default() };
    let status = clients.events.watch_events(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "CURSOR_FOREIGN"));
}

#[tokio::test]
async fn bad_starts_and_filters() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    for (start, field) in [
        (Start::Cursor("garbage".into()), "cursor"),
        (Start::Cursor(String::new()), "cursor"),
        (Start::Now(false), "now"),
        (Start::Beginning(false), "beginning"),
    ] {
        let request = v1::WatchEventsRequest { start: Some(start), uuids: vec![], ..Default::default() };
        let status = clients.events.watch_events(request).await.unwrap_err();
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]));
    }
    let request = v1::WatchEventsRequest { start: None, uuids: vec!["x".into()], ..Default::default() };
    assert_eq!(fields(&clients.events.watch_events(request).await.unwrap_err()), ["uuids.0"]);
    let request = v1::WatchEventsRequest {
        start: None,
        uuids: vec![uuid::Uuid::new_v4().to_string(); 1001],
        ..Default::default()
    };
    assert_eq!(fields(&clients.events.watch_events(request).await.unwrap_err()), ["uuids"]);
}

#[tokio::test]
async fn a_change_says_what_changed() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    clients.start(&uuid).await.unwrap();
    let modified = clients.journal().await.into_iter().find_map(|event| match event.kind {
        Some(v1::event::Kind::Modified(m)) if m.changes.iter().any(|c| c.new_value == "\"starting\"") => {
            Some(m)
        }
        _ => None,
    });
    let modified = modified.unwrap();
    let changes: Vec<_> = modified
        .changes
        .iter()
        .map(|c| (c.path.as_str(), c.old_value.as_str(), c.new_value.as_str()))
        .collect();
    assert_eq!(
        changes,
        [
            ("autoboot", "false", "true"),
            ("state", "\"stopped\"", "\"starting\""),
            ("zone_state", "\"installed\"", "\"ready\"")
        ]
    );
    assert_eq!(modified.vm.unwrap().status.unwrap().state(), v1::VmState::Starting);
}

#[tokio::test]
async fn a_stopping_agent_says_so_on_every_stream() {
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let mut stream = watch(&mut clients, None, &[]).await;
    drain(&mut stream).await;
    agent.stop().await;
    let status = stream.next().await.unwrap().unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STOPPING"));
}

/// A watcher that does not read holds up neither the agent nor another watcher.
#[tokio::test]
async fn a_watcher_that_does_not_read_disturbs_nobody() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let mut other = agent.clients().await;
    let mut stalled = watch(&mut other, Some(Start::Beginning(true)), &[]).await;
    let mut quick = watch(&mut clients, Some(Start::Beginning(true)), &[]).await;
    let uuid = clients.create(machine()).await;
    for _ in 0..200 {
        clients.start(&uuid).await.unwrap();
        clients.stop(&uuid, true).await.unwrap();
    }
    let mut last = 0;
    while last < 1600 {
        last = next_event(&mut quick).await.sequence;
    }
    // And when it does read, it has missed nothing.
    for expected in 1..=1600 {
        assert_eq!(next_event(&mut stalled).await.sequence, expected);
    }
}

#[tokio::test]
async fn the_journal_is_listed_both_ways() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    clients.start(&uuid).await.unwrap();
    let other = clients.create(machine()).await;
    let all = clients.journal().await;
    let mut list = async |request: v1::ListEventsRequest| {
        let (mut request, mut found) = (request, Vec::new());
        loop {
            let page = clients.events.list_events(request.clone()).await.unwrap().into_inner();
            found.extend(page.events);
            if page.next_page_token.is_empty() {
                return found;
            }
            request.page_token = page.next_page_token;
        }
    };
    let by_two = v1::ListEventsRequest { page_size: 2, ..Default::default() };
    assert_eq!(list(by_two.clone()).await, all);
    let mut backwards = list(v1::ListEventsRequest { newest_first: true, ..by_two.clone() }).await;
    backwards.reverse();
    assert_eq!(backwards, all);
    let others = list(v1::ListEventsRequest { uuids: vec![other.clone()], ..by_two.clone() }).await;
    assert_eq!(others, all.iter().filter(|event| event.uuid == other).cloned().collect::<Vec<_>>());
    let made = list(v1::ListEventsRequest { kinds: vec![v1::EventKind::Created.into()], ..by_two }).await;
    assert_eq!(made.len(), 2);
    for bad in [
        v1::ListEventsRequest { page_token: "x".into(), ..Default::default() },
        v1::ListEventsRequest { page_size: -1, ..Default::default() },
        v1::ListEventsRequest { uuids: vec!["x".into()], ..Default::default() },
    ] {
        assert_eq!(clients.events.list_events(bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

/// The library's watcher goes on over restarts of the agent; nothing is missing, nothing comes twice.
#[tokio::test]
async fn the_client_goes_on_over_restarts() {
    use zoneward::client::{EventWatcher, Watched};
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let request = v1::WatchEventsRequest { start: Some(Start::Beginning(true)), ..Default::default() };
    let mut watcher = EventWatcher::start(clients.events.clone(), request).await.unwrap();
    let (mut sequences, mut breaks) = (Vec::new(), 0);
    for _ in 0..3 {
        clients.create(machine()).await;
        loop {
            match watcher.next().await.unwrap() {
                Watched::Event(event) => sequences.push(event.sequence),
                Watched::Bookmark => {}
                other => panic!("{other:?}"),
            }
            if *sequences.last().unwrap_or(&0) == clients.journal().await.last().unwrap().sequence {
                break;
            }
        }
        agent.stop().await;
        loop {
            if let Watched::Disconnected(_) = watcher.next().await.unwrap() {
                break;
            }
        }
        agent.resume().await;
        clients = agent.clients().await;
        clients.create(machine()).await;
        loop {
            match watcher.next().await.unwrap() {
                Watched::Reconnected { snapshot_restarts } => breaks += usize::from(!snapshot_restarts),
                Watched::Event(event) => sequences.push(event.sequence),
                Watched::Bookmark => {}
                other => panic!("{other:?}"),
            }
            if *sequences.last().unwrap() == clients.journal().await.last().unwrap().sequence {
                break;
            }
        }
    }
    let all: Vec<i64> = clients.journal().await.iter().map(|event| event.sequence).collect();
    assert_eq!((sequences, breaks), (all, 3));
}

/// A page is bounded by what a client takes in one message, too.
#[tokio::test]
async fn large_events_are_listed_in_smaller_pages() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let text = prost_types::value::Kind::StringValue("x".repeat(700 << 10));
    let fields = [("big".to_owned(), prost_types::Value { kind: Some(text) })].into();
    let vm = v1::VmSpec { customer_metadata: Some(prost_types::Struct { fields }), ..machine() };
    for _ in 0..4 {
        clients.create(vm.clone()).await;
    }
    for newest_first in [false, true] {
        let (mut listed, mut pages, mut page_token) = (Vec::new(), 0, String::new());
        loop {
            let request = v1::ListEventsRequest { page_token, newest_first, ..Default::default() };
            let page = clients.events.list_events(request).await.unwrap().into_inner();
            listed.extend(page.events.into_iter().map(|event| event.sequence));
            (pages, page_token) = (pages + 1, page.next_page_token);
            if page_token.is_empty() {
                break;
            }
        }
        if newest_first {
            listed.reverse();
        }
        assert_eq!(listed, (1..=8).collect::<Vec<_>>());
        assert!(pages > 1, "{pages} pages");
    }
}
