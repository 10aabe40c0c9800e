//! Many clients, few VMs, random work, and an agent that is killed again and again.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};

use tonic::{Code, Status};
use uuid::Uuid;
use zoneward::proto::v1;

use super::{
    support::{Clients, disk, machine, metadata, real::Real, reason, sha256},
    truth::{check_host, check_journal},
};

const CLIENTS: usize = 8;
const VMS: u128 = 20;

/// How many operations: `SOAK`, which is 1000 for the long run.
fn operations() -> usize {
    std::env::var("SOAK").map_or(300, |text| text.parse().expect("a number"))
}

/// `SOAK_SEED` repeats the work of an earlier run, though not how its clients take turns.
fn seed() -> Uuid {
    std::env::var("SOAK_SEED").map_or_else(|_| Uuid::new_v4(), |text| text.parse().expect("a UUID"))
}

/// One random operation on one random VM; what came of it.
async fn operate(clients: &mut Clients, dice: [u64; 2], request_id: String) -> Result<&'static str, Status> {
    let uuid =
        Uuid::from_u128(0x5057_0000_0000_4000_8000_0000_0000_0000 + u128::from(dice[0]) % VMS).to_string();
    let etag = String::new();
    let content = uuid.as_bytes();
    let vm = |alias: Option<String>| v1::VmSpec { alias, ..Default::default() };
    Ok(match dice[1] % 12 {
        0..=2 => {
            let spec = v1::VmSpec {
                uuid: Some(uuid),
                autoboot: Some(dice[1] % 24 < 12),
                ram: Some(16),
                disks: vec![disk(1)],
                vnc_port: Some(-1),
                ..machine()
            };
            let request = v1::CreateVmRequest { vm: Some(spec), request_id, ..Default::default() };
            clients.vms.create_vm(request).await.map(|_| "create")?
        }
        3 | 4 => {
            let request = v1::StartVmRequest { uuid, etag, request_id, options: None };
            clients.start_with(request).await.map(|_| "start")?
        }
        5 => {
            let request = v1::StopVmRequest { uuid, etag, request_id, force: true, timeout_seconds: None };
            clients.vms.stop_vm(request).await.map(|_| "stop")?
        }
        6 => {
            let request =
                v1::StopVmRequest { uuid, etag, request_id, force: false, timeout_seconds: Some(1) };
            clients.vms.stop_vm(request).await.map(|_| "stop by deadline")?
        }
        7 => {
            let request = v1::RebootVmRequest { uuid, etag, request_id, force: true };
            clients.vms.reboot_vm(request).await.map(|_| "reset")?
        }
        8 => {
            let alias = Some(format!("a{}", dice[1] % 1000));
            let request =
                v1::UpdateVmRequest { uuid, vm: Some(Box::new(vm(alias))), request_id, ..Default::default() };
            clients.vms.update_vm(request).await.map(|_| "update")?
        }
        9 => {
            let request = v1::PauseVmRequest { uuid, request_id, ..Default::default() };
            clients.vms.pause_vm(request).await.map(|_| "pause")?
        }
        10 => {
            let header = v1::PutFileHeader {
                uuid: uuid.clone(),
                path: "/file".into(),
                size: i64::try_from(content.len()).unwrap(),
                sha256: sha256(content),
                overwrite: true,
                request_id,
                ..Default::default()
            };
            clients.put(header, vec![content.to_vec()]).await.map(|_| "upload")?
        }
        _ => {
            let request = v1::DeleteVmRequest { uuid, etag, request_id };
            clients.vms.delete_vm(request).await.map(|_| "delete")?
        }
    })
}

/// Repeats it until an agent has answered.
async fn surely(
    socket: &std::path::Path,
    clients: &mut Clients,
    dice: [u64; 2],
) -> Result<&'static str, Status> {
    let request_id = Uuid::new_v4().to_string();
    loop {
        match operate(clients, dice, request_id.clone()).await {
            // No agent, one that is about to go, or one that went in the middle.
            Err(status) if reason(&status).is_empty() || reason(&status) == "STOPPING" => {
                assert!(
                    matches!(
                        status.code(),
                        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
                    ),
                    "{status:?}"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
                *clients = Clients::new(super::support::connect_unix(socket.to_owned()).await);
            }
            other => return other,
        }
    }
}

fn fds(agent: &Real) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_work_and_random_kills() {
    let mut agent = Real::start().await;
    let fresh = fds(&agent);
    let seed = seed();
    eprintln!("the same again: SOAK={} SOAK_SEED={seed}", operations());
    let dice = TestRng::from_seed(RngAlgorithm::ChaCha, &seed.as_bytes().repeat(2));
    let dice = Arc::new(Mutex::new(dice));
    let total = operations();
    let (begun, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let refusals: Arc<Mutex<std::collections::BTreeMap<String, u32>>> = Arc::default();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (dice, begun, done, refusals) = (dice.clone(), begun.clone(), done.clone(), refusals.clone());
        let socket = agent.socket();
        workers.spawn(async move {
            let mut clients = Clients::new(super::support::connect_unix(socket.clone()).await);
            while begun.fetch_add(1, Ordering::Relaxed) < total {
                let throw = {
                    let mut dice = dice.lock().unwrap();
                    [dice.next_u64(), dice.next_u64()]
                };
                let outcome = match surely(&socket, &mut clients, throw).await {
                    Ok(what) => what.to_owned(),
                    Err(status) => {
                        // Each refusal is one that a caller can act on.
                        let why = reason(&status);
                        let known = [
                            "VM_STATE",
                            "VM_NOT_FOUND",
                            "VM_EXISTS",
                            "QUEUE_FULL",
                            "UPLOAD_BUSY",
                            "BOOT_FAILED",
                            "HYPERVISOR",
                            "FILE_NOT_FOUND",
                        ];
                        assert!(known.contains(&why.as_str()), "{status:?} {}", metadata(&status, "reason"));
                        why
                    }
                };
                *refusals.lock().unwrap().entry(outcome).or_default() += 1;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let (began, mut kills) = (Instant::now(), 0);
    let mut progress = (0, Instant::now());
    while done.load(Ordering::Relaxed) < total {
        let wait = 200 + dice.lock().unwrap().next_u64() % 1300;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        if workers.try_join_next().is_some_and(|ended| ended.is_err()) {
            panic!("a client failed");
        }
        let now = done.load(Ordering::Relaxed);
        if now > progress.0 {
            progress = (now, Instant::now());
        }
        assert!(progress.1.elapsed() < super::support::GUEST, "stuck at {now} of {total}");
        if now < total {
            agent.kill();
            kills += 1;
            agent.resume().await;
        }
    }
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
    eprintln!("{total} operations, {kills} kills in {:.0?}: {:?}", began.elapsed(), refusals.lock().unwrap());

    // Stops that the last agent is still at end by themselves.
    let mut clients = agent.clients().await;
    super::support::eventually("all is quiet", || {
        let mut clients = clients.clone();
        async move {
            let vms = clients.vms.list_vms(v1::ListVmsRequest::default()).await.unwrap().into_inner().vms;
            let quiet = [v1::VmState::Stopped, v1::VmState::Running, v1::VmState::Paused];
            vms.iter().all(|vm| quiet.contains(&vm.status.as_ref().unwrap().state())).then_some(())
        }
    })
    .await;
    check_host("after the soak", &agent, &mut clients).await;
    check_journal("after the soak", &mut clients).await;
    for vm in clients.vms.list_vms(v1::ListVmsRequest::default()).await.unwrap().into_inner().vms {
        clients.delete(&vm.uuid).await.unwrap();
    }
    assert!(check_host("in the end", &agent, &mut clients).await.is_empty());
    drop(clients);
    super::support::eventually("as many descriptors as a fresh agent has", || {
        // A few for connections that are on their way out.
        let few = fds(&agent) <= fresh + 4;
        async move { few.then_some(()) }
    })
    .await;
}
