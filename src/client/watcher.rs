//! Follows an agent's events across broken connections and restarts of the agent.
//!
//! ```text
//!            ┌───────────── item with a cursor: kept ────────────┐
//!            ▼                                                   │
//!   asking ─▶ following ──connection breaks, agent stops──▶ waiting ─▶ asking, from the cursor
//!            │                                                       (or the snapshot again)
//!            └── OUT_OF_RANGE, INVALID_ARGUMENT, no permission ──▶ an error for the caller
//! ```
//!
//! Every event comes once and in order: the cursor of the last item is where the next stream begins.

use tonic::{Code, Status, Streaming, transport::Channel};

use crate::proto::v1::{
    self, event_service_client::EventServiceClient, watch_events_request::Start, watch_events_response::Item,
};

use super::backoff::Backoff;

/// An item of a watch.
#[derive(Clone, Debug, PartialEq)]
pub enum Watched {
    /// Something happened.
    Event(Box<v1::Event>),
    /// With a start at snapshot: a VM as it is.
    Snapshot(Box<v1::Vm>),
    /// Every VM was sent.
    SnapshotEnd,
    /// The stream is at the end of the journal.
    Bookmark,
    /// The connection broke, for this reason; the watcher retries.
    Disconnected(String),
    /// The connection is back, and nothing was missed.
    Reconnected {
        /// An unfinished snapshot begins again: discard the part received so far.
        snapshot_restarts: bool,
    },
}

/// Follows events.
#[derive(Debug)]
pub struct EventWatcher {
    client: EventServiceClient<Channel>,
    request: v1::WatchEventsRequest,
    stream: Option<Streaming<v1::WatchEventsResponse>>,
    /// The message received with the reconnection.
    next: Option<v1::WatchEventsResponse>,
    broken: bool,
    wait: Backoff,
}

impl EventWatcher {
    /// Follows the events that `request` names. The channel must reconnect automatically, as tonic's do.
    pub async fn start(
        mut client: EventServiceClient<Channel>,
        request: v1::WatchEventsRequest,
    ) -> Result<Self, Status> {
        let stream = client.watch_events(request.clone()).await?.into_inner();
        Ok(Self {
            client,
            request,
            stream: Some(stream),
            next: None,
            broken: false,
            wait: Backoff::default(),
        })
    }

    /// Returns the cursor after the last item: a watch that starts there misses nothing. `None` before the
    /// first.
    #[must_use]
    pub fn cursor(&self) -> Option<&str> {
        match &self.request.start {
            Some(Start::Cursor(cursor)) => Some(cursor),
            _ => None,
        }
    }

    /// Returns the next item. An error is final: the caller decides where to restart.
    pub async fn next(&mut self) -> Result<Watched, Status> {
        if let Some(item) = self.next.take().and_then(|message| self.take(message)) {
            return Ok(item);
        }
        loop {
            let Some(stream) = &mut self.stream else {
                self.wait.wait().await;
                match self.client.watch_events(self.request.clone()).await {
                    Ok(answer) => self.stream = Some(answer.into_inner()),
                    Err(status) if is_passing(&status) => {}
                    Err(status) => return Err(status),
                }
                continue;
            };
            let broke = match stream.message().await {
                Ok(Some(message)) => match self.take(message) {
                    Some(item) => return Ok(item),
                    None => continue,
                },
                Ok(None) => "the agent ended the stream".to_owned(),
                Err(status) if is_passing(&status) => status.message().to_owned(),
                Err(status) => return Err(status),
            };
            self.stream = None;
            if !std::mem::replace(&mut self.broken, true) {
                return Ok(Watched::Disconnected(broke));
            }
        }
    }

    /// Returns the item for the caller; after a break, the reconnection comes first. The cursor is that of
    /// the last returned item, so a caller that leaves in between misses nothing.
    fn take(&mut self, message: v1::WatchEventsResponse) -> Option<Watched> {
        if std::mem::take(&mut self.broken) {
            self.wait = Backoff::default();
            let snapshot_restarts = self.cursor().is_none();
            self.next = Some(message);
            return Some(Watched::Reconnected { snapshot_restarts });
        }
        if !message.cursor.is_empty() {
            self.request.start = Some(Start::Cursor(message.cursor));
        }
        Some(match message.item? {
            Item::Event(event) => Watched::Event(Box::new(event)),
            Item::Snapshot(vm) => Watched::Snapshot(Box::new(vm)),
            Item::SnapshotEnd(_) => Watched::SnapshotEnd,
            Item::Bookmark(_) => Watched::Bookmark,
        })
    }
}

/// Whether trying again can help.
pub(crate) fn is_passing(status: &Status) -> bool {
    if is_refused(status) {
        return false;
    }
    match status.code() {
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted => true,
        // How a broken connection looks, depending on where it broke.
        Code::Unknown | Code::Internal => std::error::Error::source(status).is_some(),
        _ => false,
    }
}

/// Whether the agent refused the client's certificate.
fn is_refused(status: &Status) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if inner.is_some_and(|inner| inner.is::<CertificateRefused>()) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The agent refused the client's certificate; a retry does not help.
#[derive(Debug, thiserror::Error)]
#[error("the agent refused the certificate {cert}: {why}")]
pub(crate) struct CertificateRefused {
    /// Its file.
    pub(crate) cert: String,
    /// In words.
    pub(crate) why: String,
}
