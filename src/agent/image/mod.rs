//! Images: imports, uploads, what uses them, and their end.
//!
//! ```text
//!   fetch ───┐                          ┌─ converter, in its zone ─▶ disk.partial ─▶ disk
//!            ├─▶ import: bytes ─▶ hash ─┤
//!   upload ──┘     │                    └─ digest right?
//!                  ▼
//!            record "importing" ─▶ record "active" │ a failure removes the files, then the record
//!                  └ the next agent begins a fetch again, and ends an upload
//! ```
//!
//! The image's record is inserted before its folder is made, and deleted after its files are gone or set aside.

mod export;
mod fetch;
mod import;
mod pieces;
mod remove;
mod restart;
mod turn;
mod upload;

use std::{str::FromStr as _, sync::Arc};

use uuid::Uuid;

pub(crate) use fetch::{FetchProgress, FetchRequest};
pub(in crate::agent) use restart::{begin_again, settle};
pub(crate) use upload::{ImageUpload, ImageUploader};

pub(crate) use crate::source::Offer;

use super::{Agent, context::VmContext, error::Error};
use crate::{
    model::{ImageRecord, ImageState},
    spec::{forms::parse_uuid, image::Digest},
    storage,
};

/// An image as it is, with what the host knows of it.
#[derive(Clone, Debug)]
pub(crate) struct ImageView {
    /// Its record.
    pub(crate) record: Arc<ImageRecord>,
    /// Bytes on the file system.
    pub(crate) used: u64,
    /// Bytes that have arrived, and of how many, while it is imported.
    pub(crate) received: (u64, Option<u64>),
    /// VMs with disks that began as it.
    pub(crate) vms: Vec<Uuid>,
    /// Images that are a difference from it.
    pub(crate) derived: Vec<Uuid>,
}

impl Agent {
    /// At most `limit` images after `after`, by UUID, and whether there are more.
    pub(crate) fn images(&self, after: Option<Uuid>, limit: usize) -> (Vec<ImageView>, bool) {
        let (records, more) = self.context.images.page(after, limit);
        let users = users(&self.context);
        let views = records.into_iter().map(|record| view(&self.context, record, &users)).collect();
        (views, more)
    }

    /// An image by UUID or digest.
    pub(crate) fn image(&self, name: &str) -> Result<ImageView, Error> {
        Ok(self.view_of_image(find(&self.context, name)?))
    }

    /// An image's record with what the host knows of it.
    pub(crate) fn view_of_image(&self, record: Arc<ImageRecord>) -> ImageView {
        view(&self.context, record, &users(&self.context))
    }

    /// Most bytes of an image.
    pub(crate) fn image_limit(&self) -> u64 {
        self.context.settings.image_bytes
    }

    /// Configured image servers.
    pub(crate) fn image_sources(&self) -> &[String] {
        self.context.sources.servers()
    }

    /// What an image server offers, or each of the configured ones does.
    pub(crate) async fn remote_images(&self, source: &str, uuid: Option<Uuid>) -> Vec<Offer> {
        self.context.sources.offers(source, uuid).await
    }
}

fn find(context: &VmContext, name: &str) -> Result<Arc<ImageRecord>, Error> {
    if let Ok(uuid) = parse_uuid(name) {
        return context.images.get(uuid);
    }
    let digest = Digest::from_str(name)
        .map_err(|_| Error::invalid("uuid", "not the UUID or the digest of an image"))?;
    let is_it =
        |image: &ImageRecord| image.state == ImageState::Active && image.digest.as_ref() == Some(&digest);
    context.images.find(is_it).ok_or(Error::ImageNotFound { image: digest.to_string() })
}

/// Every VM and an image that one of its disks began as.
fn users(context: &VmContext) -> Vec<(Uuid, Uuid)> {
    let images = |vm: Uuid| {
        let record = context.vm(vm).ok()?;
        Some(
            record
                .spec
                .disks
                .iter()
                .filter_map(|disk| disk.image_uuid)
                .map(|image| (vm, image))
                .collect::<Vec<_>>(),
        )
    };
    let mut users: Vec<_> = context.registry.uuids().into_iter().filter_map(images).flatten().collect();
    users.dedup();
    users
}

fn view(context: &VmContext, record: Arc<ImageRecord>, users: &[(Uuid, Uuid)]) -> ImageView {
    let uuid = record.uuid;
    let received = context.images.import(uuid).map(|import| {
        let progress = import.progress.borrow();
        (progress.received, progress.total)
    });
    ImageView {
        used: storage::image_used(&context.layout.image(uuid)),
        received: received.unwrap_or_default(),
        vms: users.iter().filter(|(_, image)| *image == uuid).map(|(vm, _)| *vm).collect(),
        derived: context.images.derived(uuid),
        record,
    }
}
