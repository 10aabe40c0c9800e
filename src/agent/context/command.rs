//! The commands of a VM's actor.

use std::{net::SocketAddr, sync::Arc};

use rustix::process::Signal;
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use crate::{
    agent::{
        context::findings::Findings,
        error::Error,
        request::{
            call::{BootProgress, Call},
            reply::{DeleteReply, UpdateReply, VmReply},
        },
    },
    hypervisor::Machine,
    model::StopCause,
    spec::BootOptions,
};

/// The channel for the reply to a command.
pub(in crate::agent) type ReplyTo<T> = oneshot::Sender<Result<T, Error>>;

/// A command to the actor of a VM.
#[derive(Debug)]
pub(in crate::agent) enum Command {
    /// Adopts a VM of an earlier agent.
    Adopt {
        findings: Box<Findings>,
        /// Sent after the adoption.
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
        /// Lists in the payload are whole.
        replace_lists: bool,
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
    /// Reconnects links that have left their bridges.
    Rejoin,
    /// Returns the running machine, for inspection.
    Inspect {
        /// The purpose, like "get info for".
        what: &'static str,
        reply: ReplyTo<Inspection>,
    },
}

/// A request to a running machine.
#[derive(Clone, Debug)]
pub(in crate::agent) enum Control {
    /// A signal for the hypervisor; `None` checks whether it exists.
    Kill(Option<Signal>),
    /// A non-maskable interrupt.
    Nmi,
    /// A picture of the screen in the zone, after a key woke it.
    Screenshot,
    Pause,
    Resume,
    /// Another medium in a CD drive.
    Media {
        drive: String,
        path: String,
    },
}

/// A running machine and its screen's address.
#[derive(Debug)]
pub(in crate::agent) struct Inspection {
    pub(in crate::agent) machine: Arc<dyn Machine>,
    pub(in crate::agent) vnc: Option<SocketAddr>,
}
