//! Taking over what an earlier agent left: every hypervisor that outlived it, and everything that it
//! did not finish.
//!
//! | record says | host says | becomes |
//! |---|---|---|
//! | provisioning | anything | removed, as if it had never been |
//! | deleting | anything | deleted |
//! | starting | a process that does not run guest code yet | killed, stopped |
//! | starting | a process that runs guest code | running; its calls are answered |
//! | any with a hypervisor | no process | stopped; started again, if it was to be rebooted |
//! | stopping | the process, and it answers | stopping, until the deadline that was set |
//! | any with a hypervisor | the process, and it answers | as it was |
//! | any with a hypervisor | the process, silent; or nobody can tell | lost, and left alone |

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{
    Agent,
    actor::{Actor, Live, stop_result},
    autoboot,
    call::{Call, Outcome},
    create, disks,
    error::Error,
    exit, links,
    transition::Transition,
    uploads,
};
use crate::{
    boot,
    hypervisor::{HypervisorError, InfoType, Machine, RunStatus},
    model::{BootCall, EventKind, NewEvent, Phase, Timestamp, VmRecord, WaitingCall},
    spec::{Limits, VmState},
    storage::remove_disks,
    store::Answer,
    zone::{Ended, Found, Process},
};

/// How long one hypervisor may hold up the start of the agent. One that answers later is taken over then.
const PATIENCE: Duration = Duration::from_secs(3);

/// Adopts every VM; returns when all are known.
pub(super) async fn adopt_all(agent: &Agent, records: Vec<VmRecord>) {
    let remains = Arc::new(links::remains(agent).await);
    let mut adoptions = tokio::task::JoinSet::new();
    for record in records {
        let (agent, remains) = (agent.clone(), remains.clone());
        adoptions.spawn(async move {
            let uuid = record.uuid;
            let adopted = Box::pin(adopt(&agent, record.clone(), remains.contains(&uuid))).await;
            if let Err(error) = adopted {
                // It can't be written down, but it is there: known, and left alone.
                tracing::error!(vm = %uuid, %error, "adoption");
                let stop = record.stop.clone().filter(|_| record.state != VmState::Starting);
                enter(&agent, VmRecord { state: VmState::Lost, stop, ..record }, None).await;
            }
        });
    }
    while adoptions.join_next().await.is_some() {}
}

/// `has_links` is whether something of its links is there.
async fn adopt(agent: &Agent, record: VmRecord, has_links: bool) -> Result<(), Error> {
    match record.state {
        VmState::Provisioning | VmState::Deleting => {
            tracing::info!(vm = %record.uuid, state = %record.state, "finishing what was interrupted");
            let call = record.waiting.first().cloned().map_or_else(Call::own, Call::from_waiting);
            create::discard(agent, &call, &record).await;
            return Ok(());
        }
        VmState::Stopped => {
            // What the last process had, if the agent that saw its end died just then.
            forget(agent, &record, has_links).await;
            enter(agent, record, None).await;
            return Ok(());
        }
        VmState::Starting
        | VmState::Running
        | VmState::Paused
        | VmState::Suspended
        | VmState::Stopping
        | VmState::Failed
        | VmState::Lost => {}
    }
    let layout = agent.inner.layout.vm(record.uuid);
    match agent.inner.platform.zone.find(record.uuid, &layout) {
        Found::Gone(ended) => stopped(agent, record, ended, has_links).await,
        Found::Alive(process) => match timeout(PATIENCE, greet(agent, &record)).await {
            Ok(Ok((machine, status, accelerator))) => {
                Box::pin(take_over(agent, record, process, machine, status, accelerator)).await
            }
            Ok(Err(error)) if record.state == VmState::Starting => {
                // It may have been on its way out: then it was not begun.
                match timeout(PATIENCE, process.ended()).await {
                    Ok(ended) => stopped(agent, record, ended, has_links).await,
                    Err(_) => lost(agent, record, Some(process), &error.to_string()).await,
                }
            }
            Ok(Err(error)) => lost(agent, record, Some(process), &error.to_string()).await,
            Err(_) => lost(agent, record, Some(process), "it does not answer").await,
        },
        Found::Unknown(why) => lost(agent, record, None, &why).await,
    }
}

/// Registers the VM under its actor.
async fn enter(agent: &Agent, record: VmRecord, live: Option<Live>) {
    let record = match autoboot::pass_over(agent, record.clone()).await {
        Ok(record) => record,
        Err(error) => {
            tracing::error!(vm = %record.uuid, %error, "the next start decides again whether it is started");
            record
        }
    };
    let record = settle_disks(agent, record).await;
    uploads::settle(agent, record.uuid).await;
    if let Err(error) = agent.settle_files(record.uuid, &Call::own()).await {
        tracing::warn!(vm = %record.uuid, %error, "changes of files that are not journaled yet");
    }
    // Checked when it was given.
    agent.inner.claims.put(record.uuid, &record.spec, record.running_nics());
    agent.write_vm_json(&record).await;
    agent.inner.registry.insert(Actor::spawn(agent, record, live));
}

/// Removes what an update that was cut left.
async fn settle_disks(agent: &Agent, mut record: VmRecord) -> VmRecord {
    let leftover = record.leftover_disks();
    if leftover.is_empty() {
        return record;
    }
    let layout = agent.inner.layout.vm(record.uuid);
    let removed = tokio::task::spawn_blocking(move || remove_disks(&layout, &leftover)).await;
    match removed.map_err(Error::internal).and_then(|removed| Ok(removed?)) {
        Ok(()) => record.unsettled.clear(),
        Err(error) => tracing::warn!(vm = %record.uuid, %error, "disks of an update that was cut"),
    }
    record
}

/// All that has to be asked of a hypervisor before it is adopted.
async fn greet(
    agent: &Agent,
    record: &VmRecord,
) -> Result<(Arc<dyn Machine>, RunStatus, &'static str), HypervisorError> {
    let layout = agent.inner.layout.vm(record.uuid);
    let machine = agent.hypervisor(record).attach(record.uuid, &layout.control(), PATIENCE).await?;
    if let Some(password) = record.vnc_password() {
        // What was promised, whether or not the agent before came to it.
        machine.set_vnc_password(Some(password)).await?;
    }
    let status = machine.status().await?;
    let kvm = machine.info(InfoType::Kvm).await?;
    Ok((machine, status, if kvm["enabled"] == true { "kvm" } else { "tcg" }))
}

async fn take_over(
    agent: &Agent,
    record: VmRecord,
    process: Arc<dyn Process>,
    machine: Arc<dyn Machine>,
    status: RunStatus,
    accelerator: &str,
) -> Result<(), Error> {
    if record.state == VmState::Starting && !status.running {
        // It never ran guest code; nothing is lost.
        process.kill().map_err(Error::internal)?;
        return match timeout(PATIENCE, process.ended()).await {
            Ok(_) => stopped(agent, record, Ended::Unseen, true).await,
            Err(_) => lost(agent, record, Some(process), "it does not end").await,
        };
    }
    let vnc = boot::listen_vnc(&record, agent.inner.config.vnc.address, machine.clone()).await;
    let vnc = vnc.unwrap_or_else(|error| {
        tracing::error!(vm = %record.uuid, %error, "the VM goes on without a VNC endpoint");
        None
    });
    let state = match record.state {
        VmState::Stopping => VmState::Stopping,
        VmState::Lost if record.stop.is_some() => VmState::Stopping,
        _ => status.state(),
    };
    let pid = process.pid();
    let port = vnc.as_ref().map(|vnc| vnc.address().port());
    let (resets, last_reset) = exit::unseen_resets(agent, &record);
    let mut vm = record.clone();
    let boot = vm.boot.clone();
    let (mut calls, mut events) = (Vec::new(), Vec::new());
    if record.state == VmState::Starting {
        // A start, or the second half of a reboot, which came to its end.
        calls.append(&mut vm.waiting);
        calls.extend(vm.stop.take().into_iter().flat_map(|stop| stop.calls));
        vm.exit = None;
        vm.host_boot = Some(agent.inner.platform.host_boot.clone());
        let running = |boot: &BootCall| {
            let phase = boot::phase_at(boot.called_us, Phase::Running);
            Call::of_boot(boot).event(vm.uuid, EventKind::Boot(phase))
        };
        events.extend(boot.as_ref().map(running));
    }
    vm.state = state;
    vm.vnc_port = port;
    let booted = vm.machine.get_or_insert_with(|| crate::model::Run {
        pid,
        booted: Timestamp::now(),
        accelerator: accelerator.to_owned(),
        enforcements: Vec::new(),
        limits: Vec::new(),
        cds: boot.as_ref().map(|boot| boot::cd_drives(&vm.spec, &boot.options)).unwrap_or_default(),
        nics: vm.spec.nics.clone(),
        resets: 0,
        last_reset: None,
    });
    // As they are now, whatever an earlier agent saw.
    booted.enforcements = process.enforcements().to_vec();
    booted.limits = process.bound(&Limits::of(&vm.spec));
    booted.resets += resets;
    booted.last_reset = last_reset.or(booted.last_reset);
    if let Some(time) = last_reset.filter(|_| state != VmState::Failed) {
        vm.exit = Some(exit::reset(true, time));
    }
    let answers = |vm: &VmRecord| {
        let outcome = Ok(Outcome::Vm { vm: Box::new(vm.clone()), already: false, phases: Vec::new() });
        calls.into_iter().filter_map(|call| Call::from_waiting(call).answer(&outcome)).collect()
    };
    let record = commit(agent, record, vm, events, answers).await?;
    tracing::info!(vm = %record.uuid, pid, %state, "adopted");
    enter(agent, record, Some(Live::adopted(process, Some(machine), vnc))).await;
    Ok(())
}

/// Removes what a process had of the host that is gone.
async fn forget(agent: &Agent, record: &VmRecord, has_links: bool) {
    let platform = &agent.inner.platform;
    platform.zone.forget(record.uuid, &agent.inner.layout.vm(record.uuid)).await;
    if has_links && let Err(error) = platform.links.unplug(record.uuid).await {
        tracing::warn!(vm = %record.uuid, %error, "its links; the next start tries again");
    }
}

async fn stopped(agent: &Agent, record: VmRecord, ended: Ended, has_links: bool) -> Result<(), Error> {
    let exit = exit::exit(agent, &record, ended, None, true);
    let never_ran = record.state == VmState::Starting;
    // The actor does the second half of a reboot, and answers its calls. Others are answered now.
    let (reboot, stop) = match record.stop.clone() {
        Some(stop) if stop.then_start => (Some(stop), None),
        stop => (None, stop),
    };
    let mut vm = record.clone();
    vm.state = VmState::Stopped;
    (vm.machine, vm.boot, vm.kill) = (None, None, None);
    vm.stop = reboot;
    // A start that was cut is undone, and a repeat starts anew.
    vm.waiting.clear();
    if never_ran {
        autoboot::try_again(agent, &mut vm);
    } else {
        vm.exit = Some(exit);
    }
    let calls = stop.map(|stop| stop.calls).unwrap_or_default();
    let answers = |vm: &VmRecord| {
        let answer = |call: WaitingCall| {
            let result = stop_result(vm, call.reboots);
            Call::from_waiting(call).answer(&result)
        };
        calls.into_iter().filter_map(answer).collect()
    };
    let record = commit(agent, record, vm, Vec::new(), answers).await?;
    // Not before it is written down how it ended: this is what tells.
    forget(agent, &record, has_links).await;
    disks::settle(agent, &record).await;
    enter(agent, record, None).await;
    Ok(())
}

async fn lost(
    agent: &Agent,
    record: VmRecord,
    process: Option<Arc<dyn Process>>,
    why: &str,
) -> Result<(), Error> {
    tracing::error!(vm = %record.uuid, why, "lost: the hypervisor is left alone");
    let record = change(agent, record, |vm| {
        // Should it be found again, then as one that was started.
        vm.stop = vm.stop.take().filter(|_| vm.state != VmState::Starting);
        vm.state = VmState::Lost;
    })
    .await?;
    let live = process.map(|process| Live::adopted(process, None, None));
    enter(agent, record, live).await;
    Ok(())
}

/// Commits a change of a VM that has no actor yet; without an event when nothing changed.
async fn change(agent: &Agent, old: VmRecord, edit: impl FnOnce(&mut VmRecord)) -> Result<VmRecord, Error> {
    let mut vm = old.clone();
    edit(&mut vm);
    commit(agent, old, vm, Vec::new(), |_| Vec::new()).await
}

async fn commit(
    agent: &Agent,
    old: VmRecord,
    vm: VmRecord,
    events: Vec<NewEvent>,
    answers: impl FnOnce(&VmRecord) -> Vec<Answer>,
) -> Result<VmRecord, Error> {
    if vm == old {
        return Ok(vm);
    }
    let vm = old.next(|next| *next = vm);
    let transition = Transition::new(agent).events(events).answers(answers(&vm));
    transition.put(&Call::own(), &old, &vm, || ()).await?;
    Ok(vm)
}
