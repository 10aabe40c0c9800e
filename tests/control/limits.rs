//! What bounds a VM reaches its zone, and is told.

use tonic::Code;
use zoneward::{internals::zone::Ended, proto::v1};

use super::support::{fields, machine, metadata, reason, simulated::Simulated};

#[tokio::test]
async fn each_limit_reaches_the_zone() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let spec = v1::VmSpec {
        ram: Some(512),
        cpu_cap: Some(250),
        cpu_shares: Some(7),
        max_physical_memory: Some(1000),
        max_locked_memory: Some(900),
        max_swap: Some(1100),
        max_lwps: Some(99),
        zfs_io_priority: Some(3),
        ..machine()
    };
    let uuid = clients.create(spec).await;
    assert!(clients.get(&uuid).await.unwrap().status.unwrap().limits.is_empty(), "nothing runs yet");
    clients.start(&uuid).await.unwrap();
    let bounds = agent.process(&uuid).bounds();
    assert_eq!((bounds.cpu_cap, bounds.cpu_shares, bounds.threads), (Some(250), 7, 99));
    assert_eq!((bounds.memory, bounds.locked), (1000 << 20, 900 << 20));
    assert_eq!((bounds.memory_and_swap, bounds.io_priority), (1100 << 20, 3));

    let limits = clients.get(&uuid).await.unwrap().status.unwrap().limits;
    let told: Vec<(&str, &str)> =
        limits.iter().map(|l| (l.property.as_str(), l.mechanism.as_str())).collect();
    assert_eq!(
        told,
        [
            ("cpu_cap", "simulated=250"),
            ("cpu_shares", "simulated=7"),
            ("max_physical_memory", "simulated=1000"),
            ("max_swap", "simulated=1100"),
            ("max_lwps", "simulated=99"),
            ("zfs_io_priority", "simulated=3"),
        ]
    );
    assert!(limits.iter().all(|limit| limit.effective && limit.reason.is_empty()));
    let host = clients.host.get_host(v1::GetHostRequest {}).await.unwrap().into_inner();
    assert_eq!(host.limits.len(), 6);
    clients.stop(&uuid, true).await.unwrap();
    assert!(clients.get(&uuid).await.unwrap().status.unwrap().limits.is_empty());
}

#[tokio::test]
async fn the_limits_limits() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    for (spec, field) in [
        (v1::VmSpec { cpu_cap: Some(-1), ..machine() }, "cpu_cap"),
        (v1::VmSpec { cpu_cap: Some(1_000_001), ..machine() }, "cpu_cap"),
        (v1::VmSpec { cpu_shares: Some(0), ..machine() }, "cpu_shares"),
        (v1::VmSpec { cpu_shares: Some(65536), ..machine() }, "cpu_shares"),
        (v1::VmSpec { max_physical_memory: Some(255), ..machine() }, "max_physical_memory"),
        (v1::VmSpec { max_lwps: Some(0), ..machine() }, "max_lwps"),
        (v1::VmSpec { max_locked_memory: Some(0), ..machine() }, "max_locked_memory"),
        (v1::VmSpec { max_swap: Some(-5), ..machine() }, "max_swap"),
        (v1::VmSpec { zfs_io_priority: Some(10_001), ..machine() }, "zfs_io_priority"),
    ] {
        let request = v1::CreateVmRequest { vm: Some(spec), ..Default::default() };
        let status = clients.vms.create_vm(request).await.unwrap_err();
        assert_eq!(fields(&status), [field], "{status:?}");
    }
    for spec in [
        v1::VmSpec { cpu_cap: Some(0), cpu_shares: Some(1), ..machine() },
        v1::VmSpec { cpu_cap: Some(1_000_000), cpu_shares: Some(65535), ..machine() },
        v1::VmSpec { max_physical_memory: Some(256), max_lwps: Some(1), ..machine() },
        v1::VmSpec { max_locked_memory: Some(1), max_swap: Some(256), ..machine() },
        v1::VmSpec { zfs_io_priority: Some(0), ..machine() },
        v1::VmSpec { zfs_io_priority: Some(10_000), ..machine() },
    ] {
        clients.create(spec).await;
    }
}

#[tokio::test]
async fn out_of_memory_while_no_agent_was_there() {
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    clients.start(&uuid).await.unwrap();
    agent.stop().await;
    agent.process(&uuid).end(Ended::OutOfMemory);
    agent.resume().await;
    let exit = agent.clients().await.get(&uuid).await.unwrap().status.unwrap().exit.unwrap();
    assert_eq!((exit.reason(), exit.status), (v1::ExitReason::OutOfMemory, 137));
    assert!(exit.detail.contains("1280 MiB"), "{exit:?}");
}

/// Each zone has a user of its own, or is not made.
#[tokio::test]
async fn no_two_vms_share_a_user() {
    let agent = Simulated::start_with(|config| config.zone.uid_count = 2).await;
    let mut clients = agent.clients().await;
    let first = clients.create(machine()).await;
    clients.create(machine()).await;
    let request = v1::CreateVmRequest { vm: Some(machine()), ..Default::default() };
    let status = clients.vms.create_vm(request.clone()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "UID_RANGE_EXHAUSTED"));
    assert_eq!(metadata(&status, "users"), "2");
    assert!(status.message().contains("raise zone.uid_count"), "{status:?}");
    assert_eq!(std::fs::read_dir(&agent.config.zones_dir).unwrap().count(), 2, "nothing half-made");
    clients.delete(&first).await.unwrap();
    clients.vms.create_vm(request).await.unwrap();
}
