//! The events that a watcher wants.
//!
//! A filter checks the VM as it was before and after an event, and the journal alone decides: an interrupted
//! watch that continues from its cursor gets the same events.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    agent::{
        Agent,
        view::{diff, object},
    },
    events::WatchError,
    model::{Event, EventKind, VmRecord},
    spec::filter::Filter,
};

/// The wanted events, and the known state of their VMs.
#[derive(Debug)]
pub(crate) struct EventFilter {
    uuids: HashSet<Uuid>,
    kinds: Vec<&'static str>,
    filters: Vec<Filter>,
    /// Whether a VM met the filters after its last event, where that is known.
    met: HashMap<Uuid, bool>,
    /// With a snapshot: each VM's generation in it.
    seen: HashMap<Uuid, u64>,
}

impl EventFilter {
    /// Wants events of these VMs, kinds (by their names in the journal) and filters; an empty list means all.
    #[must_use]
    pub(crate) fn new(uuids: HashSet<Uuid>, kinds: Vec<&'static str>, filters: Vec<Filter>) -> Self {
        Self { uuids, kinds, filters, met: HashMap::new(), seen: HashMap::new() }
    }

    /// The filters on VMs.
    #[must_use]
    pub(crate) fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// Returns whether a VM that meets the filters belongs in the snapshot; its past events are not repeated.
    pub(crate) fn shows(&mut self, vm: &VmRecord) -> bool {
        let wanted = self.uuids.is_empty() || self.uuids.contains(&vm.uuid);
        if wanted {
            self.met.insert(vm.uuid, true);
            self.seen.insert(vm.uuid, vm.generation);
        }
        wanted
    }

    /// Returns whether an event is wanted. Events must come in order.
    pub(crate) async fn has(&mut self, agent: &Agent, event: &Event) -> Result<bool, WatchError> {
        let fact = &event.fact;
        if !self.uuids.is_empty() && !self.uuids.contains(&fact.uuid) {
            return Ok(false);
        }
        if let EventKind::Created { vm } | EventKind::Modified { vm, .. } = &fact.kind
            && self.seen.get(&vm.uuid).is_some_and(|seen| vm.generation <= *seen)
        {
            return Ok(false);
        }
        if matches!(fact.kind, EventKind::Deleted { .. }) {
            // A VM created again under this UUID is another.
            self.seen.remove(&fact.uuid);
        }
        if !self.filters.is_empty() && !self.passes(agent, event).await? {
            return Ok(false);
        }
        Ok(self.kinds.is_empty() || self.kinds.contains(&fact.kind.name()))
    }

    /// Whether the VM met the filters before an event or meets them after it.
    async fn passes(&mut self, agent: &Agent, event: &Event) -> Result<bool, WatchError> {
        let uuid = event.fact.uuid;
        let before = match self.met.get(&uuid) {
            Some(met) => *met,
            None => self.met_before(agent, event).await?,
        };
        let after = match &event.fact.kind {
            EventKind::Created { vm } | EventKind::Modified { vm, .. } => self.meets(agent, vm),
            _ => before,
        };
        match event.fact.kind {
            EventKind::Deleted { .. } => self.met.remove(&uuid),
            _ => self.met.insert(uuid, after),
        };
        Ok(before || after)
    }

    /// Returns whether a VM met the filters before its first event in this watch.
    async fn met_before(&self, agent: &Agent, event: &Event) -> Result<bool, WatchError> {
        let uuid = event.fact.uuid;
        if matches!(event.fact.kind, EventKind::Created { .. }) {
            return Ok(false);
        }
        Ok(match (agent.journal().vm_before(uuid, event.sequence).await?, &event.fact.kind) {
            (Some(vm), _) => vm.is_some_and(|vm| self.meets(agent, &vm)),
            // Trimmed: undo the event's changes.
            (None, EventKind::Modified { vm, changes }) => {
                self.meet(&diff::undone(seen_by_filters(agent, vm), changes))
            }
            // A VM without changes is as it was.
            (None, _) => agent.vm(uuid).is_ok_and(|vm| self.meets(agent, &vm)),
        })
    }

    /// Whether a VM as it is in this record meets all filters.
    fn meets(&self, agent: &Agent, vm: &VmRecord) -> bool {
        let shown = agent.context.registry.get(vm.uuid).ok().map(|handle| handle.view());
        let same = |record: &VmRecord| (record.generation, record.created) == (vm.generation, vm.created);
        match shown.filter(|view| same(&view.record)) {
            // Built once for all watchers.
            Some(view) => self.meet(&view.object),
            None => self.meet(&seen_by_filters(agent, vm)),
        }
    }

    fn meet(&self, object: &Map<String, Value>) -> bool {
        self.filters.iter().all(|filter| filter.matches(object))
    }
}

fn seen_by_filters(agent: &Agent, vm: &VmRecord) -> Map<String, Value> {
    object::object(vm, &agent.site(vm.uuid))
}
