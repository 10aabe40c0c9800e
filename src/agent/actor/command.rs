//! The commands of a VM's actor.

use std::{net::SocketAddr, sync::Arc};

use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::control::Control;
use crate::{
    agent::{
        call::{BootProgress, Call},
        error::Error,
        findings::Findings,
        reply::{DeleteReply, UpdateReply, VmReply},
    },
    hypervisor::Machine,
    model::StopCause,
    spec::BootOptions,
};

/// Where the answer to a command goes.
pub(in crate::agent) type ReplyTo<T> = oneshot::Sender<Result<T, Error>>;

/// A command to the actor of a VM.
#[derive(Debug)]
pub(in crate::agent) enum Command {
    /// Adopts what an earlier agent left.
    Adopt {
        findings: Box<Findings>,
        /// What became of it is known.
        done: oneshot::Sender<()>,
    },
    Start {
        call: Call,
        etag: String,
        options: BootOptions,
        progress: BootProgress,
        reply: ReplyTo<VmReply>,
    },
    Stop {
        call: Call,
        etag: String,
        force: bool,
        timeout_seconds: u32,
        cause: StopCause,
        reply: ReplyTo<VmReply>,
    },
    Reboot {
        call: Call,
        etag: String,
        force: bool,
        reply: ReplyTo<VmReply>,
    },
    Update {
        call: Call,
        etag: String,
        payload: Map<String, Value>,
        validate_only: bool,
        reply: ReplyTo<UpdateReply>,
    },
    Control {
        call: Call,
        etag: String,
        control: Control,
        reply: ReplyTo<VmReply>,
    },
    Delete {
        call: Call,
        etag: String,
        reply: ReplyTo<DeleteReply>,
    },
    /// Some of its links were taken off their bridges.
    Rejoin,
    /// Gives the running machine, for looking at it.
    Look {
        /// What for, like "get info for".
        what: &'static str,
        reply: oneshot::Sender<Result<Look, Error>>,
    },
}

/// A running machine and where its screen is.
#[derive(Debug)]
pub(in crate::agent) struct Look {
    pub(in crate::agent) machine: Arc<dyn Machine>,
    pub(in crate::agent) vnc: Option<SocketAddr>,
}
