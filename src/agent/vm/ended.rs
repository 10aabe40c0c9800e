//! Handles what a hypervisor does unasked: it exits, stops its guest, or falls silent.

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

/// How long a silent hypervisor may delay its VM's other commands.
const REATTACH: Duration = Duration::from_secs(2);

/// How long it may take to report its status.
const STATUS_TIME: Duration = Duration::from_secs(1);

/// Interval of journaled panics of a guest.
const PANICS: Duration = Duration::from_secs(10);

/// Returns the reply to a call whose VM has stopped.
pub(super) fn stop_result(vm: &VmRecord, reboots: bool) -> Result<VmReply, Error> {
    if reboots {
        let message = "another request stopped the VM while it was rebooting".to_owned();
        return Err(Error::WrongState { uuid: vm.uuid, state: vm.state, message });
    }
    Ok(VmReply::of(vm))
}

/// Refuses callers when the exit is not committed: its traces stay for the next agent, which answers.
fn refuse(waiting: Vec<Waiting>) {
    for Waiting { reply, .. } in waiting {
        let _ = reply.send(Err(Error::Stopping));
    }
}

impl Actor {
    /// Handles the exit of the process.
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
        // Its start could not be committed.
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

    /// Returns the record of a VM whose hypervisor is gone. With `again`, the second half of a reboot is
    /// still due; a VM that never ran has no exit, and `never_ran` decides its turn.
    pub(super) fn after(&self, exit: Exit, again: bool, never_ran: impl FnOnce(&mut VmRecord)) -> VmRecord {
        self.changed(|vm| {
            // Callers of an interrupted start or deletion ask again.
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

    /// Releases the process's host resources. Runs after its exit is committed, which others wait for; the
    /// next start does it for an agent that died in between.
    async fn forget(&self) {
        self.context.platform.zone.forget(self.record.uuid, &self.layout).await;
        disks::settle(&self.context, &self.record).await;
        self.unplug().await;
        self.context.claims.put(self.record.uuid, &self.record.spec, &[]);
    }

    /// Removes the VM's remaining links.
    pub(super) async fn unplug(&self) {
        if let Err(error) = self.context.platform.links.unplug(self.record.uuid).await {
            tracing::warn!(%error, "the links could not be removed; the next start tries again");
        }
    }

    /// Reads the hypervisor's last events, which may still be in the pipe.
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
                // The guest went on after a panic.
                self.last_words = None;
                self.release_button().await;
            }
            MachineEvent::Panicked => self.journal_panic().await,
            MachineEvent::Shutdown { .. } => {}
        }
    }

    /// Journals a panic; repeated panics must not fill the journal.
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

    /// Handles a guest that no longer runs, though nobody requested that. It stays failed until it is resumed
    /// or stopped: a hypervisor that alternates must not fill the journal.
    pub(super) async fn check_run_status(&mut self) {
        let was = self.record.state;
        if !matches!(was, VmState::Running | VmState::Suspended) {
            return;
        }
        let Some(machine) = self.live.machine.clone() else { return };
        // It may flood its events and answer nothing else: callers of the VM must not wait for long.
        let deadline = Instant::now() + STATUS_TIME;
        let status = match briefly(deadline, machine.status()).await {
            // It is exiting, or going through a reset.
            Ok(status) if status.state() == was || status.status == "shutdown" => return,
            // The guest sleeps or wakes as it likes, or a pause was not committed or not answered.
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

    /// Handles a lost control connection. Usually the process is gone too; if not, reconnects.
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

    /// Reconnects to a running hypervisor and checks its status; returns whether that worked.
    async fn reattach(&mut self, patience: Duration) -> bool {
        let hypervisor = self.context.hypervisor(&self.record).clone();
        // The endpoint hands viewers to the old connection and keeps it open, and a hypervisor serves only
        // one.
        self.close_vnc().await;
        let Ok(machine) = hypervisor.attach(self.record.uuid, &self.layout.control(), patience).await else {
            return false;
        };
        self.open_vnc(&machine).await;
        self.live.machine = Some(machine);
        self.check_run_status().await;
        true
    }

    /// Asks the host again for the unknown process of a lost VM.
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

    /// Tries to find a lost VM again, and restores its state.
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
            // Its deadline holds.
            (true, Some(_)) => self.begin_button().await,
            // It may be paused, or have failed.
            (false, _) => self.check_run_status().await,
        }
    }
}
