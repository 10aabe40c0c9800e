//! The power button: pressed once, when the guest can hear it.

use zoneward::{
    internals::hypervisor::{Hearing, MachineEvent, simulated::Faults},
    proto::v1,
};

use super::support::{Clients, eventually, simulated::Simulated};

async fn running(faults: Faults) -> (Simulated, Clients, String) {
    let agent = Simulated::start().await;
    agent.hypervisor.set_faults(faults);
    agent.with_a_guest().await
}

fn presses(agent: &Simulated, uuid: &str) -> usize {
    let done = agent.hypervisor.done(uuid.parse().unwrap());
    done.iter().filter(|what| *what == "power button").count()
}

fn stop(uuid: &str, seconds: i32) -> v1::StopVmRequest {
    v1::StopVmRequest { uuid: uuid.to_owned(), timeout_seconds: Some(seconds), ..Default::default() }
}

/// One that is deaf is not asked before it listens, and then has a moment.
#[tokio::test]
async fn a_guest_in_its_firmware_is_asked_when_it_listens() {
    let (agent, clients, uuid) = running(Faults { hearing: Some(Hearing::Deaf), ..Faults::default() }).await;
    let stopping = tokio::spawn({
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { clients.vms.stop_vm(stop(&uuid, 60)).await }
    });
    eventually("it stops", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { (clients.state(&uuid).await == v1::VmState::Stopping).then_some(()) }
    })
    .await;
    assert_eq!(presses(&agent, &uuid), 0);
    agent.hypervisor.set_faults(Faults { hearing: Some(Hearing::Listens), ..Faults::default() });
    let stopped = stopping.await.unwrap().unwrap().into_inner();
    assert!(stopped.obeyed && presses(&agent, &uuid) == 1);
    let exit = stopped.vm.unwrap().status.unwrap().exit.unwrap();
    assert_eq!(exit.reason(), v1::ExitReason::Operator);
    assert_eq!(exit.detail, "the guest obeyed the power button");
}

/// Whoever joins the stop, and whichever agent goes on with it.
#[tokio::test]
async fn one_that_heard_it_is_not_asked_again() {
    let faults = Faults { deaf: true, ..Faults::default() };
    let (mut agent, clients, uuid) = running(faults).await;
    for seconds in [100, 90, 80] {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        tokio::spawn(async move { clients.vms.stop_vm(stop(&uuid, seconds)).await });
    }
    eventually("it is asked", || {
        let pressed = presses(&agent, &uuid) == 1;
        async move { pressed.then_some(()) }
    })
    .await;
    agent.stop().await;
    agent.resume().await;
    let mut clients = agent.clients().await;
    assert_eq!(clients.state(&uuid).await, v1::VmState::Stopping);
    let stopped = clients.vms.stop_vm(stop(&uuid, 1)).await.unwrap().into_inner();
    assert_eq!(presses(&agent, &uuid), 1);
    assert!(!stopped.obeyed);
    let exit = stopped.vm.unwrap().status.unwrap().exit.unwrap();
    assert_eq!(exit.reason(), v1::ExitReason::PowerCut);
    assert!(exit.detail.contains("did not shut down in time"), "{exit:?}");
}

/// One that was reset in between has not heard anything.
#[tokio::test]
async fn a_guest_that_was_reset_is_asked_again() {
    let (agent, clients, uuid) = running(Faults { deaf: true, ..Faults::default() }).await;
    tokio::spawn({
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { clients.vms.stop_vm(stop(&uuid, 100)).await }
    });
    for asked in 1..=2 {
        eventually("it is asked", || {
            let pressed = presses(&agent, &uuid) == asked;
            async move { pressed.then_some(()) }
        })
        .await;
        agent.hypervisor.tell(uuid.parse().unwrap(), MachineEvent::Reset { guest: true }).await;
    }
}

/// One that never listens is told apart.
#[tokio::test]
async fn a_guest_that_never_listens_loses_its_power() {
    let (agent, mut clients, uuid) =
        running(Faults { hearing: Some(Hearing::Deaf), ..Faults::default() }).await;
    let stopped = clients.vms.stop_vm(stop(&uuid, 1)).await.unwrap().into_inner();
    let exit = stopped.vm.unwrap().status.unwrap().exit.unwrap();
    assert_eq!((exit.reason(), presses(&agent, &uuid)), (v1::ExitReason::PowerCut, 0));
    assert!(exit.detail.contains("was never ready"), "{exit:?}");
}

/// A guest that sleeps is shown so, and woken by a stop and by a resume.
#[tokio::test]
async fn a_guest_that_sleeps_is_woken() {
    let (agent, mut clients, uuid) = running(Faults::default()).await;
    agent.hypervisor.set_faults(Faults { stopped: Some("suspended"), ..Faults::default() });
    agent.hypervisor.tell(uuid.parse().unwrap(), MachineEvent::Stopped).await;
    eventually("it sleeps", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { (clients.state(&uuid).await == v1::VmState::Suspended).then_some(()) }
    })
    .await;
    let resume = v1::ResumeVmRequest { uuid: uuid.clone(), ..Default::default() };
    let vm = clients.vms.resume_vm(resume).await.unwrap().into_inner().vm.unwrap();
    assert_eq!(vm.status.unwrap().state(), v1::VmState::Running);
    let woken =
        || agent.hypervisor.done(uuid.parse().unwrap()).iter().filter(|what| *what == "wakeup").count();
    assert_eq!(woken(), 1);
    // Another agent finds it asleep.
    let mut agent = agent;
    agent.stop().await;
    agent.resume().await;
    let mut clients = agent.clients().await;
    assert_eq!(clients.state(&uuid).await, v1::VmState::Suspended);
    let stopped = clients.vms.stop_vm(stop(&uuid, 30)).await.unwrap().into_inner();
    assert!(stopped.obeyed);
    let done = agent.hypervisor.done(uuid.parse().unwrap());
    assert_eq!(done.iter().filter(|what| *what == "wakeup").count(), 2, "{done:?}");
}
