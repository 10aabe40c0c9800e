//! Starts a VM: the intention is committed, the boot plan runs, and its result is committed.

use tokio::sync::mpsc;

use crate::{
    agent::{
        context::transition::Transition,
        error::Error,
        guest::links::Attended,
        request::{
            call::{BootProgress, Call},
            reply::VmReply,
        },
        vm::{
            Actor, completion,
            live::Live,
            policy::{Ask, Verdict, judge},
            resets::Resets,
        },
    },
    boot::{self, BootFailure, BootRequest, Clock, Running},
    hypervisor::Machine,
    model::{BootCall, BootPhase, EventKind, Exit, ExitReason, Phase, Run, Timestamp, VmRecord},
    spec::{BootOptions, VmState},
    zone::Process,
};

impl Actor {
    pub(super) fn may_start(&self, etag: &str) -> Result<Option<VmReply>, Error> {
        self.check_etag(etag)?;
        let state = self.record.state;
        match judge(state, Ask::Start) {
            Verdict::Act => {
                self.context.check_brand(self.record.spec.brand())?;
                self.context.draining.check().map(|()| None)
            }
            Verdict::Already => Ok(Some(self.reply(true))),
            Verdict::Join | Verdict::Refuse => {
                Err(self.wrong_state(format!("Cannot start vm from state \"{state}\", must be \"stopped\".")))
            }
        }
    }

    pub(super) async fn start(
        &mut self,
        call: &Call,
        options: &BootOptions,
        progress: BootProgress,
        edit: impl FnOnce(&mut VmRecord),
    ) -> Result<VmReply, Error> {
        // Again: the start within a reboot was not checked before.
        self.context.draining.check()?;
        self.context.check_brand(self.record.spec.brand())?;
        self.rename_disks().await;
        // An older agent's VM has no machine type yet.
        let machine_type = completion::machine_type(&self.context, &self.record.spec).await;
        let asked = BootCall {
            actor: call.actor.clone(),
            request_id: call.request_id,
            called_us: boot::host_clock(),
            options: options.clone(),
        };
        let called_us = asked.called_us;
        let autoboot = self.record.spec.autoboot;
        let starting = self.changed(|vm| {
            vm.state = VmState::Starting;
            vm.boot = Some(asked);
            vm.waiting = vec![call.waiting(false)];
            vm.kill = None;
            vm.spec.machine_type = machine_type;
            edit(vm);
        });
        self.commit(call, starting, Vec::new(), None).await?;

        let mut phases = Vec::new();
        match self.boot(call, options, progress, called_us, &mut phases).await {
            Ok(running) => self.started(call, options, running, phases).await,
            Err(failure) => {
                let error = Error::BootFailed {
                    uuid: self.record.uuid,
                    step: failure.step.to_owned(),
                    reason: failure.reason,
                };
                let reason = match failure.out_of_memory {
                    true => ExitReason::OutOfMemory,
                    false => ExitReason::HypervisorError,
                };
                let exit = Exit::noticed(reason, error.to_string());
                let stopped = self.changed(|vm| {
                    vm.state = VmState::Stopped;
                    // A failed start leaves nothing behind.
                    vm.spec.autoboot = autoboot;
                    vm.exit = Some(exit);
                    (vm.stop, vm.boot) = (None, None);
                    vm.waiting.clear();
                    vm.host_boot = Some(self.context.platform.host_boot.clone());
                });
                self.commit_surely(call, stopped, call.answer::<VmReply>(&Err(error.clone()))).await;
                Err(error)
            }
        }
    }

    async fn boot(
        &self,
        call: &Call,
        options: &BootOptions,
        progress: BootProgress,
        called_us: u64,
        phases: &mut Vec<BootPhase>,
    ) -> Result<Running, BootFailure> {
        let request = BootRequest {
            platform: &self.context.platform,
            vm: &self.record,
            layout: &self.layout,
            console: &self.console,
            options,
            vnc_address: self.context.settings.vnc_address,
        };
        let (sender, mut reached) = mpsc::channel(Clock::PHASES);
        let boot = async {
            // The sender drops with the boot, so that the listener below ends too.
            boot::boot(request, Clock::new(called_us, sender)).await
        };
        let listen = async {
            while let Some(phase) = reached.recv().await {
                if let Some(progress) = &progress {
                    let _ = progress.try_send(phase.clone());
                }
                // RUNNING is committed together with the state: one commit, and no wait for another.
                if phase.phase != Phase::Running {
                    let event = call.event(self.record.uuid, EventKind::Boot(phase.clone()));
                    Transition::new(&self.context).event(event).soon().await;
                }
                phases.push(phase);
            }
        };
        tokio::join!(boot, listen).0
    }

    async fn started(
        &mut self,
        call: &Call,
        options: &BootOptions,
        running: Running,
        phases: Vec<BootPhase>,
    ) -> Result<VmReply, Error> {
        let run = self.run_of(&*running.process, &*running.machine, &running.accelerator, options);
        let port = running.vnc.as_ref().map(|vnc| vnc.address().port());
        let vm = self.changed(|vm| {
            vm.vnc_port = port;
            runs(vm, run, &self.context.platform.host_boot);
        });
        let runs = phases.iter().filter(|reached| reached.phase == Phase::Running);
        let events = runs.map(|reached| call.event(vm.uuid, EventKind::Boot(reached.clone()))).collect();
        let outcome = VmReply { phases, ..VmReply::of(&vm) };
        let answer = call.answer(&Ok(outcome.clone()));
        (self.last_words, self.resets) = (None, Resets::default());
        self.live = Live {
            process: Some(running.process),
            machine: Some(running.machine),
            vnc: running.vnc,
            ..Live::default()
        };
        if let Err(error) = self.commit(call, vm, events, answer).await {
            // A VM that can't be committed must not run.
            self.kill();
            return Err(error);
        }
        // Only now, so that late phases follow RUNNING in the journal.
        self.listen_to_guest(true);
        self.live.links = Some(Attended::begin(&self.context, &self.record, self.live.late.clone()));
        Ok(outcome)
    }

    /// Describes a hypervisor that was just started or adopted.
    pub(super) fn run_of(
        &self,
        process: &dyn Process,
        machine: &dyn Machine,
        accelerator: &str,
        options: &BootOptions,
    ) -> Run {
        Run {
            pid: process.pid(),
            booted: Timestamp::now(),
            accelerator: accelerator.to_owned(),
            hypervisor: machine.hypervisor().to_owned(),
            bootrom: Some(self.record.spec.bootrom().clone()),
            screen: self.record.has_screen(),
            enforcements: process.enforcements().to_vec(),
            limits: process.limits().to_vec(),
            cds: boot::cd_drives(&self.record.spec, options),
            nics: self.record.spec.nics.clone(),
            resets: 0,
            last_reset: None,
        }
    }
}

/// Records a completed start.
pub(super) fn runs(vm: &mut VmRecord, run: Run, host_boot: &str) {
    vm.state = VmState::Running;
    vm.machine = Some(run);
    (vm.exit, vm.stop) = (None, None);
    vm.waiting.clear();
    // Set only now: an interrupted start does not count.
    vm.host_boot = Some(host_boot.to_owned());
}
