//! Many connections, many calls and costly filters of one caller: everybody else is served.

use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tonic::Code;
use zoneward::{internals::auth::Role, proto::v1};

use super::{
    auth::door,
    support::{Clients, connect_unix, reason, simulated::Simulated},
};

/// One viewer takes as many connections as it gets, and keeps them.
#[tokio::test]
async fn a_crowd_of_one_viewer_shuts_nobody_out() {
    let door = door().await;
    for name in ["crowd", "other"] {
        door.pki.issue(Role::Viewer, name, 30).unwrap();
    }
    let (mut held, mut refused) = (Vec::new(), 0);
    for _ in 0..150 {
        match door.clients("crowd").await {
            Ok(mut clients) => match clients.host.get_host(v1::GetHostRequest {}).await {
                Ok(_) => held.push(clients),
                Err(_) => refused += 1,
            },
            Err(_) => refused += 1,
        }
    }
    assert!(!held.is_empty() && refused > 0, "{} held, {refused} refused", held.len());
    for name in ["other", "admin"] {
        let mut clients = door.clients(name).await.unwrap();
        clients.host.get_host(v1::GetHostRequest {}).await.unwrap();
    }
    let mut root = Clients::new(connect_unix(door.unix.clone()).await);
    root.host.get_host(v1::GetHostRequest {}).await.unwrap();
    // Whom it has it keeps.
    held[0].host.get_host(v1::GetHostRequest {}).await.unwrap();
}

/// Connections that say nothing make room for those that do.
#[tokio::test]
async fn silent_connections_shut_nobody_out() {
    let door = door().await;
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(door.address).await.unwrap());
    }
    let mut admin = door.clients("admin").await.unwrap();
    admin.host.get_host(v1::GetHostRequest {}).await.unwrap();
    let mut root = Clients::new(connect_unix(door.unix.clone()).await);
    root.host.get_host(v1::GetHostRequest {}).await.unwrap();
    // The oldest was sent away: it reads an end.
    assert!(matches!(silent[0].read(&mut [0]).await, Ok(0) | Err(_)));
}

/// The next call of a connection that has too many is answered, and says so.
#[tokio::test]
async fn too_many_calls_of_one_connection_are_refused_by_name() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let mut held = Vec::new();
    let refused = loop {
        match clients.events.watch_events(v1::WatchEventsRequest::default()).await {
            Ok(stream) => held.push(stream),
            Err(status) => break status,
        }
        assert!(held.len() < 2000, "no limit");
    };
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "TOO_MANY_CALLS"));
    assert!(held.len() > 1000, "{} are enough for nobody", held.len());
    let mut other = agent.clients().await;
    other.host.get_host(v1::GetHostRequest {}).await.unwrap();
    held.pop();
    super::support::eventually("its place is free", || {
        let mut clients = clients.clone();
        async move { clients.host.get_host(v1::GetHostRequest {}).await.ok() }
    })
    .await;
}

/// A caller has a budget for regular expressions.
#[tokio::test]
async fn costly_filters_have_a_budget() {
    let agent = Simulated::start().await;
    let clients = agent.clients().await;
    let watch = |filters: Vec<String>| {
        let mut clients = clients.clone();
        let request = v1::WatchEventsRequest { filters, ..Default::default() };
        async move { clients.events.watch_events(request).await }
    };
    let plain = |count: usize| vec![r"alias=~^a.*$".to_owned(); count];
    let many = watch(plain(9)).await.unwrap_err();
    assert_eq!(many.code(), Code::InvalidArgument, "{many:?}");
    let large = watch(vec![format!(r"alias=~{}", r"\w{20}".repeat(20))]).await.unwrap_err();
    assert_eq!(large.code(), Code::InvalidArgument, "{large:?}");
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(watch(plain(8)).await.unwrap());
    }
    let over = watch(plain(1)).await.unwrap_err();
    assert_eq!((over.code(), reason(&over).as_str()), (Code::ResourceExhausted, "TOO_MANY_EXPRESSIONS"));
    held.push(watch(Vec::new()).await.unwrap());
    held.remove(0);
    super::support::eventually("the budget is given back", || async { watch(plain(1)).await.ok() }).await;
}
