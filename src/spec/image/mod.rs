//! Images, in imgadm's terms: the manifest that describes one, its digest, and what it asks of machines.

mod digest;
mod manifest;
mod requirements;

pub use digest::Digest;
pub use manifest::{MAX_MANIFEST, Manifest};
pub use requirements::unmet;
