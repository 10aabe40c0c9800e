//! `EventService`.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    convert,
    request::{filters, invalid, page_size, uuid_at},
    status::{status, watch_status},
};
use crate::{
    agent::{Agent, Error},
    events::{Cursor, CursorError, Watcher},
    proto::v1::{
        self, event_service_server::EventService, watch_events_request::Start, watch_events_response::Item,
    },
    spec::filter::Filter,
    store::{Event, EventKind, EventQuery, Timestamp},
};

/// Items that wait in the transport of one watcher. Everything behind them waits in the journal.
const BUFFER: usize = 16;
/// Between bookmarks on an idle stream.
const BOOKMARK: Duration = Duration::from_secs(20);
/// VMs that a watch may name.
const MAX_UUIDS: usize = 1000;
/// VMs of a snapshot that are looked at together.
const PAGE: usize = 256;
/// Newest events that are kept in the contract's form, for many watchers at once.
const SHARED: usize = 1024;

/// Serves the journal.
#[derive(Clone, Debug)]
pub(super) struct Events {
    agent: Agent,
    shared: Arc<Shared>,
}

impl Events {
    pub(super) fn new(agent: Agent) -> Self {
        Self { agent, shared: Arc::default() }
    }

    fn watcher(&self, start: Option<Start>) -> Result<Watcher, Status> {
        let journal = self.agent.journal();
        match start {
            None | Some(Start::Now(true) | Start::Snapshot(true)) => Ok(journal.watch_now()),
            Some(Start::Beginning(true)) => journal.watch_all().map_err(watch_status),
            Some(Start::Cursor(text)) => journal.watch_from(cursor("cursor", &text)?).map_err(watch_status),
            Some(Start::Time(time)) => {
                let millis =
                    time.seconds.saturating_mul(1000).saturating_add((time.nanos / 1_000_000).into());
                journal.watch_since(Timestamp(millis)).map_err(watch_status)
            }
            Some(Start::Now(false)) => Err(invalid("now", "only true is a start")),
            Some(Start::Beginning(false)) => Err(invalid("beginning", "only true is a start")),
            Some(Start::Snapshot(false)) => Err(invalid("snapshot", "only true is a start")),
        }
    }
}

fn cursor(field: &str, text: &str) -> Result<Cursor, Status> {
    text.parse().map_err(|error: CursorError| invalid(field, error.to_string()))
}

/// Which events a caller wants.
#[derive(Debug)]
struct Wanted {
    uuids: HashSet<Uuid>,
    kinds: Vec<&'static str>,
    filters: Vec<Filter>,
    /// VMs that met the filters once.
    met: HashSet<Uuid>,
    /// With a snapshot: how new each VM was in it.
    seen: HashMap<Uuid, u64>,
}

impl Wanted {
    fn new(uuids: &[String], kinds: &[i32], filters: &[String]) -> Result<Self, Status> {
        Ok(Self {
            uuids: self::uuids(uuids)?.into_iter().collect(),
            kinds: self::kinds(kinds)?,
            filters: self::filters(filters)?,
            met: HashSet::new(),
            seen: HashMap::new(),
        })
    }

    fn has(&mut self, agent: &Agent, event: &Event) -> bool {
        let fact = &event.fact;
        if !self.uuids.is_empty() && !self.uuids.contains(&fact.uuid) {
            return false;
        }
        if !self.filters.is_empty() && !self.met.contains(&fact.uuid) {
            if agent.matches(fact.uuid, &self.filters) != Some(true) {
                return false;
            }
            self.met.insert(fact.uuid);
        }
        if let EventKind::Created { vm } | EventKind::Modified { vm, .. } = &fact.kind
            && self.seen.get(&vm.uuid).is_some_and(|seen| vm.generation <= *seen)
        {
            return false;
        }
        self.kinds.is_empty() || self.kinds.contains(&fact.kind.name())
    }
}

fn uuids(texts: &[String]) -> Result<Vec<Uuid>, Status> {
    if texts.len() > MAX_UUIDS {
        return Err(invalid("uuids", format!("{} are over the limit of {MAX_UUIDS}", texts.len())));
    }
    texts.iter().enumerate().map(|(index, text)| uuid_at(&format!("uuids.{index}"), text)).collect()
}

fn kinds(numbers: &[i32]) -> Result<Vec<&'static str>, Status> {
    let name = |(index, number): (usize, &i32)| match v1::EventKind::try_from(*number) {
        Ok(v1::EventKind::Created) => Ok("created"),
        Ok(v1::EventKind::Modified) => Ok("modified"),
        Ok(v1::EventKind::Deleted) => Ok("deleted"),
        Ok(v1::EventKind::Boot) => Ok("boot"),
        Ok(v1::EventKind::File) => Ok("file"),
        Ok(v1::EventKind::Unspecified) | Err(_) => {
            Err(invalid(&format!("kinds.{index}"), format!("{number} is no kind of event")))
        }
    };
    numbers.iter().enumerate().map(name).collect()
}

/// The newest events in the contract's form, made once for all watchers.
#[derive(Debug, Default)]
struct Shared(Mutex<VecDeque<(i64, Arc<v1::WatchEventsResponse>)>>);

impl Shared {
    fn get(&self, agent: &Agent, event: &Event) -> v1::WatchEventsResponse {
        let find = |kept: &VecDeque<(i64, Arc<v1::WatchEventsResponse>)>| {
            let place = kept.binary_search_by_key(&event.sequence, |(sequence, _)| *sequence).ok()?;
            kept.get(place).map(|(_, item)| item.clone())
        };
        if let Some(item) = find(&self.lock()) {
            return (*item).clone();
        }
        let item = convert::event(agent.journal(), event);
        let mut kept = self.lock();
        if kept.back().is_none_or(|(last, _)| *last < event.sequence) {
            if kept.len() == SHARED {
                kept.pop_front();
            }
            kept.push_back((event.sequence, Arc::new(item.clone())));
        }
        item
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(i64, Arc<v1::WatchEventsResponse>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let wanted = Wanted::new(&request.uuids, &request.kinds, &request.filters)?;
        let snapshot = matches!(request.start, Some(Start::Snapshot(true)));
        // Before the snapshot is taken: what changes meanwhile comes after it.
        let this = self.clone();
        let watcher = tokio::task::spawn_blocking(move || this.watcher(request.start))
            .await
            .map_err(|_| Status::internal("the journal could not be read"))??;
        let (sender, stream) = mpsc::channel(BUFFER);
        let watch = Watch { agent: self.agent.clone(), shared: self.shared.clone(), watcher, wanted, sender };
        tokio::spawn(watch.run(snapshot));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let request = request.into_inner();
        let journal = self.agent.journal();
        let from = match (request.page_token.as_str(), request.newest_first) {
            ("", true) => i64::MAX,
            ("", false) => journal.watch_all().map_err(watch_status)?.place(),
            // Behind its event when the journal is read forwards, before it when backwards.
            (token, _) => journal.place(cursor("page_token", token)?).map_err(watch_status)?,
        };
        let limit = page_size(request.page_size)?;
        let (uuids, kinds) = (uuids(&request.uuids)?, kinds(&request.kinds)?);
        let query = EventQuery { from, backwards: request.newest_first, uuids, kinds };
        let rows = u32::try_from(limit).unwrap_or(1000);
        let events = journal.list(query, rows).await.map_err(watch_status)?;
        let last = events.last().filter(|_| events.len() == limit);
        let next_page_token =
            last.map(|event| journal.cursor(event.sequence).to_string()).unwrap_or_default();
        let events = events.iter().filter_map(|event| match convert::event(journal, event).item {
            Some(Item::Event(event)) => Some(event),
            _ => None,
        });
        Ok(Response::new(v1::ListEventsResponse { events: events.collect(), next_page_token }))
    }
}

/// One caller's watch.
struct Watch {
    agent: Agent,
    shared: Arc<Shared>,
    watcher: Watcher,
    wanted: Wanted,
    sender: mpsc::Sender<Result<v1::WatchEventsResponse, Status>>,
}

impl Watch {
    async fn run(mut self, snapshot: bool) {
        if snapshot && self.tell_snapshot().await.is_none() {
            return;
        }
        let stopping: CancellationToken = self.agent.stopping();
        let mut told_end = false;
        // Also while events that the filter holds back go by: they move the cursor.
        let mut bookmark_due = Instant::now() + BOOKMARK;
        loop {
            // Also what a watcher whose filter lets nothing through moves on with.
            if !told_end && self.watcher.is_at_end() {
                told_end = true;
                if self.sender.send(Ok(self.bookmark(Item::Bookmark(v1::Bookmark {})))).await.is_err() {
                    return;
                }
            }
            let item = tokio::select! {
                () = self.sender.closed() => return,
                () = stopping.cancelled() => {
                    let _ = self.sender.send(Err(status(Error::Stopping))).await;
                    return;
                }
                () = tokio::time::sleep_until(bookmark_due) => {
                    Ok(self.bookmark(Item::Bookmark(v1::Bookmark {})))
                }
                event = self.watcher.next() => match event {
                    Ok(event) if !self.wanted.has(&self.agent, &event) => continue,
                    Ok(event) => Ok(self.shared.get(&self.agent, &event)),
                    Err(error) => Err(watch_status(error)),
                },
            };
            bookmark_due = Instant::now() + BOOKMARK;
            let last = item.is_err();
            if self.sender.send(item).await.is_err() || last {
                return;
            }
        }
    }

    /// Every VM that is wanted, and the place from which on changes are told; nothing when the caller left.
    async fn tell_snapshot(&mut self) -> Option<()> {
        let mut after = None;
        loop {
            let (agent, filters) = (self.agent.clone(), self.wanted.filters.clone());
            let page = tokio::task::spawn_blocking(move || agent.vms(after, PAGE, &filters)).await;
            let (views, more) = page.ok()?;
            for view in &views {
                let record = &view.record;
                after = Some(record.uuid);
                if !self.wanted.uuids.is_empty() && !self.wanted.uuids.contains(&record.uuid) {
                    continue;
                }
                self.wanted.met.insert(record.uuid);
                self.wanted.seen.insert(record.uuid, record.generation);
                let vm = convert::vm_with(record, view.spec.clone());
                let item = v1::WatchEventsResponse { cursor: String::new(), item: Some(Item::Snapshot(vm)) };
                self.sender.send(Ok(item)).await.ok()?;
            }
            if !more {
                break;
            }
        }
        self.sender.send(Ok(self.bookmark(Item::SnapshotEnd(v1::SnapshotEnd {})))).await.ok()
    }

    fn bookmark(&self, item: Item) -> v1::WatchEventsResponse {
        v1::WatchEventsResponse { cursor: self.watcher.cursor().to_string(), item: Some(item) }
    }
}
