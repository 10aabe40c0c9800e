//! Disks, and the files in a zone's root.
//!
//! [`Volumes`] is the seam for disks: raw sparse files on Linux; ZFS volumes will be another
//! implementation. [`ZoneRoot`] is the only way in which the agent touches anything below a zone's
//! root: a guest that owns its hypervisor may have created what lies there.

mod closed;
mod copy;
mod error;
mod images;
mod intent;
pub(crate) mod overlay;
mod plan;
mod seed;
mod tree;
mod unfinished;
mod upload;
mod volumes;
mod zone_root;

pub(crate) use closed::{close_state, close_to_others};
pub(crate) use error::StorageError;
pub(crate) use images::{
    begin_image, check_image_room, finish_image, image_used, open_image, remove_deleted_image, remove_image,
    set_image_aside, take_image_back,
};
pub(crate) use intent::{FileAct, IntentNote, intents, remove_file};
pub(crate) use plan::UploadPlan;
pub(crate) use seed::write_seed;
pub(crate) use tree::{link_disk, make_zone, remove_disks, remove_run, remove_zone, write_vm_json};
pub(crate) use unfinished::{Orphan, Partial, give_up, shrink, unfinished};
pub(crate) use upload::Upload;
pub use volumes::FileVolumes;
pub(crate) use volumes::{Volumes, is_qcow2, take_disk};
pub(crate) use zone_root::{Entry, EntryKind, ZoneRoot};
