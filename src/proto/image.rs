//! An image as the contract shows it.

use super::{json_to_struct, v1, value::offset, vm::time};
use crate::model::{ImageRecord, ImageState, ImageStep};

/// An image's record; what only the host knows is left out.
pub(crate) fn image_to_proto(image: &ImageRecord) -> v1::Image {
    let state = match image.state {
        ImageState::Importing => v1::ImageState::Importing,
        ImageState::Active => v1::ImageState::Active,
    };
    v1::Image {
        uuid: image.uuid.to_string(),
        state: state.into(),
        manifest: Some(json_to_struct(image.manifest.object().clone())),
        digest: image.digest.as_ref().map(ToString::to_string).unwrap_or_default(),
        size: offset(image.size),
        source: image.source.clone(),
        format: image.format.clone(),
        guid: image.guid.map(|guid| guid.to_string()).unwrap_or_default(),
        create_time: Some(time(image.created)),
        ..v1::Image::default()
    }
}

/// A step of an image's import.
pub(super) fn step(step: &ImageStep, image: Option<&ImageRecord>) -> v1::ImageChanged {
    use v1::image_changed::Step as Wire;
    let mut changed = v1::ImageChanged { image: image.map(image_to_proto), ..v1::ImageChanged::default() };
    let wire = match step {
        ImageStep::Begun => Wire::Begun,
        ImageStep::Progress { received, total } => {
            (changed.received, changed.total) = (offset(*received), offset(total.unwrap_or_default()));
            Wire::Progress
        }
        ImageStep::Imported => Wire::Imported,
        ImageStep::Failed { reason } => {
            changed.reason.clone_from(reason);
            Wire::Failed
        }
        ImageStep::Deleted => Wire::Deleted,
    };
    v1::ImageChanged { step: wire.into(), ..changed }
}
