//! The host goes down.

use tonic::Code;
use zoneward::{
    internals::{hypervisor::simulated::Faults, zone::Ended},
    proto::v1,
};

use super::support::{Clients, eventually, machine, reason, simulated::Simulated};

async fn drain(clients: &mut Clients, timeout_seconds: i32) -> Vec<v1::DrainHostResponse> {
    let request = v1::DrainHostRequest { timeout_seconds, end: false };
    let mut stream = clients.host.drain_host(request).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(vm) = stream.message().await.unwrap() {
        told.push(vm);
    }
    told
}

/// The host stays.
async fn end(clients: &mut Clients) {
    let request = v1::DrainHostRequest { timeout_seconds: 0, end: true };
    let mut stream = clients.host.drain_host(request).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap(), None);
}

fn named(alias: &str) -> v1::VmSpec {
    v1::VmSpec { autoboot: Some(true), alias: Some(alias.to_owned()), ..machine() }
}

#[tokio::test]
async fn guests_are_powered_off_and_start_with_the_host() {
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let running = [clients.create(named("a")).await, clients.create(named("b")).await];
    let paused = clients.create(named("c")).await;
    clients.vms.pause_vm(v1::PauseVmRequest { uuid: paused.clone(), ..Default::default() }).await.unwrap();
    let stopped = clients.create(machine()).await;

    let told = drain(&mut clients, 30).await;
    let mut names: Vec<_> = told.iter().map(|vm| vm.alias.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "c"]);
    assert!(told.iter().all(|vm| vm.reason.is_empty()), "{told:?}");
    assert_eq!(told.iter().map(|vm| vm.left).collect::<Vec<_>>(), [2, 1, 0]);
    for uuid in running.iter().chain([&paused]) {
        let vm = clients.get(uuid).await.unwrap();
        assert_eq!(vm.spec.unwrap().autoboot, Some(true), "as it was");
        let exit = vm.status.unwrap().exit.unwrap();
        assert_eq!(exit.reason(), v1::ExitReason::HostShutdown);
    }
    // Nothing more is started, by whatever way.
    let status = clients.start(&stopped).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "HOST_DRAINING"));
    let request = v1::CreateVmRequest { vm: Some(named("d")), ..Default::default() };
    assert_eq!(reason(&clients.vms.create_vm(request).await.unwrap_err()), "HOST_DRAINING");
    assert_eq!(drain(&mut clients, 30).await, [], "and again is fine");

    // An agent that is restarted in the same boot starts nothing, until it is told that the host stays.
    agent.stop().await;
    agent.resume().await;
    let mut clients = agent.clients().await;
    assert_eq!(clients.state(&running[0]).await, v1::VmState::Stopped);
    assert_eq!(reason(&clients.start(&stopped).await.unwrap_err()), "HOST_DRAINING");
    end(&mut clients).await;
    clients.start(&stopped).await.unwrap();
    clients.stop(&stopped, true).await.unwrap();
    agent.stop().await;
    agent.host_boot = "second".to_owned();
    agent.resume().await;
    let clients = agent.clients().await;
    for uuid in running.iter().chain([&paused]) {
        eventually("it starts with the host", || {
            let (mut clients, uuid) = (clients.clone(), uuid.clone());
            async move { (clients.state(&uuid).await == v1::VmState::Running).then_some(()) }
        })
        .await;
    }
}

/// A guest that does not hear the button holds up nobody, and the caller may leave.
#[tokio::test]
async fn each_guest_has_its_own_deadline_and_an_agent_that_is_killed_leaves_the_rest_to_the_next() {
    let mut agent = Simulated::start().await;
    agent.hypervisor.set_faults(Faults { deaf: true, ..Faults::default() });
    let mut clients = agent.clients().await;
    let uuid = clients.create(named("deaf")).await;
    let request = v1::DrainHostRequest { timeout_seconds: 3600, end: false };
    drop(clients.host.drain_host(request).await.unwrap());
    eventually("it stops", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { (clients.state(&uuid).await == v1::VmState::Stopping).then_some(()) }
    })
    .await;
    agent.stop().await;
    agent.process(&uuid).end(Ended::Signal(9));
    agent.resume().await;
    let mut clients = agent.clients().await;
    let vm = clients.get(&uuid).await.unwrap();
    assert_eq!(vm.spec.unwrap().autoboot, Some(true));
    assert_eq!(vm.status.unwrap().exit.unwrap().reason(), v1::ExitReason::HostShutdown);

    end(&mut clients).await;
    clients.start(&uuid).await.unwrap();
    let told = drain(&mut clients, 1).await;
    assert_eq!((told.len(), told[0].reason.as_str()), (1, ""), "its power is cut");
    assert!(!agent.process(&uuid).is_alive());
    let request = v1::DrainHostRequest { timeout_seconds: -1, end: false };
    assert_eq!(clients.host.drain_host(request).await.unwrap_err().code(), Code::InvalidArgument);
}
