//! One VM: its actor and the command queue. Only the actor changes the record; each verb has a file.
//!
//! ```text
//!   commands ──┐
//!   process ended ──┤
//!   hypervisor events ──┼──▶ actor ──▶ commit ──▶ watchers, `record`
//!   stop deadline ──┘
//! ```
//!
//! [`crate::spec::VmState`] shows the states. A stop is answered when the process is gone, so its callers
//! wait in [`Stop`] while other commands are handled: a second, forced stop may overtake a patient one. A
//! boot runs in one go; commands wait until it is over. A commit may fail (disk full): then a command changes
//! nothing, but the exit of a process is a fact, and its commit is retried until it succeeds.

mod adopt;
mod button;
mod completion;
mod control;
pub(super) mod create;
mod delete;
mod disks;
mod ended;
mod exit;
pub(super) mod images;
mod listen;
mod live;
pub(super) mod patience;
mod policy;
mod reboot;
mod record;
mod rename;
mod resets;
pub(in crate::agent) mod screen;
mod seat;
pub(super) mod signal;
mod sleeps;
mod start;
mod stop;
pub(super) mod turn;
mod update;
pub(super) mod validation;
pub(super) mod verdict;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::Instrument as _;

use super::{
    context::{
        VmContext,
        command::{Command, Inspection},
    },
    error::Error,
    guest::links::{self, Attended},
    request::{call::check_etag, reply::VmReply},
};
use crate::{
    console::{Console, VncEndpoint},
    hypervisor::MachineEvent,
    layout::VmLayout,
    model::VmRecord,
    spec::VmState,
};
use live::{Live, ended, next_event};
use policy::{Ask, Verdict, judge};
use resets::Resets;
use seat::Seat;
use sleeps::Sleeps;
use stop::{Manner, Stop};

/// Interval between attempts to reach a lost hypervisor.
const RECOVER_EVERY: Duration = Duration::from_secs(5);
/// Interval between attempts to apply a VM's packet rules.
const GUARD_AGAIN: Duration = Duration::from_secs(5);
/// See the module.
#[derive(Debug)]
pub(super) struct Actor {
    context: VmContext,
    layout: VmLayout,
    console: Console,
    record: VmRecord,
    published: watch::Sender<Arc<VmRecord>>,
    commands: mpsc::Receiver<Command>,
    live: Live,
    stop: Option<Stop>,
    /// When to search again for a lost hypervisor.
    recover_at: Option<Instant>,
    last_words: Option<MachineEvent>,
    resets: Resets,
    sleeps: Sleeps,
}

enum Then {
    GoOn,
    End,
}

impl Actor {
    /// Starts the actor of a known VM. It runs `first` before any command that is already queued.
    pub(super) fn spawn(context: &VmContext, seat: Seat, record: VmRecord, first: Option<Command>) {
        let Seat { layout, console, published, commands } = seat;
        published.send_replace(Arc::new(record.clone()));
        let mut actor = Self {
            context: context.clone(),
            layout,
            console,
            record,
            published,
            commands,
            live: Live::default(),
            stop: None,
            recover_at: None,
            last_words: None,
            resets: Resets::default(),
            sleeps: Sleeps::default(),
        };
        // Every log line about this VM names it.
        let span = tracing::info_span!("vm", uuid = %actor.record.uuid);
        let work = async move {
            if let Some(first) = first {
                Box::pin(actor.obey(first)).await;
            }
            actor.run().await;
        };
        context.tasks.spawn(work.instrument(span));
    }

    /// Serves a hypervisor that was found, not started.
    async fn attend(&mut self) {
        self.console.watch().await;
        self.listen_to_guest(false);
        // Applies what was committed, whatever the earlier agent completed and the host changed since.
        links::rejoin(&self.context, &self.record).await;
        self.follow_links().await;
    }

    async fn run(mut self) {
        let stopping = self.context.stopping.clone();
        loop {
            let deadline = self.stop.as_ref().map(|stop| stop.deadline);
            self.recover_at = (self.record.state == VmState::Lost)
                .then(|| self.recover_at.unwrap_or_else(|| Instant::now() + RECOVER_EVERY));
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                ended = ended(self.live.process.clone()) => self.on_ended(ended).await,
                () = until(deadline) => self.on_deadline(),
                () = until(self.stop.as_ref().and_then(|stop| stop.button.due())) => self.on_button().await,
                () = until(self.resets.due()) => self.journal_resets().await,
                () = until(self.sleeps.due()) => self.check_run_status().await,
                () = until(self.recover_at) => self.recover().await,
                () = until(self.live.guard_again) => self.follow_links().await,
                command = self.commands.recv() => match command {
                    // Boxed, so that an idle VM needs no room for a command's future.
                    Some(command) => if matches!(Box::pin(self.obey(command)).await, Then::End) { break },
                    None => break,
                },
                // Last: a hypervisor that a guest controls may flood, and must not starve the other branches.
                event = next_event(self.live.machine.clone()) => self.on_event(event).await,
            }
        }
    }

    async fn obey(&mut self, command: Command) -> Then {
        match command {
            Command::Adopt { findings, done } => {
                self.on_adoption(*findings).await;
                let _ = done.send(());
                if self.live.process.is_some() {
                    self.attend().await;
                }
                self.resume_stop().await;
            }
            Command::Start { call, etag, options, progress, reply } => {
                let result = match self.may_start(&etag) {
                    Ok(None) => {
                        self.start(&call, &options, progress, |vm| vm.spec.autoboot = Some(true)).await
                    }
                    Ok(Some(already)) => self.keep_answer(&call, already).await,
                    Err(error) => Err(error),
                };
                let _ = reply.send(result);
            }
            Command::Stop { call, etag, force, timeout_seconds, cause, reply } => {
                let timeout = Duration::from_secs(timeout_seconds.min(stop::MAX_TIMEOUT).into());
                let manner = Manner { force, timeout, cause, then_start: false, answered: true };
                self.begin_stop(call, &etag, manner, reply).await;
            }
            Command::Reboot { call, etag, force, reply } => self.reboot(call, &etag, force, reply).await,
            Command::Update { call, etag, payload, replace_lists, validate_only, reply } => {
                let update = self.update(&call, &etag, (payload, replace_lists), validate_only).await;
                let _ = reply.send(update);
            }
            Command::Control { call, etag, control, reply } => {
                let _ = reply.send(self.control(&call, &etag, control).await);
            }
            Command::Delete { call, etag, reply } => {
                let result = self.delete(&call, &etag).await;
                let gone = result.is_ok();
                let _ = reply.send(result);
                if gone {
                    return Then::End;
                }
            }
            Command::Rejoin => {
                if self.live.process.is_some() && links::rejoin(&self.context, &self.record).await {
                    self.follow_links().await;
                }
            }
            Command::Inspect { what, reply } => {
                let _ = reply.send(self.inspect(what));
            }
        }
        Then::GoOn
    }

    /// Applies changes of the interfaces' packet rules and network settings.
    async fn follow_links(&mut self) {
        let guarded = links::guard(&self.context, &self.record).await;
        if let (Err(error), None) = (&guarded, self.live.guard_again) {
            tracing::error!(%error, "the interfaces keep their earlier rules; the new ones are tried again");
        }
        self.live.guard_again = guarded.is_err().then(|| Instant::now() + GUARD_AGAIN);
        match &mut self.live.links {
            Some(attended) => attended.follow(&self.context, &self.record),
            None => {
                let late = self.live.late.clone();
                self.live.links = Some(Attended::begin(&self.context, &self.record, late));
            }
        }
    }

    fn check_etag(&self, etag: &str) -> Result<(), Error> {
        check_etag(&self.record, etag)
    }

    fn wrong_state(&self, message: impl Into<String>) -> Error {
        Error::WrongState { uuid: self.record.uuid, state: self.record.state, message: message.into() }
    }

    fn reply(&self, already: bool) -> VmReply {
        VmReply { already, ..VmReply::of(&self.record) }
    }

    /// Returns the machine, to do `what`, like "get info for".
    fn inspect(&self, what: &str) -> Result<Inspection, Error> {
        let is_allowed = judge(self.record.state, Ask::Inspect) == Verdict::Act;
        match &self.live.machine {
            Some(machine) if is_allowed => Ok(Inspection {
                machine: machine.clone(),
                vnc: self.live.vnc.as_ref().map(VncEndpoint::address),
            }),
            _ => Err(self.wrong_state(format!(
                "Unable to {what} vm from state \"{}\", must be \"running\" or \"stopping\".",
                self.record.state
            ))),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
