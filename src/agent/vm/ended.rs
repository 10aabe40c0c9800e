//! What a hypervisor does by itself: it ends, stops its guest, or falls silent.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    agent::{
        context::transition::Transition,
        error::Error,
        request::{call::Call, reply::VmReply},
        vm::{Actor, disks, exit, live::Live, patience::briefly, resets::Resets, stop::Waiting},
    },
    crash,
    hypervisor::MachineEvent,
    model::{EventKind, Exit, ExitReason, VmRecord},
    spec::{BootOptions, VmState},
    zone::{Ended, Found},
};

/// How long a hypervisor that fell silent may hold up its VM's other commands.
const REATTACH: Duration = Duration::from_secs(2);

/// How long it may take to say what it does.
const STATUS_TIME: Duration = Duration::from_secs(1);

/// Between two panics of a guest that are told.
const PANICS: Duration = Duration::from_secs(10);

/// What a call is told whose VM is stopped now.
pub(super) fn stop_result(vm: &VmRecord, reboots: bool) -> Result<VmReply, Error> {
    if reboots {
        let message = "another request stopped the VM while it was rebooting".to_owned();
        return Err(Error::WrongState { uuid: vm.uuid, state: vm.state, message });
    }
    Ok(VmReply::of(vm))
}

/// The end was not written down: what tells of it stays for the next agent, which answers.
fn refuse(waiting: Vec<Waiting>) {
    for Waiting { reply, .. } in waiting {
        let _ = reply.send(Err(Error::Stopping));
    }
}

impl Actor {
    /// The process is gone, by whatever.
    pub(super) async fn on_ended(&mut self, ended: Ended) {
        self.drain_last_events().await;
        crash::point("ended");
        let answers = self.stop.as_ref().is_none_or(|stop| !stop.button.is_unknown());
        let exit = exit::exit(&self.context, &self.record, ended, self.last_words.take(), answers);
        self.console.unwatch();
        self.live = Live::default();
        self.resets = Resets::default();
        let stop = self.stop.take();
        let then_start =
            stop.as_ref().is_some_and(|stop| stop.then_start) && self.context.draining.check().is_ok();
        let waiting = stop.map(|stop| stop.waiting).unwrap_or_default();

        let host_boot = self.context.platform.host_boot.clone();
        // That it ran could not be written down.
        let vm = self.after(exit, then_start, |vm| vm.host_boot = Some(host_boot));
        let by_operator = vm.exit.as_ref().is_some_and(|exit| exit.reason == ExitReason::Operator);
        let killed = self.record.kill.clone().filter(|_| by_operator);
        let killed = killed.map(|kill| Call::from_waiting(kill.call));
        let cause = waiting.first().map(|first| first.call.clone()).or(killed).unwrap_or_else(Call::own);
        if then_start {
            if !self.commit_surely(&cause, vm, None).await {
                return refuse(waiting);
            }
            self.forget().await;
            let result = Box::pin(self.start(&cause, &BootOptions::default(), None, |_| ())).await;
            for Waiting { reply, .. } in waiting {
                let _ = reply.send(result.clone());
            }
            return;
        }
        let stopped = vm.clone();
        let result = |waiting: &Waiting| stop_result(&stopped, waiting.reboots);
        let answers: Vec<_> =
            waiting.iter().filter_map(|waiting| waiting.call.answer(&result(waiting))).collect();
        if !self.commit_surely(&cause, vm, answers).await {
            return refuse(waiting);
        }
        self.forget().await;
        for waiting in waiting {
            let result = result(&waiting);
            let _ = waiting.reply.send(result);
        }
    }

    /// The record of a VM whose hypervisor is gone. With `again` the second half of a reboot is still to be done; one that
    /// never ran has no exit, and `never_ran` says what becomes of its turn.
    pub(super) fn after(&self, exit: Exit, again: bool, never_ran: impl FnOnce(&mut VmRecord)) -> VmRecord {
        self.changed(|vm| {
            // Those of a start or a deletion that was under way ask again.
            vm.waiting.clear();
            if vm.state == VmState::Starting {
                never_ran(vm);
            } else {
                vm.exit = Some(exit);
            }
            vm.state = VmState::Stopped;
            (vm.machine, vm.boot, vm.kill) = (None, None, None);
            vm.stop = vm.stop.take().filter(|_| again);
        })
    }

    /// Removes what the process had of the host. Not before its end is written down, which others wait for;
    /// the next start does it for an agent that died in between.
    async fn forget(&self) {
        self.context.platform.zone.forget(self.record.uuid, &self.layout).await;
        disks::settle(&self.context, &self.record).await;
        self.unplug().await;
        self.context.claims.put(self.record.uuid, &self.record.spec, &[]);
    }

    /// Removes what is left of its links.
    pub(super) async fn unplug(&self) {
        if let Err(error) = self.context.platform.links.unplug(self.record.uuid).await {
            tracing::warn!(%error, "the links could not be removed; the next start tries again");
        }
    }

    /// What the hypervisor said just before it went may still be in the pipe.
    async fn drain_last_events(&mut self) {
        let Some(machine) = self.live.machine.clone() else { return };
        let hear = async {
            while let Some(event) = machine.next_event().await {
                self.note_last_words(&event);
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), hear).await;
    }

    fn note_last_words(&mut self, event: &MachineEvent) {
        let panicked = matches!(self.last_words, Some(MachineEvent::Panicked));
        if matches!(event, MachineEvent::Panicked | MachineEvent::Shutdown { .. }) && !panicked {
            self.last_words = Some(event.clone());
        }
    }

    pub(super) async fn on_event(&mut self, event: Option<MachineEvent>) {
        let Some(event) = event else { return self.on_silence().await };
        self.note_last_words(&event);
        match event {
            MachineEvent::Stopped => self.check_run_status().await,
            MachineEvent::Reset { guest } => {
                let before = self.record.machine.as_ref().and_then(|machine| machine.last_reset);
                self.resets.count(guest, before);
                // It went its own way after a panic.
                self.last_words = None;
                self.release_button().await;
            }
            MachineEvent::Panicked => self.journal_panic().await,
            MachineEvent::Shutdown { .. } => {}
        }
    }

    /// A guest that panics again and again must not fill the journal.
    async fn journal_panic(&mut self) {
        let now = Instant::now();
        if self.live.panic_told.is_some_and(|told| now < told + PANICS) {
            return;
        }
        self.live.panic_told = Some(now);
        tracing::warn!("the guest panicked");
        let event = Call::own().event(self.record.uuid, EventKind::Panicked);
        if let Err(error) = Transition::new(&self.context).event(event).only().await {
            tracing::warn!(%error, "the guest panicked, and that is not in the journal");
        }
    }

    /// Guest code no longer runs, though nobody asked for it. It stays failed until it is resumed or
    /// stopped: a hypervisor that goes to and fro must not fill the journal.
    pub(super) async fn check_run_status(&mut self) {
        let was = self.record.state;
        if !matches!(was, VmState::Running | VmState::Suspended) {
            return;
        }
        let Some(machine) = self.live.machine.clone() else { return };
        // It may flood its events and say nothing else: who waits for the VM is not held up for long.
        let deadline = Instant::now() + STATUS_TIME;
        let status = match briefly(deadline, machine.status()).await {
            // On the way out, or on the way through a reset.
            Ok(status) if status.state() == was || status.status == "shutdown" => return,
            // It sleeps or wakes as it likes, or a pause was not written down, or not heard the end of.
            Ok(status) if status.state() != VmState::Failed => {
                if self.sleeps.may_tell() {
                    let vm = self.changed(|vm| vm.state = status.state());
                    self.commit_surely(&Call::own(), vm, None).await;
                }
                return;
            }
            Ok(status) => status.status,
            Err(error) => {
                tracing::warn!(%error, "the hypervisor stopped its guest and does not say why");
                return;
            }
        };
        tracing::error!(status, "guest failed");
        let exit = match status.as_str() {
            "guest-panicked" => {
                let detail = "the guest panicked and is halted, as on_panic=pause says; resume it, or stop it with force";
                Exit::noticed(ExitReason::GuestPanic, detail.to_owned())
            }
            status => {
                let detail = format!("the hypervisor stopped the guest: {status}");
                Exit::noticed(ExitReason::HypervisorError, detail)
            }
        };
        let vm = self.changed(|vm| {
            vm.state = VmState::Failed;
            vm.exit = Some(exit);
        });
        self.commit_surely(&Call::own(), vm, None).await;
    }

    /// The control connection is gone. Mostly the process is too; if not, it is tried again.
    async fn on_silence(&mut self) {
        self.live.machine = None;
        let Some(process) = self.live.process.clone() else { return };
        let gone = tokio::time::timeout(Duration::from_secs(1), process.ended()).await;
        if let Ok(ended) = gone {
            return self.on_ended(ended).await;
        }
        if !self.reattach(REATTACH).await {
            tracing::error!("the hypervisor lives but can't be controlled");
            let vm = self.changed(|vm| vm.state = VmState::Lost);
            self.commit_surely(&Call::own(), vm, None).await;
        }
    }

    /// Connects to a hypervisor that lives; whether that worked. What happened meanwhile is looked up.
    async fn reattach(&mut self, patience: Duration) -> bool {
        let hypervisor = self.context.hypervisor(&self.record).clone();
        // It hands viewers to the old connection, and keeps it open: a hypervisor serves one at a time.
        self.close_vnc().await;
        let Ok(machine) = hypervisor.attach(self.record.uuid, &self.layout.control(), patience).await else {
            return false;
        };
        self.open_vnc(&machine).await;
        self.live.machine = Some(machine);
        self.check_run_status().await;
        true
    }

    /// A lost VM of whose process nothing was known: what the host says now.
    pub(super) async fn find_process(&mut self) {
        self.recover_at = None;
        match self.context.platform.zone.find(self.record.uuid, &self.layout) {
            Found::Alive(process) => {
                self.live.process = Some(process);
                self.attend().await;
            }
            Found::Gone(ended) => self.on_ended(ended).await,
            Found::Unknown(why) => tracing::debug!(why, "still lost"),
        }
    }

    /// A lost VM may be found again; then it is what it was.
    pub(super) async fn recover(&mut self) {
        self.recover_at = None;
        if self.live.process.is_none() {
            self.find_process().await;
        }
        if self.live.process.is_none() || !self.reattach(REATTACH).await {
            return;
        }
        tracing::info!("found again");
        let stops = self.record.stop.is_some();
        let state = if stops { VmState::Stopping } else { VmState::Running };
        let vm = self.changed(|vm| vm.state = state);
        self.commit_surely(&Call::own(), vm, None).await;
        match (stops, &self.stop) {
            (true, None) => self.resume_stop().await,
            // Its deadline goes on.
            (true, Some(_)) => self.begin_button().await,
            // It may be paused, or have failed.
            (false, _) => self.check_run_status().await,
        }
    }
}
