//! `delete` and `vacuum`.

use std::io::{self, IsTerminal as _};

use uuid::Uuid;

use super::{
    super::{Clients, error::CliError, print},
    all, called, image, told,
};
use crate::{
    client::{Reason, reason},
    proto::v1,
};

fn request(uuid: &str) -> v1::DeleteImageRequest {
    v1::DeleteImageRequest { uuid: uuid.to_owned(), request_id: Uuid::new_v4().to_string() }
}

pub(super) async fn delete(clients: &mut Clients, uuids: &[String]) -> Result<(), CliError> {
    let mut failed = None;
    for uuid in uuids {
        // One that can't be deleted does not keep the others.
        if let Err(error) = delete_one(clients, uuid).await
            && let Some(earlier) = failed.replace(error)
        {
            say!("{earlier}");
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn delete_one(clients: &mut Clients, name: &str) -> Result<(), CliError> {
    let uuid = image(clients, "delete", name).await?.uuid;
    clients.images.delete_image(request(&uuid)).await.map_err(|status| told("delete", status))?;
    print(&format!("Deleted image {uuid}"))
}

/// Deletes what nothing uses; differences before what they are from.
pub(super) async fn vacuum(clients: &mut Clients, dry_run: bool, force: bool) -> Result<(), CliError> {
    let unused = unused(all(clients).await?);
    if dry_run || (!force && !unused.is_empty()) {
        for image in &unused {
            print(&format!("Would delete image {} ({})", image.uuid, called(image)))?;
        }
    }
    if dry_run || unused.is_empty() || !(force || is_agreed(unused.len())?) {
        return Ok(());
    }
    for image in unused {
        match clients.images.delete_image(request(&image.uuid)).await {
            Ok(_) => print(&format!("Deleted image {} ({})", image.uuid, called(&image)))?,
            // Somebody has just begun to use it, or deleted it.
            Err(status) if matches!(reason(&status), Some(Reason::ImageInUse | Reason::ImageNotFound)) => {}
            Err(status) => return Err(told("vacuum", status)),
        }
    }
    Ok(())
}

/// The images that no VM uses and no image that stays is from, in the order in which they can be deleted.
fn unused(images: Vec<v1::Image>) -> Vec<v1::Image> {
    let mut left: Vec<v1::Image> = images
        .into_iter()
        .filter(|image| image.state() == v1::ImageState::Active && image.vms.is_empty())
        .collect();
    let mut order: Vec<v1::Image> = Vec::new();
    loop {
        let goes = |image: &v1::Image| {
            image.derived.iter().all(|derived| order.iter().any(|gone| gone.uuid == *derived))
        };
        let (go, stay): (Vec<_>, Vec<_>) = left.into_iter().partition(goes);
        if go.is_empty() {
            return order;
        }
        order.extend(go);
        left = stay;
    }
}

fn is_agreed(count: usize) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::usage("imgadm vacuum: give -f to delete these without a question"));
    }
    say!("Delete {count} images? [y/N]");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|error| CliError::failed(error.to_string()))?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
