//! The one who owns a VM. Commands queue to it; it alone changes the record.
//!
//! ```text
//!   commands ──┐
//!   process ended ──┤
//!   hypervisor events ──┼──▶ actor ──▶ commit ──▶ watchers, `record`
//!   stop deadline ──┘
//! ```
//!
//! The states are drawn in [`crate::spec::VmState`]. A stop is answered when the process is gone,
//! so its callers wait in [`Stop`] meanwhile, and other commands are heard: a second, forced stop
//! may overtake a patient one. A boot is done in one go; commands wait until it is over. What may
//! fail is a commit (disk full): then a command changes nothing, but the end of a process is a fact
//! and is committed again and again until it can be.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{
    Agent,
    call::{BootProgress, Call, Outcome},
    change,
    error::Error,
    registry::VmHandle,
};
use crate::{
    boot::{self, BootFailure, BootRequest, Clock, Running},
    console::{Console, VncEndpoint},
    hypervisor::{Machine, MachineEvent},
    layout::VmLayout,
    spec::{BootOptions, VmState},
    storage::remove_zone,
    store::{
        BootPhase, Commit, EventKind, Exit, ExitReason, Machine as MachineRecord, NewEvent, Phase, Timestamp,
        VmChange, VmRecord,
    },
    zone::{Ended, Process},
};

/// Commands that wait for one VM.
pub(super) const QUEUE: usize = 32;
/// Longest wait for a guest to obey the power button, in seconds: a day.
const MAX_TIMEOUT: u32 = 86_400;
/// vmadm's patience with a reboot.
const REBOOT: Duration = Duration::from_secs(180);

/// Where the answer to a command goes.
pub(super) type Reply = oneshot::Sender<Result<Outcome, Error>>;

/// What a VM can be told.
#[derive(Debug)]
pub(super) enum Command {
    Start {
        call: Call,
        etag: String,
        options: BootOptions,
        progress: BootProgress,
        reply: Reply,
    },
    Stop {
        call: Call,
        etag: String,
        force: bool,
        timeout_seconds: u32,
        reply: Reply,
    },
    Reboot {
        call: Call,
        etag: String,
        force: bool,
        reply: Reply,
    },
    Delete {
        call: Call,
        etag: String,
        reply: Reply,
    },
    /// Gives the running machine, for looking at it.
    Look {
        reply: oneshot::Sender<Result<Look, Error>>,
    },
}

/// A running machine and where its screen is.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) machine: Arc<dyn Machine>,
    pub(super) vnc: Option<SocketAddr>,
}

/// A hypervisor that is there, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) process: Option<Arc<dyn Process>>,
    pub(super) machine: Option<Arc<dyn Machine>>,
    pub(super) vnc: Option<VncEndpoint>,
    /// Waits for the first byte of this boot.
    _first_byte: Option<AbortOnDropHandle<()>>,
}

/// A stop that is under way.
#[derive(Debug)]
struct Stop {
    deadline: Instant,
    waiting: Vec<(Call, Reply)>,
    then_start: bool,
}

/// What a shutdown event said.
#[derive(Clone, Debug)]
enum LastWords {
    Shutdown { guest: bool, reason: String },
    Panicked,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Actor {
    agent: Agent,
    layout: VmLayout,
    console: Console,
    record: VmRecord,
    published: watch::Sender<Arc<VmRecord>>,
    commands: mpsc::Receiver<Command>,
    live: Live,
    stop: Option<Stop>,
    last_words: Option<LastWords>,
}

enum Then {
    GoOn,
    End,
}

impl Actor {
    /// Starts the actor of a VM, which may have a hypervisor already.
    pub(super) fn spawn(agent: &Agent, record: VmRecord, live: Option<Live>) -> VmHandle {
        let layout = agent.inner.layout.vm(record.uuid);
        let console = Console::new(&layout, agent.inner.config.console.keep_kib << 10, &agent.inner.consoles);
        if live.is_some() {
            console.watch();
        }
        let (sender, commands) = mpsc::channel(QUEUE);
        let (published, watched) = watch::channel(Arc::new(record.clone()));
        let handle = VmHandle::new(record.uuid, sender, watched, console.clone());
        let resume_stop = record.state == VmState::Stopping;
        let mut actor = Self {
            agent: agent.clone(),
            layout,
            console,
            record,
            published,
            commands,
            live: live.unwrap_or_default(),
            stop: None,
            last_words: None,
        };
        agent.inner.tasks.spawn(async move {
            if resume_stop {
                actor.resume_stop().await;
            }
            actor.run().await;
        });
        handle
    }

    async fn run(mut self) {
        let stopping = self.agent.stopping();
        loop {
            let deadline = self.stop.as_ref().map(|stop| stop.deadline);
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                ended = ended(self.live.process.clone()) => self.on_ended(ended).await,
                event = next_event(self.live.machine.clone()) => self.on_event(event).await,
                () = until(deadline) => self.on_deadline(),
                command = self.commands.recv() => match command {
                    Some(command) => if matches!(self.obey(command).await, Then::End) { break },
                    None => break,
                },
            }
        }
    }

    async fn obey(&mut self, command: Command) -> Then {
        match command {
            Command::Start { call, etag, options, progress, reply } => {
                let result = match self.may_start(&etag) {
                    Ok(None) => {
                        self.start(&call, &options, progress, |vm| vm.spec.autoboot = Some(true)).await
                    }
                    Ok(Some(already)) => Ok(already),
                    Err(error) => Err(error),
                };
                let _ = reply.send(result);
            }
            Command::Stop { call, etag, force, timeout_seconds, reply } => {
                self.begin_stop(call, &etag, force, timeout_seconds, reply).await;
            }
            Command::Reboot { call, etag, force, reply } => self.reboot(call, &etag, force, reply).await,
            Command::Delete { call, etag, reply } => {
                let result = self.delete(&call, &etag).await;
                let gone = result.is_ok();
                let _ = reply.send(result);
                if gone {
                    return Then::End;
                }
            }
            Command::Look { reply } => {
                let _ = reply.send(self.look());
            }
        }
        Then::GoOn
    }

    fn check_etag(&self, etag: &str) -> Result<(), Error> {
        if etag.is_empty() || etag == self.record.etag() {
            return Ok(());
        }
        Err(Error::EtagMismatch { uuid: self.record.uuid, current: self.record.etag() })
    }

    fn wrong_state(&self, message: impl Into<String>) -> Error {
        Error::WrongState { uuid: self.record.uuid, state: self.record.state, message: message.into() }
    }

    fn outcome(&self, already: bool, phases: Vec<BootPhase>) -> Outcome {
        Outcome::Vm { vm: Box::new(self.record.clone()), already, phases }
    }

    // --- start ---------------------------------------------------------------------------------

    fn may_start(&self, etag: &str) -> Result<Option<Outcome>, Error> {
        self.check_etag(etag)?;
        match self.record.state {
            VmState::Stopped => Ok(None),
            VmState::Running => Ok(Some(self.outcome(true, Vec::new()))),
            state => {
                Err(self.wrong_state(format!("Cannot start vm from state \"{state}\", must be \"stopped\".")))
            }
        }
    }

    async fn start(
        &mut self,
        call: &Call,
        options: &BootOptions,
        progress: BootProgress,
        edit: impl FnOnce(&mut VmRecord),
    ) -> Result<Outcome, Error> {
        let since = std::time::Instant::now();
        let starting = self.changed(|vm| {
            vm.state = VmState::Starting;
            edit(vm);
        });
        self.commit(call, starting, Vec::new(), None).await?;

        let mut phases = Vec::new();
        match self.boot(call, options, progress, since, &mut phases).await {
            Ok(running) => self.started(call, running, phases, since).await,
            Err(failure) => {
                let error = Error::BootFailed {
                    uuid: self.record.uuid,
                    step: failure.step.to_owned(),
                    reason: failure.reason,
                };
                let stopped = self.changed(|vm| vm.state = VmState::Stopped);
                self.commit_surely(call, stopped, call.answer(&Err(error.clone()))).await;
                Err(error)
            }
        }
    }

    async fn boot(
        &self,
        call: &Call,
        options: &BootOptions,
        progress: BootProgress,
        since: std::time::Instant,
        phases: &mut Vec<BootPhase>,
    ) -> Result<Running, BootFailure> {
        let request = BootRequest {
            platform: &self.agent.inner.platform,
            vm: &self.record,
            layout: &self.layout,
            console: &self.console,
            options,
            vnc_address: self.agent.inner.config.vnc.address,
        };
        let (sender, mut reached) = mpsc::channel(Clock::PHASES);
        let boot = async {
            // Dropped with the boot, so that the listener below ends too.
            boot::boot(request, Clock::new(since, sender)).await
        };
        let listen = async {
            while let Some(phase) = reached.recv().await {
                if let Some(progress) = &progress {
                    let _ = progress.try_send(phase.clone());
                }
                let event = call.event(self.record.uuid, EventKind::Boot(phase.clone()));
                self.agent.inner.store.commit_soon(Commit { events: vec![event], ..Commit::default() }).await;
                phases.push(phase);
            }
        };
        tokio::join!(boot, listen).0
    }

    async fn started(
        &mut self,
        call: &Call,
        running: Running,
        phases: Vec<BootPhase>,
        since: std::time::Instant,
    ) -> Result<Outcome, Error> {
        let machine = MachineRecord {
            pid: running.process.pid(),
            booted: Timestamp::now(),
            accelerator: running.accelerator,
            console_start: running.console_start,
        };
        let port = running.vnc.as_ref().map(|vnc| vnc.address().port());
        let vm = self.changed(|vm| {
            vm.state = VmState::Running;
            vm.machine = Some(machine);
            vm.exit = None;
            vm.vnc_port = port;
        });
        let outcome = Outcome::Vm { vm: Box::new(vm.clone()), already: false, phases };
        let answer = call.answer(&Ok(outcome.clone()));
        self.last_words = None;
        self.live = Live {
            process: Some(running.process),
            machine: Some(running.machine),
            vnc: running.vnc,
            _first_byte: Some(self.await_first_byte(call, running.console_start, since)),
        };
        if let Err(error) = self.commit(call, vm, Vec::new(), answer).await {
            // What can't be written down does not run.
            self.kill();
            return Err(error);
        }
        Ok(outcome)
    }

    /// Journals the moment when the guest first prints something.
    fn await_first_byte(&self, call: &Call, start: u64, since: std::time::Instant) -> AbortOnDropHandle<()> {
        let (console, store, call) = (self.console.clone(), self.agent.inner.store.clone(), call.clone());
        let uuid = self.record.uuid;
        AbortOnDropHandle::new(tokio::spawn(async move {
            let Ok(reader) = console.reader(Some(start)) else { return };
            if let Ok(Some(_)) = reader.follow().next().await {
                let phase = boot::phase_at(since, Phase::FirstConsoleByte);
                let events = vec![call.event(uuid, EventKind::Boot(phase))];
                store.commit_soon(Commit { events, ..Commit::default() }).await;
            }
        }))
    }

    // --- stop ----------------------------------------------------------------------------------

    async fn begin_stop(&mut self, call: Call, etag: &str, force: bool, timeout_seconds: u32, reply: Reply) {
        if self.record.state == VmState::Stopped {
            let _ = reply.send(self.check_etag(etag).map(|()| self.outcome(true, Vec::new())));
            return;
        }
        let timeout = Duration::from_secs(timeout_seconds.min(MAX_TIMEOUT).into());
        let begun = match self.may_stop(etag, force) {
            Ok(()) => self.enter_stop(&call, force, timeout, |vm| vm.spec.autoboot = Some(false)).await,
            Err(error) => Err(error),
        };
        match begun {
            Ok(stop) => {
                stop.then_start = false;
                stop.waiting.push((call, reply));
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    fn may_stop(&self, etag: &str, force: bool) -> Result<(), Error> {
        match self.record.state {
            // Whoever wants it stopped too is not disturbed by that it is being stopped.
            VmState::Stopping => Ok(()),
            VmState::Running | VmState::Failed => self.check_etag(etag),
            VmState::Lost if self.live.process.is_none() => {
                Err(self
                    .wrong_state("nobody can tell which process the VM's hypervisor is; look at the host"))
            }
            VmState::Lost if !force => {
                Err(self.wrong_state("the VM's hypervisor does not answer; stop it with force"))
            }
            VmState::Lost => self.check_etag(etag),
            state => Err(self.wrong_state(format!("Cannot stop vm from state \"{state}\"."))),
        }
    }

    /// Commits the intention, then acts on it.
    async fn enter_stop(
        &mut self,
        call: &Call,
        force: bool,
        timeout: Duration,
        edit: impl FnOnce(&mut VmRecord),
    ) -> Result<&mut Stop, Error> {
        let failed = self.record.state == VmState::Failed;
        let stopping = self.changed(|vm| {
            vm.state = VmState::Stopping;
            edit(vm);
        });
        self.commit(call, stopping, Vec::new(), None).await?;
        if force || failed {
            self.kill();
        } else {
            self.press_power_button().await;
        }
        let deadline = Instant::now() + timeout;
        let stop = self.stop.get_or_insert(Stop { deadline, waiting: Vec::new(), then_start: false });
        stop.deadline = stop.deadline.min(deadline);
        Ok(stop)
    }

    /// A stop that an earlier agent did not finish.
    async fn resume_stop(&mut self) {
        self.press_power_button().await;
        self.stop = Some(Stop { deadline: Instant::now() + REBOOT, waiting: Vec::new(), then_start: false });
    }

    async fn press_power_button(&self) {
        if let Some(machine) = &self.live.machine
            && let Err(error) = machine.press_power_button().await
        {
            // The deadline will deal with it.
            tracing::warn!(vm = %self.record.uuid, %error, "power button");
        }
    }

    fn kill(&self) {
        if let Some(process) = &self.live.process
            && let Err(error) = process.kill()
        {
            tracing::error!(vm = %self.record.uuid, %error, "cannot kill the hypervisor");
        }
    }

    fn on_deadline(&mut self) {
        tracing::info!(vm = %self.record.uuid, "the guest did not stop in time, its power is cut");
        self.kill();
        if let Some(stop) = &mut self.stop {
            // Should even that fail, look again later.
            stop.deadline = Instant::now() + REBOOT;
        }
    }

    async fn reboot(&mut self, call: Call, etag: &str, force: bool, reply: Reply) {
        let state = self.record.state;
        let allowed = match state {
            VmState::Running => self.check_etag(etag),
            _ => {
                Err(self.wrong_state(format!("Cannot reboot vm from state \"{state}\", must be \"running\"")))
            }
        };
        let begun = match allowed {
            Err(error) => Err(error),
            Ok(()) if force => {
                let _ = reply.send(self.reset(&call).await);
                return;
            }
            Ok(()) => self.enter_stop(&call, false, REBOOT, |_| ()).await,
        };
        match begun {
            Ok(stop) => {
                stop.then_start = true;
                stop.waiting.push((call, reply));
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    async fn reset(&mut self, call: &Call) -> Result<Outcome, Error> {
        self.look()?.machine.reset().await?;
        let outcome = self.outcome(false, Vec::new());
        let answers = call.answer(&Ok(outcome.clone())).into_iter().collect();
        self.agent.inner.store.commit(Commit { answers, ..Commit::default() }).await?;
        Ok(outcome)
    }

    /// The process is gone, by whatever.
    async fn on_ended(&mut self, ended: Ended) {
        self.hear_last_events().await;
        let exit = self.exit(ended);
        self.console.unwatch();
        self.live = Live::default();
        self.agent.inner.platform.zone.forget(self.record.uuid, &self.layout);
        let stop = self.stop.take();
        let then_start = stop.as_ref().is_some_and(|stop| stop.then_start);
        let waiting = stop.map(|stop| stop.waiting).unwrap_or_default();

        let vm = self.changed(|vm| {
            vm.state = VmState::Stopped;
            vm.machine = None;
            vm.exit = Some(exit);
        });
        let cause = waiting.first().map_or_else(Call::own, |(call, _)| call.clone());
        if then_start {
            self.commit_surely(&cause, vm, None).await;
            let result = self.start(&cause, &BootOptions::default(), None, |_| ()).await;
            for (_, reply) in waiting {
                let _ = reply.send(result.clone());
            }
            return;
        }
        let outcome = Ok(Outcome::Vm { vm: Box::new(vm.clone()), already: false, phases: Vec::new() });
        let answers: Vec<_> = waiting.iter().filter_map(|(call, _)| call.answer(&outcome)).collect();
        self.commit_surely(&cause, vm, answers).await;
        for (_, reply) in waiting {
            let _ = reply.send(outcome.clone());
        }
    }

    /// What the hypervisor said just before it went may still be in the pipe.
    async fn hear_last_events(&mut self) {
        let Some(machine) = self.live.machine.clone() else { return };
        let hear = async {
            while let Some(event) = machine.next_event().await {
                self.note_last_words(&event);
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), hear).await;
    }

    fn note_last_words(&mut self, event: &MachineEvent) {
        match event {
            MachineEvent::Shutdown { guest, reason }
                if !matches!(self.last_words, Some(LastWords::Panicked)) =>
            {
                self.last_words = Some(LastWords::Shutdown { guest: *guest, reason: reason.clone() });
            }
            MachineEvent::Panicked => self.last_words = Some(LastWords::Panicked),
            _ => {}
        }
    }

    fn exit(&mut self, ended: Ended) -> Exit {
        let status = match ended {
            Ended::Code(code) => code,
            Ended::Signal(signal) => 128 + signal,
            Ended::Unseen => 0,
        };
        let reason = match (self.last_words.take(), ended) {
            _ if self.stop.is_some() => ExitReason::Operator,
            (Some(LastWords::Panicked), _) => ExitReason::GuestPanic,
            (Some(LastWords::Shutdown { reason, .. }), _) if reason == "guest-panic" => {
                ExitReason::GuestPanic
            }
            (Some(LastWords::Shutdown { guest: true, .. }), _) => ExitReason::GuestShutdown,
            (Some(LastWords::Shutdown { reason, .. }), _) if reason == "host-signal" => ExitReason::Signal,
            (_, Ended::Signal(_)) => ExitReason::Signal,
            (_, Ended::Unseen) => ExitReason::Unknown,
            (_, Ended::Code(_)) => ExitReason::HypervisorError,
        };
        let detail = match reason {
            ExitReason::HypervisorError | ExitReason::Signal => self.console.last_words(),
            _ => String::new(),
        };
        Exit { reason, status, time: Timestamp::now(), detail }
    }

    // --- events of the hypervisor ----------------------------------------------------------------

    async fn on_event(&mut self, event: Option<MachineEvent>) {
        let Some(event) = event else { return self.on_silence().await };
        self.note_last_words(&event);
        match event {
            MachineEvent::Stopped(status) if self.record.state == VmState::Running => {
                self.on_stopped(&status).await
            }
            MachineEvent::Resumed if self.record.state == VmState::Failed => {
                let vm = self.changed(|vm| {
                    vm.state = VmState::Running;
                    vm.exit = None;
                });
                self.commit_surely(&Call::own(), vm, None).await;
            }
            MachineEvent::Reset { guest } => tracing::info!(vm = %self.record.uuid, guest, "reset"),
            _ => {}
        }
    }

    /// Guest code does not run any more, though nobody asked for it.
    async fn on_stopped(&mut self, status: &str) {
        // On the way out, or on the way through a reset.
        if matches!(status, "shutdown" | "running" | "unknown") {
            return;
        }
        let detail = format!("the hypervisor stopped the guest: {status}");
        tracing::error!(vm = %self.record.uuid, status, "guest failed");
        let exit = Exit { reason: ExitReason::HypervisorError, status: 0, time: Timestamp::now(), detail };
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
        let uuid = self.record.uuid;
        match self.agent.hypervisor(&self.record).attach(uuid, &self.layout.control()).await {
            Ok(machine) => self.live.machine = Some(machine),
            Err(error) => {
                tracing::error!(vm = %uuid, %error, "the hypervisor lives but can't be controlled");
                self.live.vnc = None;
                let vm = self.changed(|vm| vm.state = VmState::Lost);
                self.commit_surely(&Call::own(), vm, None).await;
            }
        }
    }

    // --- delete and look -------------------------------------------------------------------------

    async fn delete(&mut self, call: &Call, etag: &str) -> Result<Outcome, Error> {
        self.check_etag(etag)?;
        if self.record.state == VmState::Lost {
            return Err(self
                .wrong_state("nobody can tell whether the VM's hypervisor lives; stop it with force first"));
        }
        if let Some(process) = self.live.process.clone() {
            self.enter_stop(call, true, Duration::ZERO, |_| ()).await?.then_start = false;
            let ended = process.ended().await;
            self.on_ended(ended).await;
        }
        let deleting = self.changed(|vm| vm.state = VmState::Deleting);
        self.commit(call, deleting, Vec::new(), None).await?;
        let layout = self.layout.clone();
        tokio::task::spawn_blocking(move || remove_zone(&layout)).await.map_err(Error::internal)??;

        let alias = self.record.spec.alias.clone().unwrap_or_default();
        let commit = Commit {
            vm: Some(VmChange::Delete(self.record.uuid)),
            events: vec![call.event(self.record.uuid, EventKind::Deleted { alias })],
            answers: call.answer(&Ok(Outcome::Deleted)).into_iter().collect(),
        };
        self.agent.inner.store.commit(commit).await?;
        self.agent.inner.registry.remove(self.record.uuid);
        Ok(Outcome::Deleted)
    }

    fn look(&self) -> Result<Look, Error> {
        match &self.live.machine {
            Some(machine) => {
                Ok(Look { machine: machine.clone(), vnc: self.live.vnc.as_ref().map(VncEndpoint::address) })
            }
            None => Err(self.wrong_state(format!(
                "Unable to get info for vm from state \"{}\", must be \"running\" or \"stopping\".",
                self.record.state
            ))),
        }
    }

    // --- commits -----------------------------------------------------------------------------------

    /// The record as it would be after `edit`.
    fn changed(&self, edit: impl FnOnce(&mut VmRecord)) -> VmRecord {
        let mut vm = self.record.clone();
        edit(&mut vm);
        vm.generation += 1;
        vm.modified = Timestamp::now();
        vm
    }

    /// Makes `vm` the record, with the event that says so. On an error nothing changed.
    async fn commit(
        &mut self,
        call: &Call,
        vm: VmRecord,
        mut events: Vec<NewEvent>,
        answers: impl IntoIterator<Item = crate::store::Answer>,
    ) -> Result<(), Error> {
        let changes = change::changes(&self.record, &vm);
        events.push(call.event(vm.uuid, EventKind::Modified { vm: Box::new(vm.clone()), changes }));
        let commit = Commit {
            vm: Some(VmChange::Put(Box::new(vm.clone()))),
            events,
            answers: answers.into_iter().collect(),
        };
        self.agent.inner.store.commit(commit).await?;
        self.record = vm;
        self.published.send_replace(Arc::new(self.record.clone()));
        self.agent.write_vm_json(&self.record).await;
        Ok(())
    }

    /// Commits what is a fact already; tries until it can.
    async fn commit_surely(
        &mut self,
        call: &Call,
        vm: VmRecord,
        answers: impl IntoIterator<Item = crate::store::Answer>,
    ) {
        let answers: Vec<_> = answers.into_iter().collect();
        while let Err(error) = self.commit(call, vm.clone(), Vec::new(), answers.clone()).await {
            tracing::error!(vm = %vm.uuid, %error, state = %vm.state, "a fact can't be written down yet");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = self.agent.inner.stopping.cancelled() => return,
            }
        }
    }
}

impl Live {
    /// A hypervisor that an earlier agent left.
    pub(super) fn adopted(
        process: Arc<dyn Process>,
        machine: Option<Arc<dyn Machine>>,
        vnc: Option<VncEndpoint>,
    ) -> Self {
        Self { process: Some(process), machine, vnc, _first_byte: None }
    }
}

/// Waits for the end of the process; forever when there is none.
async fn ended(process: Option<Arc<dyn Process>>) -> Ended {
    match process {
        Some(process) => process.ended().await,
        None => std::future::pending().await,
    }
}

async fn next_event(machine: Option<Arc<dyn Machine>>) -> Option<MachineEvent> {
    match machine {
        Some(machine) => machine.next_event().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Looks at a running machine from outside the actor.
pub(super) async fn look(agent: &Agent, uuid: Uuid) -> Result<Look, Error> {
    let (reply, answer) = oneshot::channel();
    agent.inner.registry.get(uuid)?.send(Command::Look { reply })?;
    answer.await.map_err(|_| Error::Stopping)?
}
