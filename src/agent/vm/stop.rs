//! Stopping: by the power button with a deadline, or by force.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use crate::{
    agent::{
        context::command::ReplyTo,
        error::Error,
        request::{call::Call, reply::VmReply},
        vm::{
            Actor,
            button::Button,
            patience::briefly,
            policy::{Ask, Verdict, judge},
        },
    },
    crash,
    model::{StopCause, StopPlan, Timestamp, VmRecord, WaitingCall},
    spec::{BootOptions, VmState},
};

/// Longest wait for a guest to obey the power button, in seconds: a day.
pub(super) const MAX_TIMEOUT: u32 = 86_400;
const MAX_LEFT: Duration = Duration::from_secs(MAX_TIMEOUT as u64);
/// vmadm's patience with a reboot.
pub(super) const REBOOT: Duration = Duration::from_secs(180);

/// A stop that is under way.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) deadline: Instant,
    pub(super) waiting: Vec<Waiting>,
    pub(super) then_start: bool,
    pub(super) button: Button,
}

/// A caller that waits for the end of a stop.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) call: Call,
    pub(super) reply: ReplyTo<VmReply>,
    /// It wants the VM to run again.
    pub(super) reboots: bool,
}

impl Waiting {
    /// Creates one without a listener; a repeat of the call gets the answer.
    fn of_an_earlier_agent(call: WaitingCall) -> Self {
        let (reply, _) = oneshot::channel();
        Self { reboots: call.reboots, call: Call::from_waiting(call), reply }
    }
}

/// How a VM is stopped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) force: bool,
    /// Until its power is cut.
    pub(super) timeout: Duration,
    pub(super) cause: StopCause,
    pub(super) then_start: bool,
    /// The end of the stop answers the call.
    pub(super) answered: bool,
}

/// Callers that may wait for one stop.
const MAX_WAITING: usize = 64;

impl Actor {
    pub(super) async fn begin_stop(
        &mut self,
        call: Call,
        etag: &str,
        manner: Manner,
        reply: ReplyTo<VmReply>,
    ) {
        if self.record.state == VmState::Lost && self.live.process.is_none() && manner.force {
            self.find_process().await;
        }
        if judge(self.record.state, Ask::Stop) == Verdict::Already {
            let outcome = match self.check_etag(etag) {
                Ok(()) => self.keep_answer(&call, self.reply(true)).await,
                Err(error) => Err(error),
            };
            let _ = reply.send(outcome);
            return;
        }
        let begun = match self.may_stop(etag, manner.force) {
            Ok(()) => {
                let edit = |vm: &mut VmRecord| {
                    if manner.cause == StopCause::Operator {
                        vm.spec.autoboot = Some(false);
                    }
                };
                self.enter_stop(&call, manner, edit).await
            }
            Err(error) => Err(error),
        };
        match begun {
            Ok(stop) => stop.waiting.push(Waiting { call, reply, reboots: false }),
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    fn may_stop(&self, etag: &str, force: bool) -> Result<(), Error> {
        if self.stop.as_ref().is_some_and(|stop| stop.waiting.len() >= MAX_WAITING) {
            return Err(Error::QueueFull { uuid: self.record.uuid });
        }
        let state = self.record.state;
        match judge(state, if force { Ask::ForceStop } else { Ask::Stop }) {
            Verdict::Join => Ok(()),
            Verdict::Refuse | Verdict::Act if state == VmState::Lost && self.live.process.is_none() => {
                Err(self.wrong_state(
                    "cannot tell which process is the VM's hypervisor; see the agent's log, kill the process on the host, and stop the VM with force",
                ))
            }
            Verdict::Act | Verdict::Already => self.check_etag(etag),
            Verdict::Refuse if state == VmState::Lost => {
                Err(self.wrong_state("the VM's hypervisor does not answer; stop it with force"))
            }
            Verdict::Refuse => Err(self.wrong_state(format!("Cannot stop vm from state \"{state}\"."))),
        }
    }

    /// Commits the intention, then acts on it. Joins a stop that is under way; the last call decides on a
    /// restart.
    pub(super) async fn enter_stop(
        &mut self,
        call: &Call,
        manner: Manner,
        edit: impl FnOnce(&mut VmRecord),
    ) -> Result<&mut Stop, Error> {
        let failed = self.record.state == VmState::Failed;
        let before = self.record.state;
        let deadline = Timestamp::now().later(manner.timeout);
        let stopping = self.changed(|vm| {
            vm.state = VmState::Stopping;
            let joined = vm.stop.take();
            let mut calls = joined.as_ref().map(|stop| stop.calls.clone()).unwrap_or_default();
            if manner.answered && call.request_id.is_some() {
                calls.push(call.waiting(manner.then_start));
            }
            let deadline = joined.as_ref().map_or(deadline, |stop| stop.deadline.min(deadline));
            // The first caller's cause.
            let cause = joined.as_ref().map_or(manner.cause, |stop| stop.cause);
            let (pressed, forced) = joined.map_or((false, false), |stop| (stop.pressed, stop.forced));
            let forced = forced || manner.force;
            let then_start = manner.then_start;
            vm.stop = Some(StopPlan { deadline, then_start, calls, cause, pressed, forced });
            edit(vm);
        });
        match self.commit(call, stopping, Vec::new(), None).await {
            // The host cuts the power in any case: a guest that was asked to stop is better off.
            Err(error) if manner.cause == StopCause::HostShutdown => {
                tracing::error!(%error, "powering off without a journal entry");
            }
            written => written?,
        }
        crash::point("stop.begun");
        let deadline = Instant::now() + manner.timeout;
        let button = Button::asked();
        let (waiting, then_start) = (Vec::new(), false);
        let stop = self.stop.get_or_insert(Stop { deadline, waiting, then_start, button });
        stop.deadline = stop.deadline.min(deadline);
        stop.then_start = manner.then_start;
        if manner.force || failed {
            // No guest runs to hear it.
            stop.button = Button::Pressed;
            self.kill();
        } else {
            self.rouse(before).await;
            self.begin_button().await;
        }
        crash::point("stop.asked");
        self.stop.as_mut().ok_or_else(|| Error::internal("a stop that was begun is not there"))
    }

    /// Wakes a halted or sleeping guest, which ignores the button.
    async fn rouse(&self, state: VmState) {
        let Some(machine) = &self.live.machine else { return };
        let Some(deadline) = self.stop.as_ref().map(|stop| stop.deadline) else { return };
        let roused = async {
            match state {
                VmState::Paused => machine.resume().await,
                VmState::Suspended => machine.wake().await,
                _ => Ok(()),
            }
        };
        if let Err(error) = briefly(deadline, roused).await {
            tracing::warn!(%state, %error, "cannot wake the guest");
        }
    }

    /// Resumes a stop or a reboot that an earlier agent did not finish.
    pub(super) async fn resume_stop(&mut self) {
        let plan = self.record.stop.clone();
        let then_start = plan.as_ref().is_some_and(|plan| plan.then_start);
        // Even after a clock jump, nobody waits longer than the longest timeout.
        let left = plan.as_ref().map_or(REBOOT, |plan| plan.deadline.until().min(MAX_LEFT));
        let calls = plan.map(|plan| plan.calls).unwrap_or_default();
        match self.record.state {
            VmState::Stopping => {
                let waiting = calls.into_iter().map(Waiting::of_an_earlier_agent).collect();
                let button = Button::asked();
                self.stop = Some(Stop { deadline: Instant::now() + left, waiting, then_start, button });
                self.rouse(self.asleep().await).await;
                self.begin_button().await;
            }
            VmState::Stopped if then_start => {
                let cause = calls.into_iter().next().map_or_else(Call::own, Call::from_waiting);
                tracing::info!("going on with a reboot");
                if let Err(error) = self.start(&cause, &BootOptions::default(), None, |_| ()).await {
                    tracing::error!(%error, "the VM could not be started again after its reboot");
                }
            }
            _ => {}
        }
    }

    /// Returns the status of a guest that is to stop.
    async fn asleep(&self) -> VmState {
        let (Some(machine), Some(stop)) = (&self.live.machine, &self.stop) else { return VmState::Stopping };
        briefly(stop.deadline, machine.status()).await.map_or(VmState::Stopping, |status| status.state())
    }

    pub(super) fn kill(&self) {
        if let Some(process) = &self.live.process
            && let Err(error) = process.kill()
        {
            tracing::error!(%error, "cannot kill the hypervisor");
        }
    }

    pub(super) fn on_deadline(&mut self) {
        tracing::info!("the guest did not stop in time; its power is cut");
        self.kill();
        if let Some(stop) = &mut self.stop {
            // If even that fails, check again later.
            stop.deadline = Instant::now() + REBOOT;
        }
    }
}
