//! Zoneward: the agent that runs on every VM host of a datacenter.
//!
//! The rooms of the house; each uses only rooms that stand below it. `tests/layers.rs` has the same as a table, and
//! fails on any other import.
//!
//! ```text
//!   bin/zoneward                                    bin/vmadm
//!      |                                               |
//!   api  browser  doctor  probe                     cli            the edges: gRPC, screens, an operator's commands
//!      |                                               |
//!   agent                                           client         registry, actors, adoption | for other programs
//!      |                                               |
//!   config                                             |           one file; each mechanism's settings
//!      |                                               |
//!   boot  auth                                         |           the boot plan; who may call what
//!      |                                               |
//!   zone  hypervisor  storage  network  console  metadata          mechanisms; none knows another
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
    allow(dead_code, unused_imports, reason = "what only the agent or the command converts")
)]

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "agent")]
pub mod api;
#[cfg(feature = "agent")]
pub mod auth;
#[cfg(feature = "agent")]
pub mod boot;
#[cfg(feature = "agent")]
pub mod browser;
#[cfg(feature = "vmadm")]
pub mod cli;
pub mod client;
#[cfg(feature = "agent")]
pub mod config;
#[cfg(feature = "agent")]
pub mod console;
#[cfg(feature = "agent")]
mod crash;
#[cfg(feature = "agent")]
pub mod doctor;
#[cfg(feature = "agent")]
pub mod events;
#[cfg(feature = "agent")]
pub mod hypervisor;
#[cfg(feature = "agent")]
pub mod layout;
#[cfg(feature = "agent")]
mod logfile;
#[cfg(feature = "agent")]
pub mod metadata;
pub mod model;
#[cfg(feature = "agent")]
pub mod network;
#[cfg(feature = "agent")]
pub mod probe;
pub mod proto;
pub mod spec;
#[cfg(feature = "agent")]
pub mod storage;
#[cfg(feature = "agent")]
pub mod store;
#[cfg(feature = "agent")]
mod sys;
mod text;
mod tls;
#[cfg(feature = "agent")]
pub mod zone;

#[cfg(test)]
#[allow(dead_code, clippy::expect_used, reason = "unit tests take a part of it, and fail by a panic")]
#[path = "../tests/support/ignored.rs"]
mod ignored;
