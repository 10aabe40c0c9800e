//! Creation of a VM.
//!
//! ```text
//!   check ─▶ reserve the UUID ─▶ commit "provisioning" ─▶ folders, disks ─▶ commit "stopped" ─▶ boot?
//!                                     │ the next start finds it here      │ a failure removes all
//!                                     ▼ and removes all                   ▼ and the record
//! ```

use uuid::Uuid;

use crate::{
    agent::{
        context::{VmContext, command::Command, transition::Transition},
        error::Error,
        request::{
            call::Call,
            reply::{DeleteReply, VmReply},
        },
        vm::{Actor, completion, images, seat::Seat, validation},
    },
    layout::VmLayout,
    model::{Timestamp, VmRecord, WaitingCall},
    spec::{BootOptions, DiskSpec, VmSpec, VmState, secret},
    storage::{self, StorageError},
};

/// Creates a VM; also starts one with autoboot.
pub(in crate::agent) async fn create(
    context: &VmContext,
    call: Call,
    spec: VmSpec,
    validate_only: bool,
) -> Result<VmRecord, Error> {
    validation::judge(context, &spec).await.map_err(Error::Invalid)?;
    let machine_type = completion::machine_type(context, &spec).await;
    let spec = VmSpec { machine_type, ..spec };
    let uuid = spec.uuid.unwrap_or_else(Uuid::new_v4);
    if validate_only {
        return would_be(context, uuid, spec);
    }
    can_be_made(context, &spec)?;
    let work = {
        let context = context.clone();
        move |call| async move { provision(&context, call, uuid, spec).await }
    };
    let created: VmReply = context.once(call, work).await?;
    Ok(*created.vm)
}

/// The VM that a machine would become, as the host is now.
pub(super) fn would_be(context: &VmContext, uuid: Uuid, spec: VmSpec) -> Result<VmRecord, Error> {
    can_be_made(context, &spec)?;
    drop(context.registry.reserve(uuid, context.settings.users)?);
    let vm = record(context, uuid, 0, spec, VmState::Stopped);
    let claimed = context.claim(uuid, &vm.spec, &[]);
    context.claims.release(uuid);
    claimed.map(|()| vm)
}

/// Fails for what this host does not have at all.
fn can_be_made(context: &VmContext, spec: &VmSpec) -> Result<(), Error> {
    context.check_brand(spec.brand())
}

fn record(context: &VmContext, uuid: Uuid, zone_index: u32, mut spec: VmSpec, state: VmState) -> VmRecord {
    completion::complete(context, uuid, &mut spec);
    let (now, autoboot) = (Timestamp::now(), spec.autoboot());
    VmRecord {
        uuid,
        // Random, so that no etag of an earlier VM with this UUID matches.
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
        // With autoboot its turn is still to come: when this agent or the next one starts it.
        host_boot: Some(if autoboot { String::new() } else { context.platform.host_boot.clone() }),
        vnc_port: None,
        vnc_secret: context.settings.vnc_password.then(secret::new_password),
    }
}

/// Interval of attempts to remove a VM's remains.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(2);

/// The claims of a VM that is being created; released unless the creation succeeds.
struct Claimed<'a> {
    context: &'a VmContext,
    uuid: Option<Uuid>,
}

impl<'a> Claimed<'a> {
    fn take(context: &'a VmContext, uuid: Uuid, spec: &VmSpec) -> Result<Self, Error> {
        context.claim(uuid, spec, &[])?;
        Ok(Self { context, uuid: Some(uuid) })
    }

    fn keep(mut self) {
        self.uuid = None;
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        if let Some(uuid) = self.uuid {
            self.context.claims.release(uuid);
        }
    }
}

async fn provision(context: &VmContext, call: Call, uuid: Uuid, spec: VmSpec) -> Result<VmReply, Error> {
    if spec.autoboot() {
        context.draining.check()?;
    }
    let reservation = context.registry.reserve(uuid, context.settings.users)?;
    let zonepath = context.layout_of(uuid).zonepath().display().to_string();
    if tokio::fs::symlink_metadata(&zonepath).await.is_ok() {
        let message = format!("{zonepath} already exists and belongs to no VM of this agent; move it away");
        return Err(Error::FileExists { path: zonepath, message });
    }
    // Until the record is known, which names them.
    let images = images::hold(context, &spec)?;
    let draft = record(context, uuid, reservation.zone_index(), spec, VmState::Provisioning);
    let claims = Claimed::take(context, uuid, &draft.spec)?;
    let (handle, seat) = Seat::prepare(context, &draft);
    let show = || context.registry.insert(handle.clone());
    Transition::new(context).insert(&call, &draft, show).await?;
    drop(images);

    let layout = context.layout_of(uuid);
    let disks = match make(context, &layout, &draft.spec).await {
        Ok(disks) => disks,
        Err(error) => {
            // Before the UUID is free, or the claims of a new VM under it would be released.
            drop(claims);
            discard(context, &call, &draft).await;
            return Err(error);
        }
    };

    let vm = draft.next(|vm| (vm.state, vm.spec.disks) = (VmState::Stopped, disks));
    let outcome = VmReply::of(&vm);
    let autoboot = vm.spec.autoboot();
    let (reply, answer) = tokio::sync::oneshot::channel();
    let (etag, options) = (String::new(), BootOptions::default());
    // Before commands queued during the creation.
    let start = Command::Start { call: call.clone(), etag, options, progress: None, reply };
    // With autoboot this is the answer until the boot's result is known.
    let transition = Transition::new(context).answers(call.answer(&Ok(outcome.clone())));
    if let Err(error) = transition.put(&call, &draft, &vm, || seat.publish(&vm)).await {
        drop(claims);
        discard(context, &call, &draft).await;
        return Err(error);
    }
    Actor::spawn(context, seat, vm, autoboot.then_some(start));
    claims.keep();
    if !autoboot {
        return Ok(outcome);
    }
    match answer.await.map_err(|_| handle.unanswered())? {
        // The VM exists; it starts with the host.
        Err(Error::Draining) => Ok(outcome),
        // The VM exists all the same; a retry would create another.
        Err(Error::BootFailed { uuid, step, reason }) => {
            let reason = format!("{reason} (VM {uuid} was created, and is stopped)");
            Err(Error::BootFailed { uuid, step, reason })
        }
        started => started,
    }
}

/// Creates folders and disks; returns the disks as they were made.
async fn make(context: &VmContext, layout: &VmLayout, spec: &VmSpec) -> Result<Vec<DiskSpec>, Error> {
    let (layout, mut disks) = (layout.clone(), spec.disks.clone());
    let volumes = context.platform.volumes.clone();
    let make = move || -> Result<Vec<DiskSpec>, StorageError> {
        storage::make_zone(&layout)?;
        for disk in disks.iter_mut().filter(|disk| disk.is_made_here()) {
            disk.form = images::make_disk(&*volumes, &layout, disk)?;
        }
        Ok(disks)
    };
    Ok(tokio::task::spawn_blocking(make).await.map_err(Error::internal)??)
}

/// Removes what a failed creation or an interrupted deletion has left, and the record last. Where that fails,
/// as on a full disk, it retries until it succeeds.
pub(in crate::agent) async fn discard(context: &VmContext, call: &Call, vm: &VmRecord) {
    let Err(error) = try_discard(context, call, vm).await else { return };
    tracing::error!(vm = %vm.uuid, %error, "the remains of the VM could not be removed; retrying");
    // Reserve the UUID, or a new VM under it would be removed too. A VM that was just created still holds it.
    let taken = context.registry.reserve(vm.uuid, u32::MAX).ok();
    let (context, call, vm) = (context.clone(), call.clone(), vm.clone());
    let tasks = context.tasks.clone();
    tasks.spawn(async move {
        let _taken = taken;
        while try_discard(&context, &call, &vm).await.is_err() {
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = context.stopping.cancelled() => return,
            }
        }
    });
}

async fn try_discard(context: &VmContext, call: &Call, vm: &VmRecord) -> Result<(), Error> {
    let layout = context.layout_of(vm.uuid);
    if let Err(error) = context.platform.links.unplug(vm.uuid).await {
        tracing::warn!(vm = %vm.uuid, %error, "cannot remove its links");
    }
    // The record stays until then, so that the remains are still known to be a VM's.
    tokio::task::spawn_blocking(move || storage::remove_zone(&layout)).await.map_err(Error::internal)??;
    let answer = |call: &WaitingCall| Call::from_waiting(call.clone()).answer(&Ok(DeleteReply));
    let answers = vm.waiting.iter().filter_map(answer);
    Transition::new(context).answers(answers).delete(call, vm).await
}
