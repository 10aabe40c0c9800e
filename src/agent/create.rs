//! How a VM comes to be.
//!
//! ```text
//!   check ─▶ reserve the UUID ─▶ commit "provisioning" ─▶ folders, disks ─▶ commit "stopped" ─▶ boot?
//!                                     │ the next start finds it here      │ a failure removes all
//!                                     ▼ and removes all                   ▼ and the record
//! ```

use uuid::Uuid;

use super::{
    Agent,
    actor::{Actor, Command, Seat},
    call::Call,
    completion,
    error::Error,
    reply::{DeleteReply, VmReply},
    transition::Transition,
};
use crate::{
    layout::VmLayout,
    model::{Timestamp, VmRecord, WaitingCall},
    spec::{BootOptions, Brand, VmSpec, VmState, secret},
    storage::{self, StorageError},
};

/// Makes a VM; starts it too when it says so.
pub(super) async fn create(
    agent: &Agent,
    call: Call,
    spec: VmSpec,
    validate_only: bool,
) -> Result<VmRecord, Error> {
    agent.validate(&spec).await.map_err(Error::Invalid)?;
    let brand = spec.brand.unwrap_or(Brand::Kvm);
    if agent.inner.platform.hypervisor(brand).is_none() {
        return Err(Error::Unsupported {
            capability: format!("brand:{}", brand.as_str()),
            message: format!("this host can't run brand {}; it needs an illumos host", brand.as_str()),
        });
    }
    if spec.disks.iter().any(|disk| disk.other.contains_key("image_uuid")) {
        return Err(Error::Unsupported {
            capability: "images".to_owned(),
            message: "this agent has no images yet; give size for an empty disk".to_owned(),
        });
    }
    let uuid = spec.uuid.unwrap_or_else(Uuid::new_v4);
    if validate_only {
        drop(agent.inner.registry.reserve(uuid, agent.inner.config.zone.uid_count)?);
        let vm = record(agent, uuid, 0, spec, VmState::Stopped);
        let claimed = agent.claim(uuid, &vm.spec, &[]);
        agent.inner.claims.release(uuid);
        return claimed.map(|()| vm);
    }
    let work = {
        let agent = agent.clone();
        move |call| async move { provision(&agent, call, uuid, spec).await }
    };
    let created: VmReply = agent.once(call, work).await?;
    Ok(*created.vm)
}

fn record(agent: &Agent, uuid: Uuid, zone_index: u32, mut spec: VmSpec, state: VmState) -> VmRecord {
    completion::complete(agent, uuid, &mut spec);
    let (now, autoboot) = (Timestamp::now(), spec.autoboot());
    VmRecord {
        uuid,
        // By chance, so that an etag of another life of this UUID is none of this one.
        generation: Uuid::new_v4().as_fields().0.into(),
        spec,
        state,
        zone_index,
        created: now,
        modified: now,
        machine: None,
        boot: None,
        exit: None,
        stop: None,
        unsettled: Vec::new(),
        waiting: Vec::new(),
        kill: None,
        // With autoboot it has its turn when it is started: if not by this agent, then by the next.
        host_boot: Some(if autoboot { String::new() } else { agent.inner.platform.host_boot.clone() }),
        vnc_port: None,
        vnc_secret: agent.inner.config.vnc.require_password.then(secret::new_password),
    }
}

/// Between tries to remove what is left of a VM.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(2);

/// What a VM that is being made has claimed; given back unless the VM comes to be.
struct Claimed<'a> {
    agent: &'a Agent,
    uuid: Option<Uuid>,
}

impl<'a> Claimed<'a> {
    fn take(agent: &'a Agent, uuid: Uuid, spec: &VmSpec) -> Result<Self, Error> {
        agent.claim(uuid, spec, &[])?;
        Ok(Self { agent, uuid: Some(uuid) })
    }

    fn keep(mut self) {
        self.uuid = None;
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        if let Some(uuid) = self.uuid {
            self.agent.inner.claims.release(uuid);
        }
    }
}

async fn provision(agent: &Agent, call: Call, uuid: Uuid, spec: VmSpec) -> Result<VmReply, Error> {
    if spec.autoboot() {
        agent.inner.drain.check()?;
    }
    let reservation = agent.inner.registry.reserve(uuid, agent.inner.config.zone.uid_count)?;
    let zonepath = agent.inner.layout.vm(uuid).zonepath().display().to_string();
    if tokio::fs::symlink_metadata(&zonepath).await.is_ok() {
        let message = format!("{zonepath} already exists and belongs to no VM of this agent; move it away");
        return Err(Error::FileExists { path: zonepath, message });
    }
    let draft = record(agent, uuid, reservation.zone_index(), spec, VmState::Provisioning);
    let claims = Claimed::take(agent, uuid, &draft.spec)?;
    let (handle, seat) = Seat::prepare(agent, &draft);
    let show = || agent.inner.registry.insert(handle);
    Transition::new(agent).insert(&call, &draft, show).await?;

    let layout = agent.inner.layout.vm(uuid);
    if let Err(error) = make(agent, &layout, &draft.spec).await {
        // Before its UUID is free: what another of that name claims is its own.
        drop(claims);
        discard(agent, &call, &draft).await;
        return Err(error);
    }

    let vm = draft.next(|vm| vm.state = VmState::Stopped);
    let outcome = VmReply::of(&vm);
    let autoboot = vm.spec.autoboot();
    let (reply, answer) = tokio::sync::oneshot::channel();
    let (etag, options) = (String::new(), BootOptions::default());
    // Before what it was told while it was made.
    let start = Command::Start { call: call.clone(), etag, options, progress: None, reply };
    // With autoboot this is the answer until it is known how the boot went.
    let transition = Transition::new(agent).answers(call.answer(&Ok(outcome.clone())));
    if let Err(error) = transition.put(&call, &draft, &vm, || seat.publish(&vm)).await {
        drop(claims);
        discard(agent, &call, &draft).await;
        return Err(error);
    }
    Actor::take(agent, seat, vm, autoboot.then_some(start));
    claims.keep();
    if !autoboot {
        return Ok(outcome);
    }
    match answer.await.map_err(|_| agent.unanswered(uuid))? {
        // It is made; it starts with the host.
        Err(Error::Draining) => Ok(outcome),
        // It exists all the same; a retry would make another.
        Err(Error::BootFailed { uuid, step, reason }) => {
            let reason = format!("{reason} (VM {uuid} was created, and is stopped)");
            Err(Error::BootFailed { uuid, step, reason })
        }
        started => started,
    }
}

/// Makes folders and disks.
async fn make(agent: &Agent, layout: &VmLayout, spec: &VmSpec) -> Result<(), Error> {
    let (layout, disks) = (layout.clone(), spec.disks.clone());
    let volumes = agent.inner.platform.volumes.clone();
    let make = move || -> Result<(), StorageError> {
        storage::make_zone(&layout)?;
        for disk in disks.iter().filter(|disk| disk.is_made_here()) {
            volumes.create(layout.zonepath(), disk.file_name().unwrap_or_default(), disk.mebibytes())?;
        }
        Ok(())
    };
    Ok(tokio::task::spawn_blocking(make).await.map_err(Error::internal)??)
}

/// Removes what a creation that did not end well, or a deletion that was cut, has left, and its record last. What can't
/// be done now, as on a full disk, is tried until it can.
pub(super) async fn discard(agent: &Agent, call: &Call, vm: &VmRecord) {
    let Err(error) = try_discard(agent, call, vm).await else { return };
    tracing::error!(vm = %vm.uuid, %error, "what is left of the VM can't be removed; it is tried again");
    // Meanwhile no other VM is made under its UUID: that would be removed. One that was just made has it still.
    let taken = agent.inner.registry.reserve(vm.uuid, u32::MAX).ok();
    let (agent, call, vm) = (agent.clone(), call.clone(), vm.clone());
    let tasks = agent.inner.tasks.clone();
    tasks.spawn(async move {
        let _taken = taken;
        while try_discard(&agent, &call, &vm).await.is_err() {
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = agent.inner.stopping.cancelled() => return,
            }
        }
    });
}

async fn try_discard(agent: &Agent, call: &Call, vm: &VmRecord) -> Result<(), Error> {
    let layout = agent.inner.layout.vm(vm.uuid);
    if let Err(error) = agent.inner.platform.links.unplug(vm.uuid).await {
        tracing::warn!(vm = %vm.uuid, %error, "its links");
    }
    // Until that is done the record stays, so that what is left is still known to be a VM's.
    tokio::task::spawn_blocking(move || storage::remove_zone(&layout)).await.map_err(Error::internal)??;
    let answer = |call: &WaitingCall| Call::from_waiting(call.clone()).answer(&Ok(DeleteReply));
    let answers = vm.waiting.iter().filter_map(answer);
    Transition::new(agent).answers(answers).delete(call, vm).await
}
