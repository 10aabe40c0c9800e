//! `EventService`.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures_util::stream::{self, Stream};
use prost::Message as _;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    budget::{Budgets, Share},
    convert,
    request::{invalid, page_size, peer, uuid_at},
    sight::{Expressions, Held, sight},
    status::{status, watch_status},
};
use crate::{
    agent::{Agent, Error, EventFilter, View},
    events::{Cursor, CursorError, Watcher},
    model::{Event, Timestamp},
    proto::{
        Packed, Sight, event_to_proto,
        v1::{
            self, event_service_server::EventService, watch_events_request::Start,
            watch_events_response::Item,
        },
    },
    store::{EventPage, EventQuery},
};

/// Interval of bookmarks on an idle stream.
const BOOKMARK: Duration = Duration::from_secs(20);
/// VMs that a watch may name.
const MAX_UUIDS: usize = 1000;
/// Kinds that a watch may name; there are fewer.
const MAX_KINDS: usize = 100;
/// VMs of a snapshot that are read at once.
const PAGE: usize = 256;
/// Newest events that are kept in the contract's form, for many watchers at once.
const SHARED: usize = 1024;
/// Bytes of events on a page, in the contract's form; one more may be larger.
const MAX_PAGE: usize = 3 << 20;
/// Bytes of an event that is not kept beside others.
const LARGE: usize = 16 << 10;

/// Serves the journal.
#[derive(Clone, Debug)]
pub(super) struct Events {
    agent: Agent,
    whole: Arc<Shared>,
    redacted: Arc<Shared>,
    expressions: Expressions,
    budgets: Budgets,
}

impl Events {
    pub(super) fn new(agent: Agent, expressions: Expressions) -> Self {
        let redacted = Arc::new(Shared::new(Sight::Redacted));
        let whole = Arc::new(Shared::new(Sight::Whole));
        Self { agent, whole, redacted, expressions, budgets: Budgets::default() }
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
            Some(Start::Now(false)) => Err(invalid("now", "only true is allowed")),
            Some(Start::Beginning(false)) => Err(invalid("beginning", "only true is allowed")),
            Some(Start::Snapshot(false)) => Err(invalid("snapshot", "only true is allowed")),
        }
    }
}

fn cursor(field: &str, text: &str) -> Result<Cursor, Status> {
    text.parse().map_err(|error: CursorError| invalid(field, error.to_string()))
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
        Ok(v1::EventKind::Reclaimed) => Ok("reclaimed"),
        Ok(v1::EventKind::Call) => Ok("call"),
        Ok(v1::EventKind::Panicked) => Ok("panicked"),
        Ok(v1::EventKind::Image) => Ok("image"),
        Ok(v1::EventKind::Unspecified) | Err(_) => {
            Err(invalid(&format!("kinds.{index}"), format!("{number} is no kind of event")))
        }
    };
    if numbers.len() > MAX_KINDS {
        return Err(invalid("kinds", format!("{} are over the limit of {MAX_KINDS}", numbers.len())));
    }
    numbers.iter().enumerate().map(name).collect()
}

/// The newest events in the contract's bytes, encoded once for all watchers with the same sight.
#[derive(Debug)]
struct Shared {
    sight: Sight,
    kept: RwLock<VecDeque<(i64, Packed)>>,
}

impl Shared {
    fn new(sight: Sight) -> Self {
        Self { sight, kept: RwLock::default() }
    }

    fn get(&self, agent: &Agent, event: &Event) -> Packed {
        if let Some(item) = self.find(event.sequence) {
            return item;
        }
        let item = Packed::from(&shown(agent, event, self.sight));
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.back().is_none_or(|(last, _)| *last < event.sequence) {
            // A large event is kept alone: watchers encode the others again if needed.
            let room = if event.size > LARGE { 0 } else { SHARED - 1 };
            while kept.len() > room {
                kept.pop_front();
            }
            kept.push_back((event.sequence, item.clone()));
        }
        item
    }

    fn find(&self, sequence: i64) -> Option<Packed> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let place = kept.binary_search_by_key(&sequence, |(kept, _)| *kept).ok()?;
        kept.get(place).map(|(_, item)| item.clone())
    }
}

/// Converts an event for its readers.
fn shown(agent: &Agent, event: &Event, sight: Sight) -> v1::WatchEventsResponse {
    let cursor = agent.journal().cursor(event.sequence).to_string();
    event_to_proto(event, cursor, &agent.site(event.fact.uuid), sight)
}

type EventStream = Pin<Box<dyn Stream<Item = Result<Packed, Status>> + Send>>;

#[tonic::async_trait]
impl EventService for Events {
    type WatchEventsStream = EventStream;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<EventStream>, Status> {
        let (sight, caller) = (sight(&request)?, peer(&request)?.clone());
        let request = request.into_inner();
        let (uuids, kinds) = (uuids(&request.uuids)?.into_iter().collect(), kinds(&request.kinds)?);
        let (filters, held) = self.expressions.filters(&caller, request.filters).await?;
        let wanted = EventFilter::new(uuids, kinds, filters);
        let snapshot = matches!(request.start, Some(Start::Snapshot(true)));
        // Before the snapshot: changes made during it follow as events.
        let this = self.clone();
        let watcher = tokio::task::spawn_blocking(move || this.watcher(request.start))
            .await
            .map_err(|_| Status::internal("the journal could not be read"))??;
        if snapshot {
            self.agent.shown().await;
        }
        let share = self.budgets.share(&caller.name);
        let watch = Watch::new(self, watcher, wanted, snapshot, sight, (held, share));
        let next = |mut watch: Box<Watch>| async move { watch.next().await.map(|item| (item, watch)) };
        Ok(Response::new(Box::pin(stream::unfold(Box::new(watch), next))))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let sight = sight(&request)?;
        let request = request.into_inner();
        let journal = self.agent.journal();
        let page = Some(request.page_token.as_str()).filter(|token| !token.is_empty());
        let from = page.map(|token| cursor("page_token", token)).transpose()?;
        let rows = u32::try_from(page_size(request.page_size)?).unwrap_or(1000);
        let (uuids, kinds) = (uuids(&request.uuids)?, kinds(&request.kinds)?);
        let query = EventQuery { backwards: request.newest_first, uuids, kinds, ..EventQuery::default() };
        let EventPage { events, rest } = journal.list(from, query, rows).await.map_err(watch_status)?;
        let (mut page, mut bytes, mut rest) = (Vec::new(), 0, rest);
        for event in &events {
            let Some(Item::Event(told)) = shown(&self.agent, event, sight).item else { continue };
            bytes += told.encoded_len();
            if bytes > MAX_PAGE && !page.is_empty() {
                rest = page.last().map(|last: &v1::Event| last.sequence);
                break;
            }
            page.push(told);
        }
        let next_page_token = rest.map(|place| journal.cursor(place).to_string()).unwrap_or_default();
        Ok(Response::new(v1::ListEventsResponse { events: page, next_page_token }))
    }
}

/// One caller's watch. It advances when the caller's connection takes more: nothing is encoded in advance,
/// and events wait only in the journal.
struct Watch {
    agent: Agent,
    shared: Arc<Shared>,
    /// Of its filters.
    _held: Held,
    share: Share,
    watcher: Watcher,
    wanted: EventFilter,
    /// The rest of the snapshot to send.
    snapshot: Option<Snapshot>,
    told_end: bool,
    /// The newest event when the last page of the snapshot was read. Until the stream is past it, no cursor
    /// is sent: a watch that began there would repeat what the snapshot had.
    seen_until: i64,
    /// Nothing comes after an error.
    over: bool,
    bookmark_due: Instant,
    // Created once, not for each event: they are registered with the runtime.
    bookmark: Pin<Box<Sleep>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// A place among the VMs of a snapshot.
#[derive(Debug, Default)]
struct Snapshot {
    page: VecDeque<Arc<View>>,
    after: Option<Uuid>,
    last: bool,
}

impl Watch {
    fn new(
        events: &Events,
        watcher: Watcher,
        wanted: EventFilter,
        snapshot: bool,
        sight: Sight,
        (held, share): (Held, Share),
    ) -> Self {
        let shared = match sight {
            Sight::Whole => &events.whole,
            Sight::Redacted => &events.redacted,
        };
        let bookmark_due = Instant::now() + BOOKMARK;
        Self {
            agent: events.agent.clone(),
            shared: shared.clone(),
            _held: held,
            share,
            watcher,
            wanted,
            snapshot: snapshot.then(Snapshot::default),
            told_end: false,
            seen_until: 0,
            over: false,
            bookmark_due,
            bookmark: Box::pin(sleep_until(bookmark_due)),
            stopping: Box::pin(events.agent.stopping().cancelled_owned()),
        }
    }

    async fn next(&mut self) -> Option<Result<Packed, Status>> {
        self.share.has_left();
        if self.over {
            return None;
        }
        let item = match self.snapshot.take() {
            Some(snapshot) => self.tell(snapshot).await,
            None => self.follow().await,
        };
        let item = match item {
            Ok(item) => tokio::select! {
                () = self.share.take(item.encoded_len()) => Ok(item),
                () = &mut self.stopping => Err(status(Error::Stopping)),
            },
            refused => refused,
        };
        self.over = item.is_err();
        Some(item)
    }

    /// Returns the next wanted VM, or the end of the snapshot.
    async fn tell(&mut self, mut snapshot: Snapshot) -> Result<Packed, Status> {
        while snapshot.page.is_empty() && !snapshot.last {
            self.turn_page(&mut snapshot).await?;
        }
        match snapshot.page.pop_front() {
            Some(view) => {
                self.snapshot = Some(snapshot);
                let vm = convert::view(&view, self.shared.sight);
                let item = v1::WatchEventsResponse { cursor: String::new(), item: Some(Item::Snapshot(vm)) };
                Ok(Packed::from(&item))
            }
            None => Ok(self.place(Item::SnapshotEnd(v1::SnapshotEnd {}))),
        }
    }

    async fn turn_page(&mut self, snapshot: &mut Snapshot) -> Result<(), Status> {
        let (agent, filters, after) = (self.agent.clone(), self.wanted.filters().to_vec(), snapshot.after);
        let (views, more) = tokio::task::spawn_blocking(move || agent.vms(after, PAGE, &filters))
            .await
            .map_err(|_| Status::internal("the VMs could not be read"))?;
        snapshot.last = !more;
        self.seen_until = self.watcher.newest();
        snapshot.after = views.last().map(|view| view.record.uuid).or(snapshot.after);
        snapshot.page.extend(views.into_iter().filter(|view| self.wanted.shows(&view.record)));
        Ok(())
    }

    /// Returns the next wanted event, or a bookmark.
    async fn follow(&mut self) -> Result<Packed, Status> {
        loop {
            // Also moves the cursor of a watcher whose filter passes nothing.
            if !self.told_end && self.watcher.is_at_end() {
                self.told_end = true;
                return Ok(self.place(Item::Bookmark(v1::Bookmark {})));
            }
            let event = match self.watcher.ready() {
                Some(event) => event,
                None => tokio::select! {
                    event = self.watcher.next() => event.map_err(watch_status)?,
                    () = &mut self.stopping => return Err(status(Error::Stopping)),
                    () = &mut self.bookmark, if self.told_end => {
                        if let Some(bookmark) = self.bookmark_if_due() {
                            return Ok(bookmark);
                        }
                        continue;
                    }
                },
            };
            if self.wanted.has(&self.agent, &event).await.map_err(watch_status)? {
                self.bookmark_due = Instant::now() + BOOKMARK;
                if self.watcher.is_past(self.seen_until) {
                    return Ok(self.shared.get(&self.agent, &event));
                }
                let told = shown(&self.agent, &event, self.shared.sight);
                return Ok(Packed::from(&v1::WatchEventsResponse { cursor: String::new(), ..told }));
            }
            // Filtered events move the cursor as well; but only after the bookmark at the end.
            if self.told_end
                && let Some(bookmark) = self.bookmark_if_due()
            {
                return Ok(bookmark);
            }
            tokio::task::coop::consume_budget().await;
        }
    }

    fn bookmark_if_due(&mut self) -> Option<Packed> {
        let now = Instant::now();
        let due = now >= self.bookmark_due;
        if due {
            self.bookmark_due = now + BOOKMARK;
        }
        if due || self.bookmark.is_elapsed() {
            self.bookmark.as_mut().reset(self.bookmark_due);
        }
        due.then(|| self.place(Item::Bookmark(v1::Bookmark {})))
    }

    fn place(&self, item: Item) -> Packed {
        let known = self.watcher.is_past(self.seen_until);
        let cursor = if known { self.watcher.cursor().to_string() } else { String::new() };
        Packed::from(&v1::WatchEventsResponse { cursor, item: Some(item) })
    }
}
