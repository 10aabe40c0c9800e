//! Phases that a guest reaches after the reply to the call that booted it: its first console byte, its first
//! metadata request, its addresses.
//!
//! Each is journaled once per boot, by the agent that sees it first. Those of an earlier agent are in the
//! journal, after the RUNNING of the same boot.

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

/// Addresses that are journaled per boot.
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
    /// Not yet read from the journal.
    Unread,
    These(HashSet<Phase>),
    /// The journal no longer reaches back to the boot.
    Enough,
}

impl LatePhases {
    /// Follows a boot that just completed, or an earlier agent's.
    pub(in crate::agent) fn of(context: &VmContext, vm: &VmRecord, is_new: bool) -> Option<Self> {
        let told = if is_new { Reported::These(HashSet::new()) } else { Reported::Unread };
        let (context, uuid, boot) = (context.clone(), vm.uuid, vm.boot.clone()?);
        Some(Self(Arc::new(Inner { context, uuid, boot, told: Mutex::new(told) })))
    }

    /// Journals a phase, unless the journal has it.
    pub(in crate::agent) async fn reached(&self, phase: Phase) {
        let Inner { context, uuid, boot, told } = &*self.0;
        let mut told = told.lock().await;
        if matches!(*told, Reported::Unread) {
            match self.read().await {
                Ok(read) => *told = read,
                Err(error) => {
                    tracing::warn!(vm = %uuid, %error, ?phase, "phase not journaled: it may be a duplicate");
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

    /// Reads the journaled phases, from the newest back to RUNNING; or to ZONE_READY, of a boot without
    /// RUNNING.
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
