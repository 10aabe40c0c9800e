//! The control plane over gRPC, against a simulated host. One file for each behaviour.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that can't go on panics")]

#[path = "../support/mod.rs"]
mod support;

mod acts;
mod adoption;
mod auth;
mod autoboot;
mod bhyve;
mod boot;
mod bounds;
mod browser;
mod button;
mod capacity;
mod cases;
mod checks;
mod command;
mod completion;
mod console;
mod contract;
mod create;
mod crowd;
mod drain;
mod events;
mod example;
mod files;
mod host_uuid;
mod identity;
mod images;
mod leaks;
mod lifecycle;
mod limits;
mod list;
mod metadata;
mod networks;
mod oracle;
mod payloads;
mod reasons;
mod repeats;
mod requests;
mod secrets;
mod update;
mod upgrade;
mod vmadm;
mod wire;
