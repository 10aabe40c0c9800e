//! Who did what: no act of an operator is without its name in the journal.

use tokio_stream::wrappers::ReceiverStream;
use zoneward::{internals::auth::Role, proto::v1};

use super::{
    auth::door,
    support::{Clients, connect_unix, eventually, simulated::Simulated},
};

const ACTOR: &str = "unix:uid=0";

/// The calls in the journal: rpc, detail, actor and request id.
async fn calls(clients: &mut Clients) -> Vec<(String, String, String, String)> {
    let events = clients.journal().await;
    let calls = events.into_iter().filter_map(|event| match event.kind {
        Some(v1::event::Kind::Call(call)) => Some((call.rpc, call.detail, event.actor, event.request_id)),
        _ => None,
    });
    calls.collect()
}

fn id(n: u32) -> String {
    format!("7d444840-9dc0-11d1-b245-5ffdce74fa{n:02}")
}

#[tokio::test]
async fn what_changes_no_machine_is_told_with_its_caller() {
    let (agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
    let sysrq = |kind: v1::send_sysrq_request::Type, n| v1::SendSysrqRequest {
        uuid: uuid.clone(),
        r#type: kind.into(),
        request_id: id(n),
        etag: String::new(),
    };
    clients.vms.send_sysrq(sysrq(v1::send_sysrq_request::Type::Nmi, 1)).await.unwrap();
    // The simulated picture is none, which is found out behind the word.
    let _ = clients.vms.send_sysrq(sysrq(v1::send_sysrq_request::Type::Screenshot, 2)).await;
    let _ = clients.vms.take_screenshot(v1::TakeScreenshotRequest { uuid: uuid.clone() }).await;
    let reset =
        v1::RebootVmRequest { uuid: uuid.clone(), force: true, request_id: id(3), etag: String::new() };
    clients.vms.reboot_vm(reset).await.unwrap();
    use v1::attach_request::Item;
    let items = [
        Item::Attach(v1::AttachStart { uuid: uuid.clone(), ..Default::default() }),
        Item::Input(b"x".to_vec().into()),
    ];
    let items = items.map(|item| v1::AttachRequest { item: Some(item) });
    let (sender, stream) = tokio::sync::mpsc::channel(4);
    for item in items {
        sender.send(item).await.unwrap();
    }
    let attached = clients.consoles.attach(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let expected = [
        ("SendSysrq", "nmi", 1),
        ("SendSysrq", "screenshot", 2),
        ("TakeScreenshot", "", 0),
        ("RebootVm", "force", 3),
        ("Attach", "types", 0),
    ];
    let expected = expected.map(|(rpc, detail, n)| {
        let id = if n == 0 { String::new() } else { id(n) };
        (rpc.to_owned(), detail.to_owned(), ACTOR.to_owned(), id)
    });
    eventually("all are told", || {
        let (mut clients, expected) = (clients.clone(), expected.clone());
        async move { (calls(&mut clients).await == expected).then_some(()) }
    })
    .await;
    drop((attached, sender));
    // The end of the guest's run that a reset is, is the caller's too.
    let events = clients.journal().await;
    let is_reset = |event: &v1::Event| match &event.kind {
        Some(v1::event::Kind::Modified(change)) => {
            change.vm.as_ref().unwrap().status.as_ref().unwrap().resets == Some(1)
        }
        _ => false,
    };
    let reset = events.into_iter().find(is_reset).unwrap();
    assert_eq!((reset.actor.as_str(), reset.request_id), (ACTOR, id(3)));
    drop(agent);
}

#[tokio::test]
async fn who_kills_a_hypervisor_is_its_end() {
    let (_agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
    let kill = v1::KillVmRequest {
        uuid: uuid.clone(),
        signal: "KILL".into(),
        request_id: id(4),
        etag: String::new(),
    };
    clients.vms.kill_vm(kill).await.unwrap();
    eventually("stopped", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { (clients.state(&uuid).await == v1::VmState::Stopped).then_some(()) }
    })
    .await;
    let exit = clients.get(&uuid).await.unwrap().status.unwrap().exit.unwrap();
    assert_eq!(exit.reason(), v1::ExitReason::Operator);
    assert!(exit.detail.contains("signal 9") && exit.detail.contains(ACTOR), "{exit:?}");
    assert_eq!(calls(&mut clients).await, [("KillVm".into(), "SIGKILL".into(), ACTOR.into(), id(4))]);
    let last = clients.journal().await.pop().unwrap();
    assert_eq!((last.actor.as_str(), last.request_id), (ACTOR, id(4)), "{:?}", last.kind);
    // The next run is another's.
    clients.start(&uuid).await.unwrap();
    clients.stop(&uuid, true).await.unwrap();
    let exit = clients.get(&uuid).await.unwrap().status.unwrap().exit.unwrap();
    assert_eq!(exit.detail, "the power was cut, as requested");
}

#[tokio::test]
async fn refused_calls_and_drains_are_told() {
    let door = door().await;
    door.pki.issue(Role::Viewer, "curious", 30).unwrap();
    let mut viewer = door.clients("curious").await.unwrap();
    let mut root = Clients::new(connect_unix(door.unix.clone()).await);
    for _ in 0..20 {
        viewer.vms.create_vm(v1::CreateVmRequest::default()).await.unwrap_err();
    }
    let refused = eventually("it is told", || {
        let mut root = root.clone();
        async move {
            let events = root.journal().await;
            let of =
                |event: &v1::Event| matches!(&event.kind, Some(v1::event::Kind::Call(call)) if call.refused);
            Some(events.into_iter().filter(of).collect::<Vec<_>>()).filter(|events| !events.is_empty())
        }
    })
    .await;
    assert_eq!(refused.len(), 1, "once in a while");
    assert_eq!(refused[0].actor, "spiffe://zoneward/viewer/curious");
    assert_eq!(refused[0].uuid, "", "it is about no VM");
    let drain = v1::DrainHostRequest { timeout_seconds: 5, end: false };
    root.host.drain_host(drain).await.unwrap();
    let told = calls(&mut root).await.pop().unwrap();
    assert_eq!(told, ("DrainHost".into(), "timeout 5 s".into(), ACTOR.into(), String::new()));
}
