//! The end of an image.

use uuid::Uuid;

use super::users;
use crate::{
    agent::{
        Agent,
        context::{VmContext, transition::Transition},
        error::Error,
        files::blocking,
        request::{call::Call, reply::DeleteReply},
    },
    crash,
    model::ImageStep,
    storage,
};

impl Agent {
    /// Deletes an image that nobody needs, or cancels its import.
    pub(crate) async fn delete_image(&self, call: Call, uuid: Uuid) -> Result<(), Error> {
        let context = self.context.clone();
        let work = move |call: Call| async move { delete(&context, &call, uuid).await };
        self.context.once(call, work).await.map(|DeleteReply| ())
    }
}

async fn delete(context: &VmContext, call: &Call, uuid: Uuid) -> Result<DeleteReply, Error> {
    context.images.get(uuid)?;
    if let Some(mut import) = context.images.import(uuid) {
        import.cancel.cancel();
        let ended = import.progress.wait_for(|progress| progress.outcome.is_some()).await;
        let was_faster = ended.is_ok_and(|progress| matches!(progress.outcome, Some(Ok(_))));
        if !was_faster && context.images.get(uuid).is_ok() {
            let message =
                format!("the remains of image {uuid} could not be removed; the agent's log says why");
            return Err(Error::Internal { message });
        }
        if !was_faster {
            Transition::new(context).answers(call.answer(&Ok(DeleteReply))).only().await?;
            return Ok(DeleteReply);
        }
    }
    context.images.leave(uuid)?;
    let deleted = delete_unused(context, call, uuid).await;
    if deleted.is_err() {
        context.images.stay(uuid);
    }
    deleted
}

async fn delete_unused(context: &VmContext, call: &Call, uuid: Uuid) -> Result<DeleteReply, Error> {
    let users = users(context);
    let vms: Vec<Uuid> = users.iter().filter(|(_, image)| *image == uuid).map(|(vm, _)| *vm).collect();
    let images = context.images.derived(uuid);
    if !vms.is_empty() || !images.is_empty() {
        let list = |all: &[Uuid], what: &str| {
            let names: Vec<String> = all.iter().take(5).map(ToString::to_string).collect();
            let more = if all.len() > 5 { ", …" } else { "" };
            if all.is_empty() { String::new() } else { format!(" by {what} {}{more}", names.join(", ")) }
        };
        let and = if vms.is_empty() || images.is_empty() { "" } else { " and" };
        let message = format!(
            "image {uuid} is used{}{and}{}; delete those first",
            list(&vms, "VM"),
            list(&images, "image")
        );
        return Err(Error::ImageInUse { uuid, vms, images, message });
    }
    let layout = context.layout.image(uuid);
    let aside = layout.clone();
    blocking(move || storage::set_image_aside(&aside)).await?;
    let transition = Transition::new(context).answers(call.answer(&Ok(DeleteReply)));
    let gone = || context.images.remove(uuid);
    if let Err(error) = transition.delete_image(call, uuid, ImageStep::Deleted, gone).await {
        let back = layout.clone();
        blocking(move || storage::take_image_back(&back)).await?;
        return Err(error);
    }
    crash::point("image.deleted");
    if let Err(error) = blocking(move || storage::remove_deleted_image(&layout)).await {
        tracing::warn!(image = %uuid, %error, "its files stay until the next start");
    }
    Ok(DeleteReply)
}
