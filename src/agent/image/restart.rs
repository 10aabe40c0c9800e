//! Images after an earlier agent: what it was importing or deleting.

use std::{fs, path::Path, sync::Arc};

use uuid::Uuid;

use super::{
    fetch::{FetchRequest, plan},
    import,
    pieces::Pieces,
};
use crate::{
    agent::{context::VmContext, error::Error, request::call::Call},
    model::{ImageRecord, ImageState},
    source::Wanted,
    storage,
};

/// Settles files and records before anybody can ask for an image.
pub(in crate::agent) fn settle(context: &VmContext, records: Vec<ImageRecord>) {
    for record in records {
        context.images.put(Arc::new(record), None);
    }
    for uuid in deleted(context.layout.images()) {
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

/// Images that were set aside.
fn deleted(folder: &Path) -> Vec<Uuid> {
    let uuid = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        Uuid::try_parse(name.strip_suffix(".deleted")?).ok()
    };
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(uuid).collect()
}

/// Goes on with the imports of the earlier agent.
pub(in crate::agent) fn begin_again(context: &VmContext) {
    let (records, _) = context.images.page(None, usize::MAX);
    for record in records.into_iter().filter(|record| record.state == ImageState::Importing) {
        let again = context.clone();
        context.tasks.spawn(async move { go_on(&again, &record).await });
    }
}

async fn go_on(context: &VmContext, record: &ImageRecord) {
    let call = record.call.clone().map_or_else(Call::own, Call::from_waiting);
    if let Err(error) = fetch_again(context, &call, record).await
        && error != Error::Stopping
    {
        tracing::warn!(image = %record.uuid, %error, "an import that was interrupted failed");
    }
}

async fn fetch_again(context: &VmContext, call: &Call, record: &ImageRecord) -> Result<(), Error> {
    let uuid = record.uuid;
    let Some(fetch) = &record.fetch else {
        let error = import::broken(
            uuid,
            "interrupted",
            "the agent was restarted while it was uploaded; send it again",
        );
        import::give_up(context, call, uuid, &error).await;
        return Err(error);
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
    let opened = match context.sources.open(&fetch.url, &wanted).await {
        Ok(found) => plan(call, &request, found),
        Err(error) => Err(error.into()),
    };
    let (plan, content) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            import::give_up(context, call, uuid, &error).await;
            return Err(error);
        }
    };
    let begun = import::begin(context, call, &plan, None).await?;
    import::carry_out(context, call, plan, Pieces::Source(content), begun).await.map(drop)
}
