//! Disks, and the files in a zone's root.
//!
//! [`Volumes`] is the seam for disks: raw sparse files on Linux; ZFS volumes will be another
//! implementation. [`ZoneRoot`] is the only way in which the agent touches anything below a zone's
//! root: what lies there may have been made by a guest that owns its hypervisor.

mod closed;
mod deed;
mod error;
mod plan;
mod seed;
mod tree;
mod unfinished;
mod upload;
mod volumes;
mod zone_root;

pub use closed::{close_state, close_to_others};
pub use deed::{Act, Deed, Note, noted, remove_file};
pub use error::StorageError;
pub use plan::UploadPlan;
pub use seed::write_seed;
pub use tree::{make_zone, remove_disks, remove_run, remove_zone, write_vm_json};
pub use unfinished::{Orphan, Partial, give_up, shrink, unfinished};
pub use upload::Upload;
pub use volumes::{FileVolumes, Volumes, is_qcow2, take_disk};
pub use zone_root::{Entry, EntryKind, ZoneRoot};
