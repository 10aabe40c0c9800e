//! Images: what their bytes are, and how they become disks.
//!
//! ```text
//!   bytes ─▶ container ─▶ format ─▶ disk              in a zone of its own, with these descriptors alone
//!            gzip bzip2   raw       sparse file
//!            xz zstd      ZFS stream
//!            tar (disk/)  qcow2 ─▶ scratch ─▶ disk    needs its content as a whole
//! ```
//!
//! [`convert`] is everything that reads an image's bytes. They are written once, while they are read; only qcow2 needs
//! a scratch file, which has no name. The length of the disk is the agent's to set, from [`Converted::size`].

mod container;
mod convert;
mod converter;
mod disk;
mod fault;
mod qcow2;
mod raw;
#[cfg(test)]
mod tests;
mod worker;
mod zfs;

pub(crate) use convert::{Conversion, Converted};
pub(crate) use converter::Converter;
pub(crate) use converter::{Converting, Job};
pub use converter::{InThread, is_image};
pub(crate) use fault::{Fault, FaultKind};
pub(crate) use worker::{MAX_RESULT, OUTPUT, SCRATCH, arguments, result};
pub use worker::{SUBCOMMAND, run};
