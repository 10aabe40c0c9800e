//! A new agent on an old host.

use std::path::Path;

use tonic::Code;
use zoneward::{
    internals::{
        hypervisor::{MachineEvent, simulated::Faults},
        model::{StopCause, StopPlan, Timestamp, VmRecord, WaitingCall},
        store::{Commit, Store, VmChange},
        zone::Ended,
    },
    proto::v1,
    spec::VmState,
};

use super::support::{Clients, disk, eventually, ignored::ignore, machine, reason, simulated::Simulated};

async fn restarted(between: impl AsyncFnOnce(&Simulated, &str)) -> (Simulated, String) {
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    clients.start(&uuid).await.unwrap();
    agent.stop().await;
    between(&agent, &uuid).await;
    agent.resume().await;
    (agent, uuid)
}

/// Rewrites a record as an agent that was killed would have left it.
/// `chattr`: what root can't remove either.
fn immutable(how: &str, file: &Path) -> bool {
    std::process::Command::new("chattr").arg(how).arg(file).status().is_ok_and(|status| status.success())
}

async fn left_as(agent: &Simulated, uuid: &str, state: VmState) {
    left(agent, uuid, |vm| vm.state = state).await;
}

async fn left(agent: &Simulated, uuid: &str, edit: impl FnOnce(&mut VmRecord)) {
    let path = agent.config.state_dir.join("state.db");
    let reader = zoneward::internals::store::Reader::open(&path).unwrap();
    let mut record = reader.vms().unwrap().into_iter().find(|vm| vm.uuid.to_string() == uuid).unwrap();
    edit(&mut record);
    let store = Store::open(&path, zoneward::internals::store::Keep::default(), |_| ()).unwrap();
    let vm = Some(VmChange::Put(Box::new(record)));
    store.commit(Commit { vm, ..Commit::default() }).await.unwrap();
}

#[tokio::test]
async fn a_running_vm_stays_running() {
    let (agent, uuid) = restarted(async |_, _| ()).await;
    let mut clients = agent.clients().await;
    let vm = clients.get(&uuid).await.unwrap().status.unwrap();
    assert_eq!(vm.state(), v1::VmState::Running);
    assert!(agent.process(&uuid).is_alive());
    clients.stop(&uuid, false).await.unwrap();
    assert!(!agent.process(&uuid).is_alive());
}

#[tokio::test]
async fn one_that_ended_meanwhile_is_stopped_for_the_reason_that_it_left_behind() {
    use v1::ExitReason as Reason;
    for (ended, words, reason) in [
        (Ended::Unseen, "", Reason::Unknown),
        (Ended::Unseen, "said: guest-shutdown", Reason::GuestShutdown),
        (Ended::Unseen, "said: reset\nsaid: panic", Reason::GuestPanic),
        (Ended::Unseen, "said: host-signal", Reason::Signal),
        (Ended::OutOfMemory, "said: guest-shutdown", Reason::OutOfMemory),
        (Ended::Signal(9), "", Reason::Signal),
        (Ended::Code(1), "it burns", Reason::HypervisorError),
    ] {
        let (agent, uuid) = restarted(async |agent, uuid| {
            std::fs::write(agent.config.run_dir.join(uuid).join("hypervisor.log"), words).unwrap();
            agent.process(uuid).end(ended);
        })
        .await;
        let mut clients = agent.clients().await;
        let status = clients.get(&uuid).await.unwrap().status.unwrap();
        assert_eq!(status.state(), v1::VmState::Stopped);
        let exit = status.exit.unwrap();
        assert_eq!(exit.reason(), reason, "{ended:?} {words}");
        assert_eq!(exit.detail.contains("it burns"), words == "it burns", "{exit:?}");
        clients.start(&uuid).await.unwrap();
    }
}

/// A guest that resets itself runs on; each time is counted, whether an agent was there or not.
#[tokio::test]
async fn resets_are_counted_and_do_not_fill_the_journal() {
    let (agent, uuid) = restarted(async |agent, uuid| {
        let words = "said: reset\nsaid: reset\n";
        std::fs::write(agent.config.run_dir.join(uuid).join("hypervisor.log"), words).unwrap();
    })
    .await;
    let mut clients = agent.clients().await;
    let status = clients.get(&uuid).await.unwrap().status.unwrap();
    assert_eq!((status.state(), status.resets), (v1::VmState::Running, Some(1)), "the second is an echo");
    assert_eq!(status.exit.as_ref().unwrap().reason(), v1::ExitReason::GuestReset);
    let events = clients.journal().await.len();
    eventually("a reset that is no echo", || {
        let time = status.exit.as_ref().unwrap().time.unwrap();
        let age =
            jiff::Timestamp::now().duration_since(jiff::Timestamp::new(time.seconds, time.nanos).unwrap());
        async move { (age.as_millis() > 1000).then_some(()) }
    })
    .await;
    for _ in 0..100 {
        agent.hypervisor.tell(Simulated::uuid(&uuid), MachineEvent::Reset { guest: true }).await;
    }
    eventually("the first is told at once", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { (clients.get(&uuid).await.unwrap().status.unwrap().resets > Some(1)).then_some(()) }
    })
    .await;
    assert!(clients.journal().await.len() <= events + 2, "and the others together");
}

#[tokio::test]
async fn one_that_does_not_answer_is_lost_and_left_alone() {
    let (agent, uuid) = restarted(async |agent, _| {
        agent.hypervisor.set_faults(Faults { attach: true, ..Faults::default() });
    })
    .await;
    let mut clients = agent.clients().await;
    assert_eq!(clients.state(&uuid).await, v1::VmState::Lost);
    assert!(agent.process(&uuid).is_alive());
    for refused in [clients.delete(&uuid).await, clients.stop(&uuid, false).await.map(drop)] {
        let status = refused.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "VM_STATE"));
    }
    assert!(agent.process(&uuid).is_alive(), "unknown is not dead");
    clients.stop(&uuid, true).await.unwrap();
    assert!(!agent.process(&uuid).is_alive());
    clients.delete(&uuid).await.unwrap();
}

/// A process of which nobody can tell anything is left alone; once the host can tell, a forced stop sees to it.
#[tokio::test]
async fn one_that_nobody_can_see_is_recovered_by_a_call() {
    for alive in [true, false] {
        let (agent, uuid) = restarted(async |agent, _| agent.host.set_blind(true)).await;
        let mut clients = agent.clients().await;
        assert_eq!(clients.state(&uuid).await, v1::VmState::Lost);
        let status = clients.stop(&uuid, true).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "VM_STATE"));
        assert!(agent.process(&uuid).is_alive(), "unknown is not dead");
        if !alive {
            agent.process(&uuid).end(Ended::Code(0));
        }
        agent.host.set_blind(false);
        clients.stop(&uuid, true).await.unwrap();
        assert!(!agent.process(&uuid).is_alive());
        assert_eq!(clients.state(&uuid).await, v1::VmState::Stopped);
        clients.start(&uuid).await.unwrap();
    }
}

#[tokio::test]
async fn a_lost_one_that_answers_again_is_found() {
    let (agent, uuid) = restarted(async |agent, _| {
        agent.hypervisor.set_faults(Faults { attach: true, ..Faults::default() });
    })
    .await;
    let mut clients = agent.clients().await;
    assert_eq!(clients.state(&uuid).await, v1::VmState::Lost);
    agent.hypervisor.set_faults(Faults::default());
    eventually("found", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { (clients.state(&uuid).await == v1::VmState::Running).then_some(()) }
    })
    .await;
    clients.stop(&uuid, false).await.unwrap();
}

#[tokio::test]
async fn what_was_half_created_or_half_deleted_is_removed() {
    for state in [VmState::Provisioning, VmState::Deleting] {
        let mut agent = Simulated::start().await;
        let mut clients = agent.clients().await;
        let uuid = clients.create(machine()).await;
        agent.stop().await;
        left_as(&agent, &uuid, state).await;
        agent.resume().await;
        let mut clients = agent.clients().await;
        assert_eq!(clients.get(&uuid).await.unwrap_err().code(), Code::NotFound);
        assert!(!agent.zonepath(&uuid).exists());
        let last = clients.journal().await.pop().unwrap();
        assert!(matches!(last.kind, Some(v1::event::Kind::Deleted(_))), "{state}");
    }
}

/// What can't be removed yet keeps its UUID, so that nobody's new VM is removed for it.
#[tokio::test]
async fn the_uuid_of_one_that_cannot_be_removed_yet_is_taken() {
    let (agent, uuid) = restarted(async |agent, uuid| {
        let file = agent.zonepath(uuid).join("kept");
        std::fs::write(&file, "").unwrap();
        if !immutable("+i", &file) {
            ignore("nothing can be made immutable here");
        }
        left_as(agent, uuid, VmState::Deleting).await;
    })
    .await;
    let file = agent.zonepath(&uuid).join("kept");
    if !file.exists() {
        return;
    }
    let mut clients = agent.clients().await;
    let again = v1::CreateVmRequest {
        vm: Some(v1::VmSpec { uuid: Some(uuid.clone()), ..machine() }),
        ..Default::default()
    };
    let refused = clients.vms.create_vm(again.clone()).await.unwrap_err();
    assert!(immutable("-i", &file));
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert_eq!(reason(&refused), "VM_EXISTS");
    let made = eventually("its UUID is free", || {
        let (mut clients, again) = (clients.clone(), again.clone());
        async move { clients.vms.create_vm(again).await.ok() }
    });
    made.await;
    let told = clients.journal().await.into_iter().filter(|event| event.uuid == uuid);
    let deleted = |event: &v1::Event| matches!(event.kind, Some(v1::event::Kind::Deleted(_)));
    assert_eq!(told.filter(deleted).count(), 1);
    assert!(agent.zonepath(&uuid).join("root").exists());
}

#[tokio::test]
async fn a_deletion_that_failed_is_repeated() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let file = agent.zonepath(&uuid).join("kept");
    std::fs::write(&file, "").unwrap();
    if !immutable("+i", &file) {
        return ignore("nothing can be made immutable here");
    }
    let failed = clients.delete(&uuid).await;
    let between = clients.state(&uuid).await;
    assert!(immutable("-i", &file));
    assert!(failed.is_err());
    assert_eq!(between, v1::VmState::Deleting);
    clients.delete(&uuid).await.unwrap();
    assert!(!agent.zonepath(&uuid).exists());
}

#[tokio::test]
async fn a_stop_that_was_interrupted_is_finished() {
    let (agent, uuid) = restarted(async |agent, uuid| left_as(agent, uuid, VmState::Stopping).await).await;
    let process = agent.process(&uuid);
    process.until_ended().await;
    let mut clients = agent.clients().await;
    assert!(clients.stop(&uuid, false).await.is_ok());
    assert_eq!(clients.state(&uuid).await, v1::VmState::Stopped);
}

fn plan(then_start: bool, seconds: i64) -> Option<StopPlan> {
    let deadline = Timestamp(Timestamp::now().0 + seconds * 1000);
    Some(StopPlan {
        deadline,
        then_start,
        calls: Vec::new(),
        cause: StopCause::Operator,
        pressed: false,
        forced: false,
    })
}

async fn until(clients: &Clients, uuid: &str, state: v1::VmState) {
    eventually("the state", || {
        let (mut clients, uuid) = (clients.clone(), uuid.to_owned());
        async move { (clients.state(&uuid).await == state).then_some(()) }
    })
    .await;
}

/// Wherever the agent was killed on the way through a reboot, the VM runs again in the end: once.
#[tokio::test]
async fn a_reboot_that_was_interrupted_is_finished() {
    for (state, alive) in [
        (VmState::Stopping, true),
        (VmState::Stopping, false),
        (VmState::Stopped, false),
        (VmState::Starting, false),
    ] {
        let (mut agent, uuid) = restarted(async |agent, uuid| {
            if !alive {
                agent.process(uuid).end(Ended::Code(0));
            }
            left(agent, uuid, |vm| {
                vm.state = state;
                vm.stop = plan(true, 60);
                if state == VmState::Stopped {
                    vm.machine = None;
                }
            })
            .await;
        })
        .await;
        let mut clients = agent.clients().await;
        until(&clients, &uuid, v1::VmState::Running).await;
        let boots = |event: &v1::Event| match &event.kind {
            Some(v1::event::Kind::Boot(phase)) => phase.phase() == v1::boot_phase::Phase::Running,
            _ => false,
        };
        assert_eq!(clients.journal().await.iter().filter(|event| boots(event)).count(), 2, "{state}");
        // Nothing of it is left.
        agent.stop().await;
        agent.resume().await;
        let mut clients = agent.clients().await;
        assert_eq!(clients.state(&uuid).await, v1::VmState::Running);
        assert_eq!(clients.journal().await.iter().filter(|event| boots(event)).count(), 2, "{state}");
    }
}

/// The deadline is the caller's, not the next agent's.
#[tokio::test]
async fn a_stop_keeps_its_deadline() {
    for (seconds, stops) in [(-5, true), (3600, false)] {
        let (agent, uuid) = restarted(async |agent, uuid| {
            agent.hypervisor.set_faults(Faults { deaf: true, ..Faults::default() });
            left(agent, uuid, |vm| {
                vm.state = VmState::Stopping;
                vm.stop = plan(false, seconds);
            })
            .await;
        })
        .await;
        let mut clients = agent.clients().await;
        if stops {
            until(&clients, &uuid, v1::VmState::Stopped).await;
        } else {
            // It was asked again, and did not hear.
            eventually("the power button", || {
                let done = agent.hypervisor.done(Simulated::uuid(&uuid));
                async move { done.iter().any(|what| what.contains("power")).then_some(()) }
            })
            .await;
            assert_eq!(clients.state(&uuid).await, v1::VmState::Stopping);
            clients.stop(&uuid, true).await.unwrap();
        }
    }
}

/// Who asked the earlier agent gets the answer from the next.
#[tokio::test]
async fn the_answer_to_an_interrupted_stop_is_kept() {
    for while_away in [true, false] {
        let mut agent = Simulated::start().await;
        let mut clients = agent.clients().await;
        let uuid = clients.create(machine()).await;
        clients.start(&uuid).await.unwrap();
        agent.hypervisor.set_faults(Faults { deaf: true, ..Faults::default() });
        let request = v1::StopVmRequest {
            uuid: uuid.clone(),
            timeout_seconds: Some(3600),
            request_id: "7d444840-9dc0-11d1-b245-5ffdce74fad2".to_owned(),
            ..Default::default()
        };
        let call = tokio::spawn({
            let (mut clients, request) = (clients.clone(), request.clone());
            async move { clients.vms.stop_vm(request).await }
        });
        until(&clients, &uuid, v1::VmState::Stopping).await;
        agent.stop().await;
        call.await.unwrap().unwrap_err();
        if while_away {
            agent.process(&uuid).end(Ended::Code(0));
        }
        agent.resume().await;
        if !while_away {
            agent.process(&uuid).end(Ended::Code(0));
        }
        let mut clients = agent.clients().await;
        until(&clients, &uuid, v1::VmState::Stopped).await;
        let exit = clients.get(&uuid).await.unwrap().status.unwrap().exit.unwrap();
        assert_eq!(exit.reason(), v1::ExitReason::Operator);
        clients.start(&uuid).await.unwrap();
        let answer = clients.vms.stop_vm(request).await.unwrap().into_inner();
        assert!(!answer.already_stopped);
        assert_eq!(clients.state(&uuid).await, v1::VmState::Running, "a repeat does not act");
    }
}

#[tokio::test]
async fn a_boot_that_was_interrupted_before_the_process_is_stopped() {
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    agent.stop().await;
    left_as(&agent, &uuid, VmState::Starting).await;
    agent.resume().await;
    let mut clients = agent.clients().await;
    let status = clients.get(&uuid).await.unwrap().status.unwrap();
    assert_eq!((status.state(), status.exit), (v1::VmState::Stopped, None));
    clients.start(&uuid).await.unwrap();
}

#[tokio::test]
async fn two_agents_do_not_share_folders() {
    let agent = Simulated::start().await;
    let second = zoneward::internals::agent::Agent::start(agent.config.clone(), agent.platform()).await;
    let error = second.map(drop).unwrap_err().to_string();
    assert!(error.contains("another agent is using"), "{error}");
}

#[tokio::test]
async fn vm_json_is_repaired() {
    let (agent, uuid) = restarted(async |agent, uuid| {
        std::fs::write(agent.zonepath(uuid).join("vm.json"), "rubbish").unwrap();
    })
    .await;
    let path = agent.zonepath(&uuid).join("vm.json");
    eventually("repaired", || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let uuid = uuid.clone();
        async move { text.contains(&uuid).then_some(()) }
    })
    .await;
}

/// A disk is the VM's by its name: a folder of zones that is spelled otherwise loses none. Those that an update which
/// was cut made or gave up are removed, and no others.
#[tokio::test]
async fn no_disk_is_removed_that_no_update_noted() {
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(v1::VmSpec { disks: vec![disk(1)], ..machine() }).await;
    agent.stop().await;
    let zone = agent.zonepath(&uuid);
    for name in ["disk7", "disk8"] {
        std::fs::write(zone.join(name), "data").unwrap();
    }
    left(&agent, &uuid, |vm| vm.unsettled = vec!["disk0".into(), "disk8".into()]).await;
    let elsewhere = agent.dir.path().join("elsewhere");
    std::os::unix::fs::symlink(&agent.config.zones_dir, &elsewhere).unwrap();
    agent.config.zones_dir = elsewhere;
    agent.resume().await;
    let there = |name: &str| zone.join(name).exists();
    assert_eq!([there("disk0"), there("disk7"), there("disk8")], [true, true, false]);
}

/// A start, or the second half of a reboot, that was cut after the guest ran is done: nothing of it stays in force,
/// and its calls are answered.
#[tokio::test]
async fn a_boot_that_was_cut_after_the_guest_ran_is_done() {
    let ids = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
    let waiting =
        |id| WaitingCall { actor: "alice".into(), request_id: Some(id), digest: [0; 32], reboots: false };
    let (agent, uuid) = restarted(async |agent, uuid| {
        left(agent, uuid, |vm| {
            vm.state = VmState::Starting;
            vm.machine = None;
            vm.waiting = vec![waiting(ids[0])];
            let calls = vec![waiting(ids[1])];
            let (deadline, cause) = (Timestamp::now(), StopCause::Operator);
            vm.stop =
                Some(StopPlan { deadline, then_start: true, calls, cause, pressed: false, forced: false });
        })
        .await;
    })
    .await;
    let mut clients = agent.clients().await;
    let vm = clients.get(&uuid).await.unwrap().status.unwrap();
    assert_eq!(vm.state(), v1::VmState::Running);
    let reader = zoneward::internals::store::Reader::open(&agent.config.state_dir.join("state.db")).unwrap();
    let record = reader.vms().unwrap().remove(0);
    assert_eq!((record.stop, record.waiting), (None, vec![]));
    for id in ids {
        assert!(reader.answer(id).unwrap().is_some());
    }
}

/// A deletion that the next agent finishes is its caller's, and a repeat is answered.
#[tokio::test]
async fn a_deletion_that_was_cut_is_its_callers() {
    let id = uuid::Uuid::new_v4();
    let call = WaitingCall { actor: "alice".into(), request_id: Some(id), digest: [0; 32], reboots: false };
    let mut agent = Simulated::start().await;
    let uuid = agent.clients().await.create(machine()).await;
    agent.stop().await;
    left(&agent, &uuid, |vm| (vm.state, vm.waiting) = (VmState::Deleting, vec![call])).await;
    agent.resume().await;
    let mut clients = agent.clients().await;
    let deleted = clients.journal().await.pop().unwrap();
    assert!(matches!(deleted.kind, Some(v1::event::Kind::Deleted(_))), "{deleted:?}");
    assert_eq!((deleted.actor.as_str(), deleted.request_id), ("alice", id.to_string()));
    let reader = zoneward::internals::store::Reader::open(&agent.config.state_dir.join("state.db")).unwrap();
    assert!(reader.answer(id).unwrap().is_some());
}

/// What its hypervisor says of a guest that does not run decides; only what is broken has failed, and even that may
/// be told to go on.
#[tokio::test]
async fn one_that_does_not_run_is_what_its_hypervisor_says() {
    for (status, state) in [
        ("paused", v1::VmState::Paused),
        ("suspended", v1::VmState::Suspended),
        ("internal-error", v1::VmState::Failed),
        ("save-vm", v1::VmState::Running),
        ("io-error", v1::VmState::Failed),
        ("guest-panicked", v1::VmState::Failed),
    ] {
        let (agent, uuid) = restarted(async |agent, _| {
            agent.hypervisor.set_faults(Faults { stopped: Some(status), ..Faults::default() });
        })
        .await;
        let mut clients = agent.clients().await;
        assert_eq!(clients.get(&uuid).await.unwrap().status.unwrap().state(), state, "{status}");
        if state != v1::VmState::Running {
            let resume = v1::ResumeVmRequest { uuid, ..Default::default() };
            let vm = clients.vms.resume_vm(resume).await.unwrap().into_inner().vm.unwrap().status.unwrap();
            assert_eq!((vm.state(), vm.exit), (v1::VmState::Running, None), "{status}");
        }
    }
}
