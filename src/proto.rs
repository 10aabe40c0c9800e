//! The generated contract. Nothing here is written by hand.
#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, clippy::pedantic)]

/// `zoneward.v1`.
pub mod v1 {
    tonic::include_proto!("zoneward.v1");
}

include!(concat!(env!("OUT_DIR"), "/rpcs.rs"));

/// The contract with everything that it imports, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/zoneward_descriptors.bin"));
