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

pub mod agent;
pub mod api;
pub mod auth;
pub mod boot;
pub mod browser;
pub mod cli;
pub mod client;
pub mod config;
pub mod console;
mod crash;
pub mod doctor;
pub mod events;
pub mod hypervisor;
pub mod layout;
mod logfile;
pub mod metadata;
pub mod model;
pub mod network;
pub mod probe;
pub mod proto;
pub mod spec;
pub mod storage;
pub mod store;
mod sys;
mod text;
mod tls;
pub mod zone;
