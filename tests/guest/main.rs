//! The agent as a process of its own, with real QEMU under TCG and a real guest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that can't go on panics")]

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod bhyve;
mod browser;
mod changes;
mod console;
mod crash_points;
mod cycles;
mod debian;
mod exits;
mod failure;
mod foreign;
mod full_disk;
mod hostile;
mod image_crash_points;
mod images;
mod install;
mod journey;
mod life;
mod limits;
mod links;
mod machine_types;
mod metadata;
mod phases;
mod probe;
mod protections;
mod readers;
mod remote;
mod serve;
mod soak;
mod sources;
mod starvation;
mod stop;
mod survival;
mod systemd;
mod truth;
mod vmadm_clients;
mod watchers;
mod zone;

/// Waits until the VM is stopped; how it ended.
async fn guest_exit(clients: &support::Clients, uuid: &str) -> zoneward::proto::v1::ExitInfo {
    support::eventually("stopped", || {
        let (mut clients, uuid) = (clients.clone(), uuid.to_owned());
        async move {
            let status = clients.get(&uuid).await.unwrap().status.unwrap();
            (status.state() == zoneward::proto::v1::VmState::Stopped).then(|| status.exit.unwrap())
        }
    })
    .await
}
