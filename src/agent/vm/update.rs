//! Changes the machine: checks and commits it as a whole, then applies the parts that need no boot.
//!
//! ```text
//!   read ─▶ apply ─▶ claims ─▶ disks noted ─▶ new ones made ─▶ commit ─▶ limits, VNC ─▶ old ones removed
//!                       │                           │             │ the next start removes disks that
//!                       ▼                           ▼             ▼ are noted and the machine does not have
//!                  given back                 removed again    all undone
//! ```

use serde_json::{Map, Value};

use crate::{
    agent::{
        error::Error,
        guest::links,
        request::{call::Call, reply::UpdateReply},
        view::diff,
        vm::{
            Actor,
            completion::{host_for, machine_type},
            images,
            policy::{Ask, Verdict, judge},
        },
    },
    crash,
    model::VmRecord,
    spec::{DiskForm, DiskSpec, Limits, Note, Violation, VmSpec, VmState, update},
    storage::{StorageError, ZoneRoot, is_qcow2},
};

impl Actor {
    pub(super) async fn update(
        &mut self,
        call: &Call,
        etag: &str,
        (payload, replace_lists): (Map<String, Value>, bool),
        validate_only: bool,
    ) -> Result<UpdateReply, Error> {
        self.check_etag(etag)?;
        if judge(self.record.state, Ask::Update) == Verdict::Refuse {
            return Err(self.wrong_state("the VM is being deleted"));
        }
        let mut patch = update::read(payload, self.record.spec.brand).map_err(Error::Invalid)?;
        if replace_lists {
            patch = patch.against(&self.record.spec);
        }
        let context = self.context.clone();
        let mut updated = {
            let new_mac = || context.new_mac();
            let disk_path = |number| self.layout.disk(number).display().to_string();
            let image = |uuid| images::facts(&context, uuid);
            update::apply(&self.record.spec, &patch, &host_for(&context, &disk_path, &new_mac, &image))
                .map_err(Error::Invalid)?
        };
        let mut unfit = images::violations(&self.context, &updated.spec);
        unfit.extend(sizes_of_overlays(&self.record.spec, &updated.spec));
        if !unfit.is_empty() {
            return Err(Error::Invalid(unfit));
        }
        // A VM of an older agent gets its type when it starts; one whose type was unset takes the newest.
        if self.record.spec.machine_type.is_some() {
            updated.spec.machine_type = machine_type(&self.context, &updated.spec).await;
        }
        if self.record.state != VmState::Stopped && update::needs_stopped(&self.record.spec, &updated.spec) {
            let (state, zone) = (self.record.state, self.record.state.zone_state());
            return Err(self.wrong_state(format!(
                "updates to disks are only allowed when state is \"stopped\", currently: {state} ({zone})"
            )));
        }
        // Nic tags that were configured away must not block other changes.
        let violations = links::violations(&self.context, &updated.spec);
        if updated.spec.nics != self.record.spec.nics && !violations.is_empty() {
            return Err(Error::Invalid(violations));
        }
        // Faults from before this check existed must not block other changes.
        let known = self.context.hypervisor(&self.record).faults(&self.record.spec).await;
        let faults = self.context.hypervisor(&self.record).faults(&updated.spec).await;
        let new: Vec<_> = faults.into_iter().filter(|fault| !known.contains(fault)).collect();
        if !new.is_empty() {
            return Err(Error::Invalid(new));
        }
        let mut notes = updated.notes;
        notes.extend(self.containers(&updated.spec).await);
        let vm = self.changed(|vm| vm.spec = updated.spec.clone());
        let changes = diff::changes(&self.record, &vm);
        let next_boot = if self.record.state == VmState::Stopped { Vec::new() } else { updated.next_boot };
        let outcome = |vm: VmRecord| UpdateReply { vm: Box::new(vm), changes, next_boot, notes };
        if validate_only {
            return Ok(outcome(vm));
        }
        if updated.spec == self.record.spec {
            return self.keep_answer(call, outcome(self.record.clone())).await;
        }
        if self.live.process.is_some() && links::rules_differ(&self.record.spec, &updated.spec) {
            // Rules that can't be applied are not promised.
            links::check(&self.context, &vm).await?;
        }
        self.context.claim(self.record.uuid, &updated.spec, self.record.running_nics())?;
        let before = self.record.spec.clone();
        let result = self.carry_out(call, vm, outcome).await;
        if result.is_err() {
            self.context.claims.put(self.record.uuid, &before, self.record.running_nics());
        }
        result
    }

    /// Returns notes on files that are attached raw but are qcow2 images: no mistake, but worth a note.
    async fn containers(&self, spec: &VmSpec) -> Vec<Note> {
        let is_new =
            |path: &&String| !self.record.spec.disks.iter().any(|disk| disk.path.as_ref() == Some(path));
        let files = spec.disks.iter().enumerate().filter(|(_, disk)| !disk.is_made_here());
        let files =
            files.filter_map(|(index, disk)| Some((index, disk.path.as_ref().filter(is_new)?.clone())));
        let (root, files) = (self.layout.root(), files.collect::<Vec<_>>());
        let look = move || {
            let root = ZoneRoot::open(&root).ok()?;
            let is_container = |path: &str| root.open_file(path, false).is_ok_and(|file| is_qcow2(&file));
            let why =
                "the file is a qcow2 image and is attached raw; qemu-img convert -O raw makes it a raw one";
            let found = files.into_iter().filter(|(_, path)| is_container(path));
            Some(found.map(|(index, _)| Note::new(format!("disks.{index}.path"), why)).collect::<Vec<_>>())
        };
        tokio::task::spawn_blocking(look).await.ok().flatten().unwrap_or_default()
    }

    async fn carry_out(
        &mut self,
        call: &Call,
        vm: VmRecord,
        outcome: impl FnOnce(VmRecord) -> UpdateReply,
    ) -> Result<UpdateReply, Error> {
        let before = self.record.spec.clone();
        // Until the commit: from then on the record names them.
        let _images = images::hold(&self.context, &vm.spec)?;
        let unsettled = unsettled(&before, &vm.spec);
        if !unsettled.is_empty() {
            self.note(|vm| vm.unsettled.clone_from(&unsettled)).await?;
        }
        let mut vm = VmRecord { unsettled, ..vm };
        let made = self.make_disks(&before, &vm.spec).await?;
        for (name, form) in &made {
            let disk = vm.spec.disks.iter_mut().find(|disk| disk.file_name() == Some(name));
            if let Some(disk) = disk {
                disk.form = *form;
            }
        }
        let made = made.into_iter().map(|(name, _)| name).collect();
        crash::point("update.disks");
        let outcome = outcome(vm.clone());
        let answer = call.answer(&Ok(outcome.clone()));
        if let Err(error) = self.commit(call, vm, Vec::new(), answer).await {
            self.remove_disks(made).await;
            return Err(error);
        }
        crash::point("update.committed");
        self.make_effective(&before).await;
        let uncut = self.cut_disks().await;
        crash::point("update.effective");
        self.remove_disks(self.record.leftover_disks()).await;
        // Committed with the next change.
        self.record.unsettled = uncut;
        Ok(outcome)
    }

    /// Creates the new disks, and grows others; returns the names of new ones, with the forms of those from images. On
    /// an error none of them is left.
    async fn make_disks(
        &self,
        before: &VmSpec,
        after: &VmSpec,
    ) -> Result<Vec<(String, Option<DiskForm>)>, Error> {
        let (volumes, layout) = (self.context.platform.volumes.clone(), self.layout.clone());
        let was = before.disks.clone();
        let disks: Vec<DiskSpec> = after.disks.iter().filter(|disk| disk.is_made_here()).cloned().collect();
        let work = move || {
            let mut made = Vec::new();
            for disk in disks {
                let Some(name) = disk.file_name() else { continue };
                let size = disk.mebibytes();
                let done = match was.iter().find(|old| old.path == disk.path) {
                    // An existing file must not be removed.
                    None => match images::make_disk(&*volumes, &layout, &disk) {
                        Err(error @ StorageError::Exists { .. }) => Err(error),
                        created => {
                            made.push((name.to_owned(), created.as_ref().ok().copied().flatten()));
                            created.map(drop)
                        }
                    },
                    Some(old) if old.size < disk.size => volumes.grow(layout.zonepath(), name, size),
                    // A smaller one is cut once that is committed.
                    Some(_) => Ok(()),
                };
                if let Err(error) = done {
                    return Err((made, error));
                }
            }
            Ok(made)
        };
        match tokio::task::spawn_blocking(work).await.map_err(Error::internal)? {
            Ok(made) => Ok(made),
            Err((made, error)) => {
                self.remove_disks(made.into_iter().map(|(name, _)| name).collect()).await;
                Err(error.into())
            }
        }
    }

    /// Cuts the disks that an update shrank; returns the names of those that could not be cut.
    pub(super) async fn cut_disks(&self) -> Vec<String> {
        let disks = self.record.disks_to_cut();
        let (volumes, zone) = (self.context.platform.volumes.clone(), self.layout.zonepath().to_owned());
        let cut = move || {
            let mut failed = Vec::new();
            for (disk, name) in disks.iter().filter_map(|disk| Some((disk, disk.file_name()?))) {
                if let Err(error) = volumes.settle(&zone, name, disk.mebibytes()) {
                    tracing::warn!(%error, disk = name, zone = %zone.display(), "cannot shrink; the next boot tries again");
                    failed.push(name.to_owned());
                }
            }
            failed
        };
        tokio::task::spawn_blocking(cut).await.unwrap_or_default()
    }

    /// Tolerates missing disks.
    pub(super) async fn remove_disks(&self, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        let (volumes, zone) = (self.context.platform.volumes.clone(), self.layout.zonepath().to_owned());
        let remove = move || {
            for name in names {
                if let Err(error) = volumes.remove(&zone, &name) {
                    tracing::warn!(%error, disk = name, zone = %zone.display(), "cannot remove; the next start tries again");
                }
            }
        };
        let _ = tokio::task::spawn_blocking(remove).await;
    }

    /// Applies what can take effect while the VM runs. A part that fails waits for the next boot.
    async fn make_effective(&mut self, before: &VmSpec) {
        let after = self.record.spec.clone();
        if let Some(process) = &self.live.process
            && Limits::of(before) != Limits::of(&after)
        {
            let reports = process.bound(&Limits::of(&after));
            for report in reports.iter().filter(|report| !report.is_effective()) {
                tracing::warn!(property = report.property, reason = report.reason, "the limit has no effect");
            }
            let vm = self.changed(|vm| {
                if let Some(machine) = &mut vm.machine {
                    machine.limits = reports;
                }
            });
            self.commit_surely(&Call::own(), vm, None).await;
        }
        if self.live.process.is_some() && links::differ(before, &after) {
            self.follow_links().await;
        }
        let display = |spec: &VmSpec| (spec.vnc_port, spec.vnc_password.clone());
        if let Some(machine) = self.live.machine.clone()
            && display(before) != display(&after)
        {
            self.close_vnc().await;
            self.open_vnc(&machine).await;
            let port = self.vnc_port();
            let vm = self.changed(|vm| vm.vnc_port = port);
            self.commit_surely(&Call::own(), vm, None).await;
        }
    }
}

/// The size of an overlay is in its header, which the guest may have written: the agent does not change it.
fn sizes_of_overlays(before: &VmSpec, after: &VmSpec) -> Vec<Violation> {
    let was = |disk: &DiskSpec| before.disks.iter().find(|old| old.path == disk.path).map(|old| old.size);
    let changed = |(index, disk): (usize, &DiskSpec)| {
        let is_changed = disk.is_overlay() && was(disk).is_some_and(|size| size != disk.size);
        is_changed.then(|| {
            let why = "the disk is an overlay over its image, because this file system can't share blocks; such a disk keeps the size that it was made with; with zones_dir on xfs or btrfs it can grow";
            Violation::value(format!("disks.{index}.size"), why)
        })
    };
    after.disks.iter().enumerate().filter_map(changed).collect()
}

/// Returns the file names of disks that are created, removed or cut between the machines.
fn unsettled(before: &VmSpec, after: &VmSpec) -> Vec<String> {
    let not_in = |spec: &VmSpec, disk: &DiskSpec| !spec.disks.iter().any(|other| other.path == disk.path);
    let made = after.disks.iter().filter(|disk| not_in(before, disk));
    let gone = before.disks.iter().filter(|disk| not_in(after, disk));
    let is_less =
        |disk: &&DiskSpec| before.disks.iter().any(|old| old.path == disk.path && old.size > disk.size);
    let shrunk = after.disks.iter().filter(is_less);
    let ours = made.chain(gone).chain(shrunk).filter(|disk| disk.is_made_here());
    ours.filter_map(DiskSpec::file_name).map(str::to_owned).collect()
}
