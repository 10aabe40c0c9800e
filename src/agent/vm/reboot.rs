//! Rebooting: a stop with a start behind it, or a reset.

use crate::{
    agent::{
        context::command::ReplyTo,
        error::Error,
        guest::links,
        request::{call::Call, reply::VmReply},
        vm::{
            Actor,
            patience::patient,
            policy::{Ask, Verdict, judge},
            stop::{Manner, REBOOT, Waiting},
        },
    },
    model::StopCause,
};

impl Actor {
    /// Fails when the VM could not be started again after a stop.
    async fn may_boot_again(&self) -> Result<(), Error> {
        self.context.check_brand(self.record.spec.brand())?;
        match links::problem(&self.context, &self.record.spec).await {
            Some(problem) => Err(self.wrong_state(format!("Cannot reboot vm: {problem}"))),
            None => Ok(()),
        }
    }

    pub(super) async fn reboot(&mut self, call: Call, etag: &str, force: bool, reply: ReplyTo<VmReply>) {
        let state = self.record.state;
        let same = |waiting: &Waiting| waiting.reboots && waiting.call.request_id == call.request_id;
        if call.request_id.is_some()
            && let Some(stop) = self.stop.as_mut().filter(|stop| stop.waiting.iter().any(same))
        {
            // A repeat of a request to an earlier agent.
            stop.waiting.push(Waiting { call, reply, reboots: true });
            return;
        }
        let allowed = match judge(state, Ask::Reboot) {
            Verdict::Act => match self.check_etag(etag) {
                // A reset keeps its links.
                Ok(()) if !force => self.may_boot_again().await,
                checked => checked,
            },
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
            Ok(()) => {
                let cause = StopCause::Operator;
                let manner =
                    Manner { force: false, timeout: REBOOT, cause, then_start: true, answered: true };
                self.enter_stop(&call, manner, |_| ()).await
            }
        };
        match begun {
            Ok(stop) => stop.waiting.push(Waiting { call, reply, reboots: true }),
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    async fn reset(&mut self, call: &Call) -> Result<VmReply, Error> {
        let machine = self.inspect("reset")?.machine;
        let done = self.once(call, ("RebootVm", "force".to_owned()), |_| (), patient(machine.reset())).await;
        if done.is_ok() {
            self.resets.asked_by(call.clone());
        }
        done
    }
}
