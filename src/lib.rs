//! Zoneward: the agent that runs on every VM host of a datacenter.
//!
//! The rooms of the house; each depends only on those below it.
//!
//! ```text
//! bin/zoneward   bin/vmadm
//!    |              |
//!   api            cli            gRPC edge                    |  the operator's command
//!  browser        client          a screen in a browser        |  what other programs talk to agents with
//!    |  auth        |             who may call what; TLS
//!   probe doctor     |             what a zone stops, and what a host can do
//!    |              |
//!   agent           |             registry of VMs, one actor per VM, adoption
//!    |              |
//!   boot            |             the boot plan: steps with undo, phases
//!    |              |
//!   zone  hypervisor  storage  network  console  metadata     mechanisms; none knows another
//!    |
//!   events                        cursors, watch, fan-out
//!    |
//!   store                         one SQLite file: VM records, request ids, the journal
//!    |
//!   proto                         the contract, and the model's two forms
//!    |
//!   spec                          pure: the machine model
//!   text                          what others wrote, for a person to read
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
pub mod zone;
