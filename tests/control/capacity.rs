//! What VMs may have of their host together.

use tonic::Code;
use zoneward::proto::v1;

use super::support::{Clients, disk, machine, metadata, reason, simulated::Simulated};

/// A host whose VMs may have that many MiB of memory and disk, and that many processors.
async fn host(ram: u64, vcpus: u64, disk: u64) -> Simulated {
    let probe = Simulated::start().await;
    let mut clients = probe.clients().await;
    let capacity = look(&mut clients).await;
    let factor = |index: usize, wanted: u64| {
        let total: i64 = capacity[index].total;
        // Half of one more, so that rounding does not matter.
        (wanted as f64 + 0.5) / total as f64
    };
    let factors = (factor(0, ram), factor(1, vcpus), factor(2, disk));
    Simulated::start_with(|config| {
        config.capacity.host_ram_mib = 0;
        let capacity = &mut config.capacity;
        (capacity.ram_overcommit, capacity.vcpu_overcommit, capacity.disk_overcommit) = factors;
    })
    .await
}

async fn look(clients: &mut Clients) -> Vec<v1::Capacity> {
    clients.host.get_host(v1::GetHostRequest {}).await.unwrap().into_inner().capacity
}

fn sized(ram: i32, vcpus: i32, mib: i32) -> v1::VmSpec {
    v1::VmSpec { ram: Some(ram), vcpus: Some(vcpus), disks: vec![disk(mib)], ..machine() }
}

async fn refused(clients: &mut Clients, vm: v1::VmSpec, validate_only: bool) -> [String; 4] {
    let request = v1::CreateVmRequest { vm: Some(vm), validate_only, ..Default::default() };
    let status = clients.vms.create_vm(request).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "CAPACITY"),
        "{status:?}"
    );
    ["resource", "wanted", "left", "limit"].map(|key| metadata(&status, key))
}

#[tokio::test]
async fn each_resource_up_to_its_limit_and_not_beyond() {
    let agent = host(2000, 8, 5000).await;
    let mut clients = agent.clients().await;
    let first = clients.create(sized(1500, 2, 1000)).await;
    for validate_only in [true, false] {
        let over = [
            (sized(501, 1, 10), ["ram", "501", "500", "2000"]),
            (sized(400, 7, 10), ["vcpus", "7", "6", "8"]),
            (sized(400, 1, 4001), ["disk", "4001", "4000", "5000"]),
        ];
        for (vm, wanted) in over {
            assert_eq!(refused(&mut clients, vm, validate_only).await, wanted);
        }
    }
    let zones = std::fs::read_dir(&agent.config.zones_dir).unwrap().count();
    assert_eq!(zones, 1, "nothing was made");
    clients.create(sized(500, 6, 4000)).await;
    let full = look(&mut clients).await;
    let numbers: Vec<_> =
        full.iter().map(|found| (found.resource.as_str(), found.limit, found.promised)).collect();
    assert_eq!(numbers, [("ram", Some(2000), 2000), ("vcpus", Some(8), 8), ("disk", Some(5000), 5000)]);

    // A VM may shrink and grow within what there is; what another gives back is free at once.
    let vm = |ram| Some(Box::new(v1::VmSpec { ram: Some(ram), ..Default::default() }));
    let update =
        |uuid: &String, ram| v1::UpdateVmRequest { uuid: uuid.clone(), vm: vm(ram), ..Default::default() };
    let status = clients.vms.update_vm(update(&first, 1501)).await.unwrap_err();
    assert_eq!(reason(&status), "CAPACITY");
    clients.vms.update_vm(update(&first, 1400)).await.unwrap();
    clients.vms.update_vm(update(&first, 1500)).await.unwrap();
    clients.delete(&first).await.unwrap();
    clients.create(sized(1500, 2, 1000)).await;
}

/// Eight at once for room for three: three.
#[tokio::test]
async fn nobody_gets_what_another_has_just_got() {
    let agent = host(3000, 100, 100_000).await;
    let clients = agent.clients().await;
    let mut creations = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut clients = clients.clone();
        let request = v1::CreateVmRequest { vm: Some(sized(1000, 1, 1)), ..Default::default() };
        creations.spawn(async move { clients.vms.create_vm(request).await.is_ok() });
    }
    assert_eq!(creations.join_all().await.into_iter().filter(|made| *made).count(), 3);
}

/// What exists is never refused, whatever the configuration says now.
#[tokio::test]
async fn a_lower_limit_takes_nothing_away() {
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(sized(2000, 2, 10)).await;
    agent.stop().await;
    agent.config.capacity.ram_overcommit = 1e-6;
    agent.resume().await;
    let mut clients = agent.clients().await;
    clients.start(&uuid).await.unwrap();
    let request = v1::UpdateVmRequest {
        uuid: uuid.clone(),
        vm: Some(Box::new(v1::VmSpec { alias: Some("a".into()), ..Default::default() })),
        ..Default::default()
    };
    clients.vms.update_vm(request).await.unwrap();
    assert_eq!(refused(&mut clients, sized(64, 1, 1), false).await[0], "ram");
    let found = &look(&mut clients).await[0];
    assert_eq!((found.promised, found.limit), (2000, Some(0)));
}
