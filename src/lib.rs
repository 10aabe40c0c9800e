//! Zoneward: the agent that runs on every VM host of a datacenter.
//!
//! For other programs there are [`client`], [`proto`] and [`spec`]; the rest is private.
//!
//! The rooms of the house; each uses only rooms that stand below it. `tests/layers.rs` has the same as a table, and
//! fails on any other import.
//!
//! ```text
//!   bin/zoneward                                    bin/vmadm
//!      |                                               |
//!   internals ---------------------------------- internals         the way in for these programs and the tests
//!      |                                               |
//!   api  browser  doctor  probe                     cli            the edges: gRPC, screens, an operator's commands
//!      |                                               |
//!   agent                                           client         registry, actors, adoption | for other programs
//!      |                                               |
//!   config                                             |           one file; each mechanism's settings
//!      |                                               |
//!   boot  auth                                         |           the boot plan; who may call what
//!      |                                               |
//!   zone  hypervisor  storage  network  console  metadata  image  source     mechanisms; none knows another
//!      |                                               |
//!   events                                             |           cursors, watch, fan-out
//!   store                                              |           one SQLite file
//!      |                                               |
//!   proto ------------------------------------------ proto         the contract, and the model in its messages
//!   model                                                          a VM's life as plain data
//!   spec                                                           pure: the machine model
//!      |
//!   layout  logfile  sys  crash  tls  text                         the ground: paths, logs, system calls, crash points
//! ```

#![cfg_attr(
    not(all(feature = "agent", feature = "vmadm")),
    allow(
        dead_code,
        unreachable_pub,
        unused_imports,
        reason = "what only the agent or the command converts"
    )
)]

#[cfg(feature = "agent")]
mod agent;
#[cfg(feature = "agent")]
mod api;
#[cfg(feature = "agent")]
mod auth;
#[cfg(feature = "agent")]
mod boot;
#[cfg(feature = "agent")]
mod browser;
#[cfg(feature = "vmadm")]
mod cli;
pub mod client;
#[cfg(feature = "agent")]
mod config;
#[cfg(feature = "agent")]
mod console;
#[cfg(feature = "agent")]
mod crash;
#[cfg(feature = "agent")]
mod doctor;
#[cfg(feature = "agent")]
mod events;
#[cfg(feature = "agent")]
mod hypervisor;
#[cfg(feature = "agent")]
mod image;
#[doc(hidden)]
pub mod internals;
#[cfg(feature = "agent")]
mod layout;
#[cfg(feature = "agent")]
mod logfile;
#[cfg(feature = "agent")]
mod metadata;
mod model;
#[cfg(feature = "agent")]
mod network;
#[cfg(feature = "agent")]
mod probe;
pub mod proto;
#[cfg(feature = "agent")]
mod source;
pub mod spec;
#[cfg(feature = "agent")]
mod storage;
#[cfg(feature = "agent")]
mod store;
#[cfg(feature = "agent")]
mod sys;
mod text;
mod tls;
#[cfg(feature = "agent")]
mod zone;

#[cfg(test)]
#[allow(dead_code, clippy::expect_used, reason = "unit tests take a part of it, and fail by a panic")]
#[path = "../tests/support/ignored.rs"]
mod ignored;
