//! The rules of disks and CDs.

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    spec::{DiskSpec, Media, VmSpec, property::is_block_size, violation::Violation},
    text::is_hidden,
};

pub(super) fn check(out: &mut Vec<Violation>, spec: &VmSpec) {
    let disks = &spec.disks;
    for (index, disk) in disks.iter().enumerate() {
        self::disk(out, &format!("disks.{index}"), disk, spec);
    }
    let boot: Vec<usize> = disks.iter().enumerate().filter(|(_, d)| d.boot).map(|(i, _)| i).collect();
    for index in boot.iter().skip(1) {
        out.push(Violation::value(
            format!("disks.{index}.boot"),
            format!("multiple boot disks: disks.{} has boot already", boot[0]),
        ));
    }
    let mut uuids = HashSet::new();
    for (index, uuid) in disks.iter().enumerate().filter_map(|(i, d)| Some((i, d.uuid?))) {
        if !uuids.insert(uuid) {
            out.push(Violation::value(format!("disks.{index}.uuid"), format!("duplicate disk uuid {uuid}")));
        }
    }
    let mut paths = HashSet::new();
    for (index, path) in disks.iter().enumerate().filter_map(|(i, d)| Some((i, d.path.as_ref()?))) {
        if !paths.insert(path) {
            out.push(Violation::value(
                format!("disks.{index}.path"),
                format!("another disk has the path {path:?} already"),
            ));
        }
    }
}

/// Checks payloads only: the agent chooses the paths of the disks that it creates.
pub(super) fn check_given(spec: &VmSpec) -> impl Iterator<Item = Violation> {
    let given = |(index, disk): (usize, &DiskSpec)| {
        let named = disk.is_made_here() && disk.path.is_some();
        named.then(|| {
            let why = "you cannot specify a path for a disk unless you set nocreate=true";
            Violation::property(format!("disks.{index}.path"), why)
        })
    };
    spec.disks.iter().enumerate().filter_map(given)
}

fn disk(out: &mut Vec<Violation>, at: &str, disk: &DiskSpec, spec: &VmSpec) {
    if let (Some(model), Some(brand)) = (disk.model, spec.brand)
        && let Some(fault) = model.fault(brand)
    {
        out.push(Violation::value(format!("{at}.model"), fault));
    }
    if disk.is_made_here() {
        source(out, at, disk, spec);
        return;
    }
    if disk.image_uuid.is_some() {
        let why = "only a disk that the agent makes begins as an image";
        out.push(Violation::property(format!("{at}.image_uuid"), why));
    }
    match &disk.path {
        // A drive that was emptied.
        None if disk.media == Media::Cdrom && disk.place.is_some() => {}
        None => out.push(Violation::missing(
            format!("{at}.path"),
            "required: the path of the file inside the zone's root, like /tiny.iso",
        )),
        Some(path) => {
            if let Err(why) = zone_path(path) {
                out.push(Violation::value(format!("{at}.path"), why));
            }
        }
    }
}

/// Checks a disk's source: an empty disk of a size, or an image.
fn source(out: &mut Vec<Violation>, at: &str, disk: &DiskSpec, spec: &VmSpec) {
    let block_size = disk.other.get("block_size").and_then(Value::as_i64);
    if let Some(size) = block_size.filter(|size| !is_block_size(*size)) {
        out.push(Violation::value(
            format!("{at}.block_size"),
            format!("invalid .block_size({size}), must be 512-131072 and a power of 2."),
        ));
    }
    if disk.image_uuid.is_none() {
        if disk.size.is_none() {
            out.push(Violation::missing(format!("{at}.size"), "required: the size of the new disk in MiB"));
        }
        let given = [
            ("image_size", disk.image_size.is_some()),
            ("image_name", disk.other.contains_key("image_name")),
        ];
        for (key, _) in given.iter().filter(|(_, is_given)| *is_given) {
            out.push(Violation::property(format!("{at}.{key}"), "goes with image_uuid"));
        }
        return;
    }
    if block_size.is_some() {
        out.push(Violation::property(format!("{at}.block_size"), "the image has its own"));
    }
    // The sizes of a disk that exists may differ: it was changed.
    let (Some(size), Some(image)) = (disk.size.filter(|_| disk.form.is_none()), disk.image_size) else {
        return;
    };
    let flexible = spec.other.contains_key("flexible_disk_size");
    if size < image {
        out.push(Violation::value(format!("{at}.size"), format!("{size} is less than the image ({image})")));
    } else if size != image && !flexible {
        let why =
            format!("the image has its own size ({image}); a larger disk needs flexible_disk_size (bhyve)");
        out.push(Violation::property(format!("{at}.size"), why));
    }
}

/// Checks that `path` is an absolute path of plain names, as paths inside a zone's root are.
pub fn zone_path(path: &str) -> Result<(), String> {
    let shown = if path.len() > 80 { "the path" } else { path };
    if !path.starts_with('/') {
        return Err(format!("{shown:?} must be absolute: / is the zone's root"));
    }
    if path.len() > 1024 {
        return Err(format!("{} bytes is over the limit of 1024", path.len()));
    }
    if path.contains(is_hidden) {
        return Err(
            "control characters, and those that turn text around, are not allowed in a path".to_owned()
        );
    }
    for part in path.split('/').skip(1) {
        match part {
            "" if path.len() > 1 => return Err(format!("{shown:?} has an empty part")),
            "." | ".." => return Err(format!("{shown:?} has a \"{part}\" in it; give the plain path")),
            part if part.len() > 255 => return Err(format!("{shown:?} has a part of over 255 bytes")),
            _ => {}
        }
    }
    Ok(())
}
