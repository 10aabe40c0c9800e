//! The machine model: the desired state of a VM. Pure: no I/O, no clock, no randomness of its own.
//!
//! A machine JSON (or its protobuf form) becomes a [`VmSpec`] through [`machine_json::parse`];
//! [`validate::check`] finds everything that is wrong with it at once; [`defaults::complete`] fills
//! in what was left open. Names, units and limits are vmadm's.

pub mod addressing;
pub mod boot_options;
mod coerce;
pub mod defaults;
pub mod disk;
pub mod filter;
pub mod forms;
mod hint;
pub mod image;
pub mod limits;
pub mod machine_json;
pub mod nic;
mod patch;
pub mod pci_slot;
pub mod place;
pub mod property;
pub mod restriction;
pub mod route;
pub mod secret;
pub mod state;
mod strict_json;
pub mod update;
pub mod validate;
pub mod violation;
pub mod vm;

pub use boot_options::{BootDevice, BootOptions, BootOrder};
pub use disk::{DiskForm, DiskModel, DiskSpec, Media};
pub use limits::{LimitReport, Limits};
pub use nic::{Mac, NicAddress, NicModel, NicSpec, primary};
pub use pci_slot::PciSlot;
pub use place::Place;
pub use restriction::{Enforcement, Restriction};
pub use route::Gateway;
pub use state::VmState;
pub use violation::{Kind, Note, Violation};
pub use vm::{Bootrom, Brand, FlatObject, Scalar, VmSpec};

/// Largest machine JSON that is accepted, in bytes.
pub const MAX_PAYLOAD: usize = 1 << 20;
