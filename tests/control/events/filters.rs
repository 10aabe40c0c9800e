//! Watching some VMs, kinds and times.

use tonic::Code;
use zoneward::proto::v1::{self, watch_events_request::Start};

use super::{
    super::support::{fields, machine, simulated::Simulated},
    drain, next_event,
};

#[tokio::test]
async fn kinds_filters_and_times() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let web = clients.create(v1::VmSpec { alias: Some("web".into()), ..machine() }).await;
    let db = clients.create(v1::VmSpec { alias: Some("db".into()), ..machine() }).await;
    clients.start(&web).await.unwrap();
    clients.start(&db).await.unwrap();
    let mut of = async |request: v1::WatchEventsRequest| {
        drain(&mut clients.events.watch_events(request).await.unwrap().into_inner()).await.0
    };
    let begin = || v1::WatchEventsRequest { start: Some(Start::Beginning(true)), ..Default::default() };
    let boots = of(v1::WatchEventsRequest { kinds: vec![v1::EventKind::Boot.into()], ..begin() }).await;
    assert!(!boots.is_empty() && boots.iter().all(|e| matches!(e.kind, Some(v1::event::Kind::Boot(_)))));
    let webs = of(v1::WatchEventsRequest { filters: vec!["alias=~^we".into()], ..begin() }).await;
    assert!(!webs.is_empty() && webs.iter().all(|event| event.uuid == web));
    let all = of(begin()).await;
    let middle = all[all.len() / 2].time.unwrap();
    let since = of(v1::WatchEventsRequest { start: Some(Start::Time(middle)), ..Default::default() }).await;
    let expected = all.iter().filter(|e| {
        let time = e.time.unwrap();
        (time.seconds, time.nanos) >= (middle.seconds, middle.nanos)
    });
    assert_eq!(since, expected.cloned().collect::<Vec<_>>());

    // One that is made later is seen from its first event on.
    let request = v1::WatchEventsRequest {
        start: Some(Start::Now(true)),
        filters: vec!["alias=new".into()],
        ..Default::default()
    };
    let mut later = clients.events.watch_events(request).await.unwrap().into_inner();
    clients.create(v1::VmSpec { alias: Some("other".into()), ..machine() }).await;
    let new = clients.create(v1::VmSpec { alias: Some("new".into()), ..machine() }).await;
    let created = next_event(&mut later).await;
    assert!(matches!(created.kind, Some(v1::event::Kind::Created(_))), "{created:?}");
    assert_eq!(created.uuid, new);

    // A VM that matched is followed to its end.
    let request = v1::WatchEventsRequest { filters: vec!["alias=web".into()], ..Default::default() };
    let mut stream = clients.events.watch_events(request).await.unwrap().into_inner();
    clients.delete(&db).await.unwrap();
    clients.delete(&web).await.unwrap();
    loop {
        let event = next_event(&mut stream).await;
        assert_eq!(event.uuid, web);
        if matches!(event.kind, Some(v1::event::Kind::Deleted(_))) {
            break;
        }
    }
    for bad in [
        v1::WatchEventsRequest { kinds: vec![99], ..Default::default() },
        v1::WatchEventsRequest { filters: vec!["foo=1".into()], ..Default::default() },
        v1::WatchEventsRequest { start: Some(Start::Snapshot(false)), ..Default::default() },
    ] {
        let status = clients.events.watch_events(bad).await.unwrap_err();
        assert_eq!((status.code(), fields(&status).len()), (Code::InvalidArgument, 1));
    }
}

/// What a filter lets through does not depend on when a watch begins, nor on what became of the VM.
#[tokio::test]
async fn a_filtered_watch_that_was_cut_gets_what_it_would_have_got() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let role = |role: &str| {
        let kind = Some(prost_types::value::Kind::StringValue(role.to_owned()));
        prost_types::Struct { fields: [("role".to_owned(), prost_types::Value { kind })].into() }
    };
    let web = clients.create(v1::VmSpec { tags: Some(role("web")), ..machine() }).await;
    let other = clients.create(machine()).await;
    for uuid in [&web, &other] {
        clients.start(uuid).await.unwrap();
    }
    // It leaves, restarts meanwhile, and comes back.
    for (uuid, now) in [(&web, "db"), (&other, "web"), (&web, "web"), (&other, "db")] {
        let request =
            v1::UpdateVmRequest { uuid: uuid.clone(), set_tags: Some(role(now)), ..Default::default() };
        clients.vms.update_vm(request).await.unwrap();
        clients.stop(uuid, true).await.unwrap();
        clients.start(uuid).await.unwrap();
    }
    for uuid in [&web, &other] {
        clients.delete(uuid).await.unwrap();
    }
    let mut filtered = async |start: Start| {
        let filters = vec!["tags.role=web".to_owned()];
        let request = v1::WatchEventsRequest { start: Some(start), filters, ..Default::default() };
        drain(&mut clients.events.watch_events(request).await.unwrap().into_inner()).await.0
    };
    let uncut = filtered(Start::Beginning(true)).await;
    let deleted = |uuid: &str| {
        uncut
            .iter()
            .any(|event| event.uuid == uuid && matches!(event.kind, Some(v1::event::Kind::Deleted(_))))
    };
    assert!(deleted(&web) && !deleted(&other), "only one of them met the filter at its end");
    let boots = |uuid: &str| {
        uncut
            .iter()
            .filter(|event| event.uuid == uuid && matches!(event.kind, Some(v1::event::Kind::Boot(_))))
            .count()
    };
    assert_eq!(boots(&web), 2 * boots(&other), "its second start was while it was something else");
    let mut clients = agent.clients().await;
    let request = v1::WatchEventsRequest { start: Some(Start::Beginning(true)), ..Default::default() };
    let mut all = clients.events.watch_events(request).await.unwrap().into_inner();
    loop {
        let message = tokio_stream::StreamExt::next(&mut all).await.unwrap().unwrap();
        let Some(v1::watch_events_response::Item::Event(event)) = message.item else { break };
        let rest: Vec<_> = uncut.iter().filter(|other| other.sequence > event.sequence).cloned().collect();
        assert_eq!(filtered(Start::Cursor(message.cursor)).await, rest, "behind {event:?}");
    }
}
