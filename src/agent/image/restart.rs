//! Images after an earlier agent: what it was importing or deleting.

use std::{fs, path::Path, sync::Arc, time::Duration};

use uuid::Uuid;

use super::{
    fetch::{FetchRequest, plan},
    import::{self, Begun, Plan},
    pieces::Pieces,
};
use crate::{
    agent::{context::VmContext, error::Error, request::call::Call},
    model::{ImageRecord, ImageState},
    source::{Content, SourceError, Wanted},
    storage,
};

/// The longest pause between tries to reach a source.
const PATIENCE: Duration = Duration::from_secs(64);

/// Settles files and records before anybody can ask for an image.
pub(in crate::agent) fn settle(context: &VmContext, records: Vec<ImageRecord>) {
    for record in records {
        context.images.put(Arc::new(record), None);
    }
    for uuid in named(context.layout.images(), "") {
        let layout = context.layout.image(uuid);
        // A complete disk without a record is left to the operator: the record may be what was lost.
        if context.images.get(uuid).is_err() && !layout.disk().exists() {
            let removed = storage::remove_image(&layout);
            removed.unwrap_or_else(
                |error| tracing::warn!(image = %uuid, %error, "cannot remove an image's remains"),
            );
        }
    }
    for uuid in named(context.layout.images(), ".deleted") {
        let layout = context.layout.image(uuid);
        let settled = match context.images.get(uuid) {
            // Its deletion was not committed.
            Ok(_) => storage::take_image_back(&layout),
            Err(_) => storage::remove_deleted_image(&layout),
        };
        if let Err(error) = settled {
            tracing::warn!(image = %uuid, %error, "cannot settle an image whose deletion was interrupted");
        }
    }
}

/// Folders of images with this ending: those that were set aside have one.
fn named(folder: &Path, ending: &str) -> Vec<Uuid> {
    let uuid = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        Uuid::try_parse(name.strip_suffix(ending)?).ok()
    };
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(uuid).collect()
}

/// Goes on with the imports of the earlier agent.
pub(in crate::agent) fn begin_again(context: &VmContext) {
    let (records, _) = context.images.page(None, usize::MAX);
    for record in records.into_iter().filter(|record| record.state == ImageState::Importing) {
        // Before anybody can ask for it.
        let begun = import::begin_again(context, &record);
        let again = context.clone();
        context.tasks.spawn(async move { go_on(&again, &record, begun).await });
    }
}

async fn go_on(context: &VmContext, record: &ImageRecord, begun: Begun) {
    let (uuid, call) = (record.uuid, record.call.clone().map_or_else(Call::own, Call::from_waiting));
    let opened = import::unless_cancelled(context, uuid, &begun, open(context, &call, record)).await;
    let ended = match opened {
        Ok((plan, content)) => {
            begun.progress.send_modify(|progress| progress.total = plan.size);
            import::carry_out(context, &call, plan, Pieces::Source(content), begun).await
        }
        Err(Error::Stopping) => return,
        Err(error) => {
            import::give_up(context, &call, uuid, &begun, &error).await;
            import::end(&begun, Err(error.clone()));
            Err(error)
        }
    };
    if let Err(error) = ended
        && error != Error::Stopping
    {
        tracing::warn!(image = %uuid, %error, "an import that was interrupted failed");
    }
}

/// Opens the source of an interrupted fetch; the bytes of an interrupted upload are nowhere.
async fn open(context: &VmContext, call: &Call, record: &ImageRecord) -> Result<(Plan, Content), Error> {
    let uuid = record.uuid;
    let Some(fetch) = &record.fetch else {
        let why = "the agent was restarted while it was uploaded; send it again";
        return Err(import::broken(uuid, "interrupted", why));
    };
    tracing::info!(image = %uuid, source = record.source, "fetching again what was interrupted");
    let request = FetchRequest {
        source: fetch.url.clone(),
        uuid: Some(uuid),
        manifest: Some(record.manifest.clone()),
        is_raw: fetch.is_raw,
        ..FetchRequest::default()
    };
    let wanted = Wanted { digest: record.digest.clone(), uuid: Some(uuid) };
    let mut pause = Duration::from_secs(1);
    loop {
        match context.sources.open(&fetch.url, &wanted).await {
            // The host may have started just now, and have no network yet.
            Err(error @ SourceError::Failed(_)) if pause < PATIENCE => {
                tracing::info!(image = %uuid, %error, "trying again in {} s", pause.as_secs());
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            found => return plan(call, &request, found?),
        }
    }
}
