//! VMs that start with their host.

use zoneward::{internals::zone::Ended, proto::v1};

use super::support::{Clients, eventually, machine, simulated::Simulated};

fn autoboot() -> v1::VmSpec {
    v1::VmSpec { autoboot: Some(true), ..machine() }
}

/// The host is restarted: every process is gone, and it is another boot.
async fn restart_host(agent: &mut Simulated, name: &str, uuids: &[&str]) {
    agent.stop().await;
    for uuid in uuids {
        agent.process(uuid).end(Ended::Signal(9));
    }
    agent.host_boot = name.to_owned();
    agent.resume().await;
}

async fn until_running(clients: &Clients, uuid: &str) {
    eventually("it runs", || {
        let (mut clients, uuid) = (clients.clone(), uuid.to_owned());
        async move { (clients.state(&uuid).await == v1::VmState::Running).then_some(()) }
    })
    .await;
}

/// Which VMs went to a state since an event, in order.
async fn went_to(clients: &mut Clients, since: usize, state: v1::VmState) -> Vec<String> {
    let journal = clients.journal().await;
    let of = |event: &v1::Event| match &event.kind {
        Some(v1::event::Kind::Modified(modified)) => {
            let vm = modified.vm.as_ref()?;
            let changed = modified.changes.iter().any(|change| change.path == "state");
            (changed && vm.status.as_ref()?.state() == state).then(|| vm.uuid.clone())
        }
        _ => None,
    };
    journal[since..].iter().filter_map(of).collect()
}

#[tokio::test]
async fn once_for_each_start_of_the_host_the_oldest_first() {
    let mut agent = Simulated::start_with(|config| config.autoboot_parallel = 1).await;
    let mut clients = agent.clients().await;
    let mut uuids = Vec::new();
    for _ in 0..4 {
        uuids.push(clients.create(autoboot()).await);
    }
    let stopped = clients.create(autoboot()).await;
    clients.stop(&stopped, true).await.unwrap();
    let before = clients.journal().await.len();

    restart_host(&mut agent, "second", &uuids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut clients = agent.clients().await;
    for uuid in &uuids {
        until_running(&clients, uuid).await;
        // What it was that ended the last run is told before.
        assert!(clients.get(uuid).await.unwrap().status.unwrap().exit.is_none());
    }
    assert_eq!(clients.state(&stopped).await, v1::VmState::Stopped, "an operator's stop holds");
    assert_eq!(went_to(&mut clients, before, v1::VmState::Starting).await, uuids);
    // One at a time.
    assert_eq!(went_to(&mut clients, before, v1::VmState::Running).await, uuids);
    let told = clients.journal().await.into_iter().any(|event| match event.kind {
        Some(v1::event::Kind::Modified(modified)) => {
            let exit = modified.vm.unwrap().status.unwrap().exit;
            exit.is_some_and(|exit| exit.detail == "the host was restarted while the VM ran")
        }
        _ => false,
    });
    assert!(told);

    // The guest powers itself off; an agent that is restarted leaves it so.
    agent.stop().await;
    agent.process(&uuids[0]).end(Ended::Code(0));
    agent.resume().await;
    let mut clients = agent.clients().await;
    assert_eq!(clients.state(&uuids[0]).await, v1::VmState::Stopped);
    let after = clients.journal().await.len();
    restart_host(&mut agent, "third", &[&uuids[1], &uuids[2], &uuids[3]]).await;
    let mut clients = agent.clients().await;
    for uuid in &uuids {
        until_running(&clients, uuid).await;
    }
    assert_eq!(went_to(&mut clients, after, v1::VmState::Starting).await, uuids);
}

/// Autoboot is about the next start of the host, not of the agent.
#[tokio::test]
async fn not_with_the_agent() {
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    for name in ["first", "second"] {
        // Both when the VM was made in this boot, and when it was passed over in it.
        restart_host(&mut agent, name, &[]).await;
        let mut clients = agent.clients().await;
        let vm = Some(Box::new(v1::VmSpec { autoboot: Some(true), ..Default::default() }));
        let request = v1::UpdateVmRequest { uuid: uuid.clone(), vm, ..Default::default() };
        clients.vms.update_vm(request).await.unwrap();
        restart_host(&mut agent, name, &[]).await;
        let mut clients = agent.clients().await;
        assert_eq!(clients.state(&uuid).await, v1::VmState::Stopped);
        let vm = Some(Box::new(v1::VmSpec { autoboot: Some(false), ..Default::default() }));
        let request = v1::UpdateVmRequest { uuid: uuid.clone(), vm, ..Default::default() };
        clients.vms.update_vm(request).await.unwrap();
    }
}

#[tokio::test]
async fn one_that_fails_holds_nobody_up_and_is_not_tried_again() {
    let mut agent = Simulated::start_with(|config| config.autoboot_parallel = 1).await;
    let mut clients = agent.clients().await;
    let (bad, good) = (clients.create(autoboot()).await, clients.create(autoboot()).await);
    let root = agent.zonepath(&bad).join("root");
    std::fs::rename(&root, root.with_extension("away")).unwrap();
    let before = clients.journal().await.len();
    restart_host(&mut agent, "second", &[&bad, &good]).await;
    until_running(&agent.clients().await, &good).await;
    agent.stop().await;
    agent.resume().await;
    let mut clients = agent.clients().await;
    assert_eq!(clients.state(&bad).await, v1::VmState::Stopped);
    assert_eq!(went_to(&mut clients, before, v1::VmState::Starting).await, [bad, good]);
}

/// An agent that goes away in the middle leaves the rest to the next.
#[tokio::test]
async fn what_was_cut_goes_on() {
    let mut agent = Simulated::start_with(|config| config.autoboot_parallel = 1).await;
    let mut clients = agent.clients().await;
    let mut uuids = Vec::new();
    for _ in 0..8 {
        uuids.push(clients.create(autoboot()).await);
    }
    let before = clients.journal().await.len();
    restart_host(&mut agent, "second", &uuids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    agent.stop().await;
    agent.resume().await;
    let mut clients = agent.clients().await;
    for uuid in &uuids {
        until_running(&clients, uuid).await;
    }
    let started = went_to(&mut clients, before, v1::VmState::Starting).await;
    assert_eq!(started, uuids, "each once");
}

#[tokio::test]
async fn none_when_it_is_turned_off() {
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(autoboot()).await;
    agent.config.autoboot_parallel = 0;
    restart_host(&mut agent, "second", &[&uuid]).await;
    agent.config.autoboot_parallel = 4;
    agent.stop().await;
    agent.resume().await;
    assert_eq!(agent.clients().await.state(&uuid).await, v1::VmState::Stopped);
}
