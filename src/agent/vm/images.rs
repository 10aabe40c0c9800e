//! The images that disks begin as.

use std::path::Path;

use uuid::Uuid;

use crate::{
    agent::{
        context::{VmContext, images::HeldImage},
        error::Error,
    },
    layout::VmLayout,
    spec::{DiskForm, DiskSpec, Violation, VmSpec, defaults::ImageFacts, disk::DiskModel, image},
    storage::{StorageError, Volumes, open_image},
};

/// What a disk takes from an image of this host.
pub(in crate::agent) fn facts(context: &VmContext, uuid: Uuid) -> Option<ImageFacts> {
    let image = context.images.active(uuid)?;
    let model = image.manifest.text("disk_driver").and_then(|name| DiskModel::parse(name).ok());
    Some(ImageFacts { size: i32::try_from(image.mebibytes()).ok()?, model })
}

/// Disks that are still to be made from an image.
fn begun(spec: &VmSpec) -> impl Iterator<Item = (usize, &DiskSpec, Uuid)> {
    let new = |disk: &DiskSpec| disk.image_uuid.filter(|_| disk.is_made_here() && disk.form.is_none());
    spec.disks.iter().enumerate().filter_map(move |(index, disk)| Some((index, disk, new(disk)?)))
}

/// Returns what is wrong with the images of a machine: one is missing, has another size, or is for other machines.
pub(in crate::agent) fn violations(context: &VmContext, spec: &VmSpec) -> Vec<Violation> {
    let mut found = Vec::new();
    for (index, disk, uuid) in begun(spec) {
        let at = |key: &str| format!("disks.{index}.{key}");
        let Some(image) = context.images.active(uuid) else {
            let why = format!(
                "image {uuid} is not on this host; imgadm import {uuid} gets it from an image server"
            );
            found.push(Violation::value(at("image_uuid"), why));
            continue;
        };
        let size = image.mebibytes();
        if let Some(given) = disk.image_size.filter(|given| u64::try_from(*given) != Ok(size)) {
            let why = format!("{given} is not the size of the image, which has {size} MiB");
            found.push(Violation::value(at("image_size"), why));
        }
        if let Some(why) = image::unmet(&image.manifest, spec) {
            found.push(Violation::value(at("image_uuid"), why));
        }
    }
    found
}

/// Keeps a machine's images from deletion.
pub(in crate::agent) fn hold(context: &VmContext, spec: &VmSpec) -> Result<Vec<HeldImage>, Error> {
    begun(spec).map(|(_, _, uuid)| context.images.hold(uuid)).collect()
}

/// Makes the file of a disk, empty or from its image; returns its form if it is from one.
pub(in crate::agent) fn make_disk(
    volumes: &dyn Volumes,
    layout: &VmLayout,
    disk: &DiskSpec,
) -> Result<Option<DiskForm>, StorageError> {
    let (zone, name, size): (&Path, &str, u64) =
        (layout.zonepath(), disk.file_name().unwrap_or_default(), disk.mebibytes());
    match disk.image_uuid {
        None => volumes.create(zone, name, size).map(|()| None),
        Some(image) => volumes.clone(zone, name, &open_image(&layout.image(image))?, size).map(Some),
    }
}
