//! Changes of a VM's files, in the journal.
//!
//! A note beside the file says that it was changed, from before the change until its event is committed: an agent that
//! ends in between, or finds no room, leaves the note, and the next change or the next agent journals it.

use uuid::Uuid;

use crate::{
    agent::{
        context::{VmContext, transition::Transition},
        error::Error,
        files::blocking,
        request::{call::Call, reply::FileReply},
    },
    model::{EventKind, FileAction},
    storage::{self, Entry, FileAct, IntentNote},
};

/// Journals a change. If that fails, its note stays, and it is tried again before the next change, and by the
/// next agent.
pub(super) async fn changed(
    context: &VmContext,
    call: &Call,
    uuid: Uuid,
    entry: &Entry,
    action: FileAction,
    note: Option<IntentNote>,
) -> Result<FileReply, Error> {
    let outcome = FileReply::from(entry);
    let kind = EventKind::File { path: entry.path.clone(), action, size: entry.size };
    // Under the note's id as well, so that an agent that finds the note knows that it is journaled.
    let by_note = Call { request_id: note.as_ref().map(IntentNote::id), ..Call::own() };
    let answers = [call, &by_note].into_iter().filter_map(|call| call.answer(&Ok(outcome.clone())));
    Transition::new(context).event(call.event(uuid, kind)).answers(answers).only().await?;
    if let Some(note) = note {
        tokio::task::spawn_blocking(move || note.remove()).await.map_err(Error::internal)?;
    }
    Ok(outcome)
}

/// Journals a VM's file changes that are not in the journal: the agent exited in between, or the disk was
/// full. Returns the reply to `call`, if it is one of them.
pub(in crate::agent) async fn settle(
    context: &VmContext,
    uuid: Uuid,
    call: &Call,
) -> Result<Option<FileReply>, Error> {
    let layout = context.layout_of(uuid);
    let mut answer = None;
    for (intent, note) in blocking(move || storage::intents(&layout)).await? {
        if context.requests.knows(note.id()).await? {
            tokio::task::spawn_blocking(move || note.remove()).await.map_err(Error::internal)?;
            continue;
        }
        let owner =
            serde_json::from_value(intent.owner).map(Call::from_waiting).unwrap_or_else(|_| Call::own());
        let action = match intent.act {
            FileAct::Put { .. } => FileAction::Put,
            FileAct::Remove => FileAction::Deleted,
        };
        let outcome = changed(context, &owner, uuid, &intent.entry, action, Some(note)).await?;
        match call.request_id.filter(|id| owner.request_id == Some(*id)) {
            Some(_) if owner.digest == call.digest => answer = Some(outcome),
            Some(request_id) => return Err(Error::RequestIdReused { request_id }),
            None => {}
        }
    }
    Ok(answer)
}

/// Serializes a call, for the agent that has to journal its change.
pub(super) fn owner(call: &Call) -> serde_json::Value {
    serde_json::to_value(call.waiting(false)).unwrap_or_default()
}
