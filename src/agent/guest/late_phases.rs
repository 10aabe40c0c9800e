//! Phases that a guest reaches by itself, behind the answer to the call that booted it: its first byte, its first
//! question about itself, its addresses.
//!
//! Each is told once for a boot, by whichever agent hears of it first. What an earlier agent told stands in the
//! journal, behind the RUNNING of the same boot.

use std::{collections::HashSet, sync::Arc};

use tokio::sync::Mutex;
use uuid::Uuid;

use crate::{
    agent::{
        context::{VmContext, transition::Transition},
        request::call::Call,
    },
    boot,
    events::WatchError,
    model::{BootCall, EventKind, Phase, VmRecord},
    store::EventQuery,
};

/// Addresses that are told of one boot.
const ADDRESSES: usize = 64;
/// Events of a VM's boots that are read at once.
const PAGE: u32 = 256;

/// The late phases of one boot.
#[derive(Clone, Debug)]
pub(in crate::agent) struct LatePhases(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    context: VmContext,
    uuid: Uuid,
    boot: BootCall,
    told: Mutex<Reported>,
}

#[derive(Debug)]
enum Reported {
    /// By an agent before this one; the journal knows.
    Unread,
    These(HashSet<Phase>),
    /// The boot is so long ago that the journal does not reach back to it.
    Enough,
}

impl LatePhases {
    /// Of a boot that is over just now, or that another agent did.
    pub(in crate::agent) fn of(context: &VmContext, vm: &VmRecord, is_new: bool) -> Option<Self> {
        let told = if is_new { Reported::These(HashSet::new()) } else { Reported::Unread };
        let (context, uuid, boot) = (context.clone(), vm.uuid, vm.boot.clone()?);
        Some(Self(Arc::new(Inner { context, uuid, boot, told: Mutex::new(told) })))
    }

    /// Journals a phase, unless it was told before.
    pub(in crate::agent) async fn reached(&self, phase: Phase) {
        let Inner { context, uuid, boot, told } = &*self.0;
        let mut told = told.lock().await;
        if matches!(*told, Reported::Unread) {
            match self.read().await {
                Ok(read) => *told = read,
                Err(error) => {
                    tracing::warn!(vm = %uuid, %error, ?phase, "a phase is not told: it may have been before");
                    return;
                }
            }
        }
        let Reported::These(told) = &mut *told else { return };
        let is_address = |phase: &Phase| matches!(phase, Phase::GuestAddress { .. });
        if is_address(&phase) && told.iter().filter(|told| is_address(told)).count() == ADDRESSES {
            return;
        }
        if told.insert(phase.clone()) {
            let event =
                Call::of_boot(boot).event(*uuid, EventKind::Boot(boot::phase_at(boot.called_us, phase)));
            Transition::new(context).event(event).soon().await;
        }
    }

    /// What was told, from the newest back to RUNNING; or to the beginning, of a boot whose RUNNING nobody told.
    async fn read(&self) -> Result<Reported, WatchError> {
        let journal = &self.0.context.journal;
        let (mut told, mut from) = (HashSet::new(), None);
        loop {
            let (uuids, kinds) = (vec![self.0.uuid], vec!["boot"]);
            let query = EventQuery { backwards: true, uuids, kinds, ..EventQuery::default() };
            let found = match journal.list(from, query, PAGE).await {
                // Trimmed just now.
                Err(WatchError::Expired { .. }) => return Ok(Reported::Enough),
                found => found?,
            };
            for event in found.events {
                match &event.fact.kind {
                    EventKind::Boot(reached)
                        if matches!(reached.phase, Phase::Running | Phase::ZoneReady) =>
                    {
                        return Ok(Reported::These(told));
                    }
                    EventKind::Boot(reached) => drop(told.insert(reached.phase.clone())),
                    _ => {}
                }
            }
            match found.rest {
                Some(place) => from = Some(journal.cursor(place)),
                None => return Ok(Reported::Enough),
            }
        }
    }
}
