//! Events and changes as the contract shows them.

use super::{
    boot::phase,
    image, v1,
    value::offset,
    vm::{Sight, time, vm_to_proto},
};
use crate::{
    model::{Change, Event, EventKind, FileAction, Site, bounded},
    spec::secret::{REDACTED, is_secret},
};

/// An event with its `cursor`; `site` is that of its VM.
pub(crate) fn event_to_proto(
    event: &Event,
    cursor: String,
    site: &Site,
    sight: Sight,
) -> v1::WatchEventsResponse {
    use v1::event::Kind as Wire;
    let fact = &event.fact;
    let kind = match &fact.kind {
        EventKind::Created { vm } => Wire::Created(v1::VmCreated { vm: Some(vm_to_proto(vm, site, sight)) }),
        EventKind::Modified { vm, changes } => Wire::Modified(v1::VmModified {
            vm: Some(vm_to_proto(vm, site, sight)),
            changes: changes_to_proto(changes, sight),
        }),
        EventKind::Deleted { alias } => Wire::Deleted(v1::VmDeleted { alias: alias.clone() }),
        EventKind::Boot(reached) => Wire::Boot(phase(reached)),
        EventKind::File { path, action, size } => Wire::File(v1::FileChanged {
            path: path.clone(),
            action: match action {
                FileAction::Put => v1::file_changed::Action::Put,
                FileAction::Deleted => v1::file_changed::Action::Deleted,
                FileAction::Discarded => v1::file_changed::Action::Discarded,
            }
            .into(),
            size: offset(*size),
        }),
        EventKind::Image { step, image } => Wire::Image(image::step(step, image.as_deref())),
        EventKind::Panicked => Wire::Panicked(v1::GuestPanicked {}),
        EventKind::Call { rpc, detail, refused } => {
            Wire::Call(v1::CallMade { rpc: rpc.clone(), detail: detail.clone(), refused: *refused })
        }
        EventKind::Reclaimed { leak, path } => {
            Wire::Reclaimed(v1::LeakReclaimed { leak: leak.clone(), path: path.clone() })
        }
    };
    let event = v1::Event {
        sequence: event.sequence,
        time: Some(time(event.time)),
        uuid: if fact.uuid.is_nil() { String::new() } else { fact.uuid.to_string() },
        actor: fact.actor.clone(),
        request_id: fact.request_id.map(|id| id.to_string()).unwrap_or_default(),
        kind: Some(kind),
    };
    v1::WatchEventsResponse { cursor, item: Some(v1::watch_events_response::Item::Event(event)) }
}

/// Converts changes: secret values are redacted, and none is longer than a message allows.
pub(crate) fn changes_to_proto(changes: &[Change], sight: Sight) -> Vec<v1::Change> {
    bounded(changes)
        .iter()
        .map(|change| {
            let covered = sight == Sight::Redacted && is_secret(&change.path);
            let text = |value: &Option<serde_json::Value>| match value {
                Some(_) if covered => format!("\"{REDACTED}\""),
                value => value.as_ref().map(ToString::to_string).unwrap_or_default(),
            };
            let (old_value, new_value) = (text(&change.old), text(&change.new));
            v1::Change { path: change.path.clone(), old_value, new_value, cut: change.cut }
        })
        .collect()
}
