//! `EventService`.

use std::{collections::HashSet, pin::Pin, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    convert,
    request::{invalid, uuid_at},
    status::{status, watch_status},
};
use crate::{
    agent::{Agent, Error},
    events::{Cursor, CursorError, Watcher},
    proto::v1::{
        self, event_service_server::EventService, watch_events_request::Start, watch_events_response::Item,
    },
};

/// Items that wait in the transport of one watcher. Everything behind them waits in the journal.
const BUFFER: usize = 16;
/// Between bookmarks on an idle stream.
const BOOKMARK: Duration = Duration::from_secs(20);
/// VMs that a watch may name.
const MAX_UUIDS: usize = 1000;

/// Serves the journal.
#[derive(Clone, Debug)]
pub(super) struct Events {
    agent: Agent,
}

impl Events {
    pub(super) fn new(agent: Agent) -> Self {
        Self { agent }
    }

    fn watcher(&self, start: Option<Start>) -> Result<Watcher, Status> {
        let journal = self.agent.journal();
        match start {
            None | Some(Start::Now(true)) => Ok(journal.watch_now()),
            Some(Start::Beginning(true)) => journal.watch_all().map_err(watch_status),
            Some(Start::Cursor(text)) => {
                let cursor: Cursor =
                    text.parse().map_err(|error: CursorError| invalid("cursor", error.to_string()))?;
                journal.watch_from(cursor).map_err(watch_status)
            }
            Some(Start::Now(false)) => Err(invalid("now", "only true is a start")),
            Some(Start::Beginning(false)) => Err(invalid("beginning", "only true is a start")),
        }
    }
}

type EventStream = Pin<Box<dyn Stream<Item = Result<v1::WatchEventsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl EventService for Events {
    type WatchEventsStream = EventStream;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<EventStream>, Status> {
        let request = request.into_inner();
        if request.uuids.len() > MAX_UUIDS {
            return Err(invalid(
                "uuids",
                format!("{} are over the limit of {MAX_UUIDS}", request.uuids.len()),
            ));
        }
        let mut only = HashSet::new();
        for (index, text) in request.uuids.iter().enumerate() {
            only.insert(uuid_at(&format!("uuids.{index}"), text)?);
        }
        let watcher = self.watcher(request.start)?;
        let (sender, stream) = mpsc::channel(BUFFER);
        tokio::spawn(watch(self.agent.clone(), watcher, only, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

type Sender = mpsc::Sender<Result<v1::WatchEventsResponse, Status>>;

async fn watch(agent: Agent, mut watcher: Watcher, only: HashSet<Uuid>, sender: Sender) {
    let stopping: CancellationToken = agent.stopping();
    let mut told_end = false;
    // Also while events that the filter holds back go by: they move the cursor.
    let mut bookmark_due = Instant::now() + BOOKMARK;
    loop {
        // Also what a watcher whose filter lets nothing through moves on with.
        if !told_end && watcher.is_at_end() {
            told_end = true;
            if sender.send(Ok(bookmark(&watcher))).await.is_err() {
                return;
            }
        }
        let item = tokio::select! {
            () = sender.closed() => return,
            () = stopping.cancelled() => {
                let _ = sender.send(Err(status(Error::Stopping))).await;
                return;
            }
            () = tokio::time::sleep_until(bookmark_due) => Ok(bookmark(&watcher)),
            event = watcher.next() => match event {
                Ok(event) if !only.is_empty() && !only.contains(&event.fact.uuid) => continue,
                Ok(event) => Ok(convert::event(agent.journal(), &event)),
                Err(error) => Err(watch_status(error)),
            },
        };
        bookmark_due = Instant::now() + BOOKMARK;
        let last = item.is_err();
        if sender.send(item).await.is_err() || last {
            return;
        }
    }
}

fn bookmark(watcher: &Watcher) -> v1::WatchEventsResponse {
    v1::WatchEventsResponse {
        cursor: watcher.cursor().to_string(),
        item: Some(Item::Bookmark(v1::Bookmark {})),
    }
}
