//! Requests to a running machine: signals, interrupts, pauses, changes of media.

use crate::{
    agent::{
        context::command::Control,
        error::Error,
        request::{call::Call, reply::VmReply},
        vm::{
            Actor,
            patience::patient,
            policy::{Ask, Verdict, judge},
            screen,
            signal::signal_name,
        },
    },
    hypervisor::{Medium, Picture},
    model::{Kill, VmRecord},
    spec::{Media, VmState, validate},
    storage::{StorageError, ZoneRoot, take_disk},
};

/// Where `sysrq screenshot` leaves its picture.
const PICTURE: &str = "/tmp/vm.ppm";

impl Actor {
    pub(super) async fn control(
        &mut self,
        call: &Call,
        etag: &str,
        control: Control,
    ) -> Result<VmReply, Error> {
        self.check_etag(etag)?;
        match control {
            Control::Kill(signal) => {
                let uuid = self.record.uuid;
                let is_allowed = judge(self.record.state, Ask::Signal) == Verdict::Act;
                let process =
                    self.live.process.clone().filter(|_| is_allowed).ok_or_else(|| {
                        self.wrong_state(format!("Cannot find running init PID for VM {uuid}"))
                    })?;
                if let Some(signal) = signal {
                    // If the signal ends it, the exit names the caller.
                    let kill = Kill { call: call.waiting(false), signal: signal.as_raw() };
                    let act = async { process.signal(signal).map_err(Error::internal) };
                    let told = ("KillVm", signal_name(signal));
                    return self.once(call, told, |vm| vm.kill = Some(kill), act).await;
                }
            }
            Control::Nmi => {
                let machine = self.inspect("send an NMI to")?.machine;
                let told = ("SendSysrq", "nmi".to_owned());
                return self.once(call, told, |_| (), patient(machine.inject_nmi())).await;
            }
            Control::Screenshot => {
                let machine = self.inspect("take a screenshot of")?.machine;
                screen::check(&self.record)?;
                let (rpc, detail) = ("SendSysrq", "screenshot");
                self.context.journal_call(call, Some(self.record.uuid), rpc, detail).await;
                patient(machine.wake_screen()).await?;
                let picture = patient(machine.screenshot(Picture::Ppm)).await?;
                let (root, draft) = (self.layout.root(), self.layout.picture_draft());
                let put = move || ZoneRoot::open(&root)?.put(&draft, PICTURE, &picture);
                tokio::task::spawn_blocking(put).await.map_err(Error::internal)??;
            }
            Control::Pause => {
                self.expect(Ask::Pause, VmState::Running, "pause")?;
                patient(self.inspect("pause")?.machine.pause()).await?;
                return self.enter(call, |vm| vm.state = VmState::Paused).await;
            }
            Control::Resume => {
                let machine = self.inspect("resume")?.machine;
                self.expect(Ask::Resume, VmState::Paused, "resume")?;
                match self.record.state {
                    VmState::Suspended => patient(machine.wake()).await?,
                    _ => patient(machine.resume()).await?,
                }
                return self
                    .enter(call, |vm| {
                        vm.exit = vm.exit.take().filter(|_| vm.state != VmState::Failed);
                        vm.state = VmState::Running;
                    })
                    .await;
            }
            Control::Media { drive, path } => return self.change_media(call, &drive, &path).await,
        }
        self.keep_answer(call, self.reply(false)).await
    }

    fn expect(&self, ask: Ask, wanted: VmState, verb: &str) -> Result<(), Error> {
        let state = self.record.state;
        if judge(state, ask) == Verdict::Act {
            return Ok(());
        }
        Err(self.wrong_state(format!("Cannot {verb} vm from state \"{state}\", must be \"{wanted}\".")))
    }

    async fn enter(&mut self, call: &Call, edit: impl FnOnce(&mut VmRecord)) -> Result<VmReply, Error> {
        let vm = self.changed(edit);
        let outcome = VmReply::of(&vm);
        let answer = call.answer(&Ok(outcome.clone()));
        self.commit(call, vm, Vec::new(), answer).await?;
        Ok(outcome)
    }

    /// Also changes the path of the VM's own CD, so that the next boot finds the new medium.
    async fn change_media(&mut self, call: &Call, drive: &str, path: &str) -> Result<VmReply, Error> {
        if judge(self.record.state, Ask::Media) != Verdict::Act {
            let state = self.record.state;
            return Err(self.wrong_state(format!("Cannot change the media of a vm in state \"{state}\".")));
        }
        let running = self.live.machine.clone();
        let id = self.cd_drive(drive).ok_or_else(|| {
            let what = if drive.is_empty() { "a CD drive".to_owned() } else { format!("CD drive: {drive}") };
            StorageError::Missing { what }
        })?;
        let own = self.record.spec.disks.iter().position(|disk| disk.drive().as_ref() == Some(&id));
        let medium = if path.is_empty() {
            None
        } else {
            validate::zone_path(path).map_err(|why| Error::invalid("path", why))?;
            let (root, path) = (self.layout.root(), path.to_owned());
            let open = move || {
                let file = ZoneRoot::open(&root)?.open_file(&path, false)?;
                take_disk(&file, &path, false)?;
                Ok::<_, StorageError>(file)
            };
            Some(tokio::task::spawn_blocking(open).await.map_err(Error::internal)??)
        };
        if running.is_none() && medium.is_none() {
            let message = "the CD drive of a stopped VM cannot be emptied; remove it with remove_disks";
            return Err(self.wrong_state(message));
        }
        let path = Some(path.to_owned()).filter(|path| !path.is_empty());
        let edit = |vm: &mut VmRecord| {
            if let Some(own) = own {
                vm.spec.disks[own].path.clone_from(&path);
            }
            let drives = vm.machine.iter_mut().flat_map(|machine| &mut machine.cds);
            for cd in drives.filter(|cd| cd.id == id) {
                cd.path = path.clone().unwrap_or_default();
            }
        };
        let invalid = validate::check_whole(&self.changed(edit).spec);
        if !invalid.is_empty() {
            return Err(Error::Invalid(invalid));
        }
        if let Some(machine) = running {
            patient(machine.change_medium(&id, medium.map(|file| Medium { file }))).await?;
        }
        self.enter(call, edit).await
    }

    /// Returns the CD drive with that name or medium; the first when `wanted` is empty.
    fn cd_drive(&self, wanted: &str) -> Option<String> {
        let is_wanted = |id: &str, path: &str| wanted.is_empty() || [id, path].contains(&wanted);
        match &self.record.machine {
            // What runs decides.
            Some(machine) => {
                machine.cds.iter().find(|cd| is_wanted(&cd.id, &cd.path)).map(|cd| cd.id.clone())
            }
            None => {
                let cds = self.record.spec.disks.iter().filter(|disk| disk.media == Media::Cdrom);
                let mut names =
                    cds.filter_map(|disk| Some((disk.drive()?, disk.path.clone().unwrap_or_default())));
                names.find(|(id, path)| is_wanted(id, path)).map(|(id, _)| id)
            }
        }
    }
}
