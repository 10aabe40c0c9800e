//! Attaches to a console: its output from any byte on, and its input, across broken connections.
//!
//! ```text
//!   attached ──▶ broken ──▶ attached      input sent during the break, or just before, may be lost
//!      │            └─▶ failed            the VM does not run; another writes; its input had ended
//!      └─▶ input ended ─▶ all of it is given to the VM
//! ```
//!
//! Input and output are separate, so that one task may type while another displays.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::{Backoff, Printed, Reason, is_passing, reason};
use crate::proto::v1::{
    self, attach_request, attach_response::Item, console_service_client::ConsoleServiceClient,
};

/// Messages of input that wait for the connection.
const QUEUE: usize = 8;
/// How long an agent may take to notice a broken connection: until then it may report another writer, and
/// mean this program.
const UNNOTICED: Duration = Duration::from_secs(60);

/// An item of an attached console.
#[derive(Debug)]
pub enum Attached {
    /// The guest printed something, or a part of what it printed is no longer kept.
    Printed(Printed),
    /// The connection broke. The next call reconnects.
    Broken(Status),
    /// Connected again; the output continues where it was.
    Reconnected,
    /// The VM has received all of the input.
    InputEnd {
        /// Bytes that were given to it over this connection.
        bytes: i64,
    },
}

/// Attaches to a console as `start` says. To write, no other caller may be writing, unless `take_over` is set.
pub async fn attach(
    mut client: ConsoleServiceClient<Channel>,
    start: v1::AttachStart,
) -> Result<(ConsoleInput, ConsoleOutput), Status> {
    let (sender, stream) = open(&mut client, start.clone()).await?;
    let way = Arc::new(Mutex::new(Way::Open(sender)));
    let output = ConsoleOutput {
        client,
        // A caller that takes the console in the meantime keeps it.
        start: v1::AttachStart { take_over: false, ..start },
        way: way.clone(),
        stream: Some(stream),
        wait: Backoff::default(),
        unnoticed: Instant::now(),
    };
    Ok((ConsoleInput { way }, output))
}

type Opened = (mpsc::Sender<v1::AttachRequest>, Streaming<v1::AttachResponse>);

async fn open(client: &mut ConsoleServiceClient<Channel>, start: v1::AttachStart) -> Result<Opened, Status> {
    let (sender, input) = mpsc::channel(QUEUE);
    let _ = sender.send(v1::AttachRequest { item: Some(attach_request::Item::Attach(start)) }).await;
    let stream = client.attach(ReceiverStream::new(input)).await?.into_inner();
    Ok((sender, stream))
}

/// The input's path to the agent.
#[derive(Debug)]
enum Way {
    Open(mpsc::Sender<v1::AttachRequest>),
    Broken,
    Ended,
}

fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    way.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The input of an attached console. Dropping it ends nothing: see [`Self::end`].
#[derive(Debug)]
pub struct ConsoleInput {
    way: Arc<Mutex<Way>>,
}

impl ConsoleInput {
    /// Types into the guest, at most 64 KiB at a time. Returns false while the connection is broken: nothing
    /// is sent then, and the caller decides whether to repeat it.
    pub async fn send(&self, input: impl Into<Bytes>) -> bool {
        self.put(attach_request::Item::Input(input.into())).await
    }

    /// Sends a break, as a terminal's key does; likewise.
    pub async fn send_break(&self) -> bool {
        self.put(attach_request::Item::SendBreak(v1::ConsoleBreak {})).await
    }

    async fn put(&self, item: attach_request::Item) -> bool {
        let sender = match &*lock(&self.way) {
            Way::Open(sender) => sender.clone(),
            Way::Broken | Way::Ended => return false,
        };
        sender.send(v1::AttachRequest { item: Some(item) }).await.is_ok()
    }

    /// Ends the input. [`Attached::InputEnd`] follows when the VM has everything; a connection that breaks
    /// earlier is an error, because input may be lost.
    pub fn end(self) {
        *lock(&self.way) = Way::Ended;
    }
}

/// The output of an attached console.
#[derive(Debug)]
pub struct ConsoleOutput {
    client: ConsoleServiceClient<Channel>,
    start: v1::AttachStart,
    way: Arc<Mutex<Way>>,
    stream: Option<Streaming<v1::AttachResponse>>,
    wait: Backoff,
    unnoticed: Instant,
}

impl ConsoleOutput {
    /// Returns the offset of the next byte; `None` before the first output of a console that is followed from
    /// its end.
    #[must_use]
    pub fn offset(&self) -> Option<i64> {
        self.start.offset
    }

    /// Waits for the next item; an error is final.
    pub async fn next(&mut self) -> Result<Attached, Status> {
        loop {
            let Some(stream) = &mut self.stream else {
                if let Some(reconnected) = self.reconnect().await? {
                    return Ok(reconnected);
                }
                continue;
            };
            match stream.message().await {
                Ok(Some(v1::AttachResponse { item: None })) => {}
                Ok(Some(v1::AttachResponse { item: Some(item) })) => return Ok(self.received(item)),
                Ok(None) => return Err(Status::aborted("the agent ended the console")),
                Err(status) if is_passing(&status) && !self.has_ended() => {
                    self.stream = None;
                    self.unnoticed = Instant::now() + UNNOTICED;
                    *lock(&self.way) = Way::Broken;
                    return Ok(Attached::Broken(status));
                }
                Err(status) => return Err(status),
            }
        }
    }

    fn received(&mut self, item: Item) -> Attached {
        self.wait = Backoff::default();
        match item {
            Item::Data(data) => {
                let length = i64::try_from(data.data.len()).unwrap_or(i64::MAX);
                self.start.offset = Some(data.offset.saturating_add(length));
                Attached::Printed(Printed::Bytes(data.data))
            }
            Item::Gap(gap) => {
                self.start.offset = Some(gap.to);
                Attached::Printed(Printed::Gap { from: gap.from, to: gap.to })
            }
            Item::InputEnd(end) => Attached::InputEnd { bytes: end.bytes },
        }
    }

    fn has_ended(&self) -> bool {
        matches!(*lock(&self.way), Way::Ended)
    }

    /// Tries once, after a while.
    async fn reconnect(&mut self) -> Result<Option<Attached>, Status> {
        self.wait.wait().await;
        if self.has_ended() {
            return Err(Status::unavailable("the connection broke before the VM had all of the input"));
        }
        match open(&mut self.client, self.start.clone()).await {
            Ok((sender, stream)) => {
                self.stream = Some(stream);
                let mut way = lock(&self.way);
                if matches!(*way, Way::Broken) {
                    *way = Way::Open(sender);
                }
                Ok(Some(Attached::Reconnected))
            }
            Err(status) if is_passing(&status) => Ok(None),
            Err(status)
                if reason(&status) == Some(Reason::ConsoleBusy) && Instant::now() < self.unnoticed =>
            {
                Ok(None)
            }
            Err(status) => Err(status),
        }
    }
}
