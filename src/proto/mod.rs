//! The contract: generated messages and services, and the model in its messages, both ways.

mod boot;
mod event;
mod image;
mod json;
mod packed;
mod spec;
mod update;
mod value;
mod vm;

pub(crate) use boot::{boot_options, boot_options_to_proto, phase};
pub(crate) use event::{changes_to_proto, event_to_proto};
pub use generated::{DESCRIPTORS, DOCUMENTED, Rpc, v1};
pub(crate) use image::image_to_proto;
pub use packed::Packed;
pub(crate) use spec::flat_object;
pub use spec::{spec_from_proto, spec_to_json, spec_to_proto};
pub use update::{json_to_update, update_to_json};
pub(crate) use value::{json_to_struct, note, offset, struct_to_json, violation};
pub(crate) use vm::{
    Sight, is_the_same_for_all, limits, limits_from, restrictions, restrictions_from, state_from,
    status_from_proto, time_from, vm_to_proto, vm_with,
};

/// Nothing in here is written by hand.
mod generated {
    #![allow(
        missing_docs,
        missing_debug_implementations,
        unreachable_pub,
        clippy::all,
        clippy::pedantic,
        reason = "generated"
    )]

    /// `zoneward.v1`.
    pub mod v1 {
        tonic::include_proto!("zoneward.v1");
        include!(concat!(env!("OUT_DIR"), "/servers/zoneward.v1.rs"));
    }

    include!(concat!(env!("OUT_DIR"), "/rpcs.rs"));

    /// The contract with everything that it imports.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/zoneward_descriptors.bin"));

    /// The same with its comments, for reflection.
    pub const DOCUMENTED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/zoneward_documented.bin"));
}
