//! Deleting: the hypervisor ends, the intention is committed, the zone is removed, and the record last.
//!
//! A deletion that is interrupted, or can't remove everything, is finished by a repeat or by the next agent.

use std::time::Duration;

use crate::{
    agent::{
        context::transition::Transition,
        error::Error,
        request::{call::Call, reply::DeleteReply},
        vm::{
            Actor,
            policy::{Ask, Verdict, judge},
            stop::Manner,
        },
    },
    model::StopCause,
    spec::VmState,
    storage::remove_zone,
};

impl Actor {
    pub(super) async fn delete(&mut self, call: &Call, etag: &str) -> Result<DeleteReply, Error> {
        self.check_etag(etag)?;
        for (property, set) in [
            ("indestructible_zoneroot", self.record.spec.indestructible_zoneroot),
            ("indestructible_delegated", self.record.spec.indestructible_delegated),
        ] {
            if set == Some(true) {
                return Err(self.wrong_state(format!("{property} is set, cannot delete")));
            }
        }
        if judge(self.record.state, Ask::Delete) == Verdict::Refuse {
            return Err(self.wrong_state(
                "cannot tell whether the VM's hypervisor is still running; stop the VM with force first",
            ));
        }
        if let Some(process) = self.live.process.clone() {
            let cause = StopCause::Operator;
            let manner =
                Manner { force: true, timeout: Duration::ZERO, cause, then_start: false, answered: false };
            self.enter_stop(call, manner, |_| ()).await?;
            let ended = process.ended().await;
            self.on_ended(ended).await;
        }
        let deleting = self.changed(|vm| {
            vm.state = VmState::Deleting;
            vm.waiting = vec![call.waiting(false)];
        });
        self.commit(call, deleting, Vec::new(), None).await?;
        self.unplug().await;
        let layout = self.layout.clone();
        tokio::task::spawn_blocking(move || remove_zone(&layout)).await.map_err(Error::internal)??;

        let answer = call.answer(&Ok(DeleteReply));
        Transition::new(&self.context).answers(answer).delete(call, &self.record).await?;
        Ok(DeleteReply)
    }
}
