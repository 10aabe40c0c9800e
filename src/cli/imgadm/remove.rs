//! `delete` and `vacuum`.

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
    for uuid in uuids {
        let uuid = image(clients, "delete", uuid).await?.uuid;
        clients.images.delete_image(request(&uuid)).await.map_err(|status| told("delete", status))?;
        print(&format!("Deleted image {uuid}"))?;
    }
    Ok(())
}

/// Deletes what nothing uses; differences before what they are from.
pub(super) async fn vacuum(clients: &mut Clients, dry_run: bool) -> Result<(), CliError> {
    loop {
        let is_unused = |image: &v1::Image| {
            image.state() == v1::ImageState::Active && image.vms.is_empty() && image.derived.is_empty()
        };
        let unused: Vec<v1::Image> = all(clients).await?.into_iter().filter(is_unused).collect();
        let mut deleted = 0;
        for image in &unused {
            if dry_run {
                print(&format!("Would delete image {} ({})", image.uuid, called(image)))?;
                continue;
            }
            match clients.images.delete_image(request(&image.uuid)).await {
                Ok(_) => {
                    print(&format!("Deleted image {} ({})", image.uuid, called(image)))?;
                    deleted += 1;
                }
                // Somebody has just begun to use it, or deleted it.
                Err(status)
                    if matches!(reason(&status), Some(Reason::ImageInUse | Reason::ImageNotFound)) => {}
                Err(status) => return Err(told("vacuum", status)),
            }
        }
        if deleted == 0 {
            return Ok(());
        }
    }
}
