//! `ConsoleService`.

use std::{pin::Pin, sync::Arc, time::SystemTime};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::{
    request::{actor, bytes, invalid, peer, uuid, uuid_at},
    status::{console_status, link_status, status},
};
use crate::{
    agent::{Agent, Call, Error},
    auth::ScreenLinks,
    console::{ConsoleError, ConsoleInput, ConsoleItem, ConsoleReader, ConsoleWriter, WriterRight},
    proto::{
        offset,
        v1::{
            self, attach_request, attach_response, connect_vnc_request,
            console_service_server::ConsoleService, read_log_response,
        },
    },
};

/// Items that wait in the transport of one reader. Everything behind them waits in the log.
const BUFFER: usize = 4;
/// Largest piece of input.
const MAX_INPUT: usize = 64 << 10;

/// Serves consoles.
#[derive(Clone, Debug)]
pub(super) struct Consoles {
    agent: Agent,
    /// Set if there is a browser console.
    links: Option<Arc<ScreenLinks>>,
}

impl Consoles {
    pub(super) fn new(agent: Agent, links: Option<Arc<ScreenLinks>>) -> Self {
        Self { agent, links }
    }

    /// Reads until the reader is done, the client leaves or the agent stops; then cancels `done`.
    fn forward<T: Send + 'static>(
        &self,
        mut reader: ConsoleReader,
        wrap: impl Fn(ConsoleItem) -> T + Send + 'static,
        sender: mpsc::Sender<Result<T, Status>>,
        done: CancellationToken,
    ) {
        let stopping = self.agent.stopping();
        tokio::spawn(async move {
            let _done = done.drop_guard();
            loop {
                let item = tokio::select! {
                    () = sender.closed() => return,
                    () = stopping.cancelled() => Err(status(Error::Stopping)),
                    item = reader.next() => match item {
                        Ok(Some(item)) => Ok(wrap(item)),
                        Ok(None) => return,
                        Err(error) => Err(console_status(error)),
                    },
                };
                let last = item.is_err();
                if sender.send(item).await.is_err() || last {
                    return;
                }
            }
        });
    }
}

type Attached = Pin<Box<dyn Stream<Item = Result<v1::AttachResponse, Status>> + Send>>;
type Screen = Pin<Box<dyn Stream<Item = Result<v1::ConnectVncResponse, Status>> + Send>>;
type Log = Pin<Box<dyn Stream<Item = Result<v1::ReadLogResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ConsoleService for Consoles {
    type AttachStream = Attached;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Attached>, Status> {
        let actor = actor(&request)?;
        let call = Call::by(actor.clone());
        let mut input = request.into_inner();
        let first = input.message().await?.and_then(|message| message.item);
        let Some(attach_request::Item::Attach(start)) = first else {
            return Err(invalid("attach", "the first message must be attach"));
        };
        let vm = uuid_at("attach.uuid", &start.uuid)?;
        let console = self.agent.console(vm).map_err(status)?;
        let from = start.offset.map(|offset| bytes("attach.offset", offset)).transpose()?;
        let reader = console.reader(from).await.map_err(console_status)?.follow();
        let right = match start.read_only {
            true => None,
            false => Some(console.take_writer(&actor, start.take_over).map_err(console_status)?),
        };
        let (sender, stream) = mpsc::channel(BUFFER);
        let typing = Typing {
            agent: self.agent.clone(),
            call: Some(call),
            vm,
            input: console.input(),
            may_type: right.is_some(),
            writer: None,
            typed: 0,
        };
        let done = CancellationToken::new();
        // It must not hold a console, or readers would not end.
        tokio::spawn(done.clone().run_until_cancelled_owned(typing.run(input, right, sender.clone())));
        self.forward(reader, attach_item, sender, done);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type ConnectVncStream = Screen;

    async fn connect_vnc(
        &self,
        request: Request<Streaming<v1::ConnectVncRequest>>,
    ) -> Result<Response<Screen>, Status> {
        let call = Call::by(actor(&request)?);
        let mut input = request.into_inner();
        let first = input.message().await?.and_then(|message| message.item);
        let Some(connect_vnc_request::Item::Connect(start)) = first else {
            return Err(invalid("connect", "the first message must be connect"));
        };
        let vm = uuid_at("connect.uuid", &start.uuid)?;
        let screen = self.agent.connect_vnc(&call, vm).await.map_err(status)?;
        let (sender, stream) = mpsc::channel(BUFFER);
        tokio::spawn(carry(screen, input, sender, self.agent.stopping()));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn create_vnc_link(
        &self,
        request: Request<v1::CreateVncLinkRequest>,
    ) -> Result<Response<v1::CreateVncLinkResponse>, Status> {
        let caller = peer(&request)?.clone();
        let vm = uuid(&request.get_ref().uuid)?;
        let Some(links) = &self.links else {
            return Err(status(Error::Unsupported {
                capability: "browser console".to_owned(),
                message: "this host has no browser console; set browser.listen".to_owned(),
            }));
        };
        self.agent.check_running(vm).await.map_err(status)?;
        let call = Call::by(&*caller.name);
        self.agent.journal_call(&call, Some(vm), "CreateVncLink", "").await;
        tracing::info!(%vm, caller = %caller.name, "created a link to the screen");
        let url = links.make(vm, caller).map_err(link_status)?;
        let expire_time = Some((SystemTime::now() + links.life()).into());
        Ok(Response::new(v1::CreateVncLinkResponse { url, expire_time }))
    }

    type ReadLogStream = Log;

    async fn read_log(&self, request: Request<v1::ReadLogRequest>) -> Result<Response<Log>, Status> {
        let request = request.into_inner();
        let console = self.agent.console(uuid(&request.uuid)?).map_err(status)?;
        let mut reader =
            console.reader(Some(bytes("offset", request.offset)?)).await.map_err(console_status)?;
        if request.follow {
            reader = reader.follow();
        }
        let (sender, stream) = mpsc::channel(BUFFER);
        self.forward(reader, log_item, sender, CancellationToken::new());
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// A client that is attached.
struct Typing {
    agent: Agent,
    /// Taken when the call is journaled.
    call: Option<Call>,
    vm: Uuid,
    input: ConsoleInput,
    may_type: bool,
    writer: Option<ConsoleWriter>,
    typed: u64,
}

impl Typing {
    /// Types what the client sends, until the client is done or another takes over.
    async fn run(
        mut self,
        mut input: Streaming<v1::AttachRequest>,
        mut right: Option<WriterRight>,
        sender: mpsc::Sender<Result<v1::AttachResponse, Status>>,
    ) {
        let last = loop {
            // Only the new writer may type, however fast this one's input comes.
            let next = tokio::select! {
                biased;
                () = sender.closed() => return,
                writer = taken(&mut right) => break Err(console_status(ConsoleError::Taken { writer })),
                next = input.next() => next,
            };
            let item = match next {
                Some(Ok(v1::AttachRequest { item: Some(item) })) => item,
                Some(Ok(_)) => break Err(invalid("input", "only input may follow attach")),
                // A client that ends its input releases the write right.
                None => break Ok(input_end(self.typed)),
                // The client left, which the reader notices too.
                Some(Err(_)) => return,
            };
            // A guest that does not read makes the writer wait, but not longer than its client stays.
            let done = tokio::select! {
                biased;
                () = sender.closed() => return,
                writer = taken(&mut right) => break Err(console_status(ConsoleError::Taken { writer })),
                done = self.obey(item) => done,
            };
            if let Err(failure) = done {
                break Err(failure);
            }
        };
        // Released before anybody is notified.
        drop(right);
        let _ = sender.send(last).await;
    }

    async fn obey(&mut self, item: attach_request::Item) -> Result<(), Status> {
        if !self.may_type {
            return Err(invalid("input", "attached read only"));
        }
        if let Some(call) = self.call.take() {
            self.agent.journal_call(&call, Some(self.vm), "Attach", "types").await;
        }
        match item {
            attach_request::Item::Attach(_) => Err(invalid("attach", "only input may follow attach")),
            attach_request::Item::SendBreak(_) => self.agent.send_break(self.vm).await.map_err(status),
            attach_request::Item::Input(typed) if typed.len() > MAX_INPUT => {
                Err(invalid("input", format!("{} bytes is over the limit of {MAX_INPUT}", typed.len())))
            }
            attach_request::Item::Input(typed) => self.write(&typed).await.map_err(console_status),
        }
    }

    /// Opens the input at the first byte, and again after the VM was restarted.
    async fn write(&mut self, typed: &[u8]) -> Result<(), ConsoleError> {
        let written = match &mut self.writer {
            Some(open) => open.write(typed).await,
            None => Err(ConsoleError::NotRunning),
        };
        match written {
            Err(ConsoleError::NotRunning) => self.writer.insert(self.input.open()?).write(typed).await?,
            written => written?,
        }
        self.typed += typed.len() as u64;
        Ok(())
    }
}

/// Waits until another client takes the write right; forever without one.
async fn taken(right: &mut Option<WriterRight>) -> String {
    match right {
        Some(right) => right.taken().await,
        None => std::future::pending().await,
    }
}

type ScreenSender = mpsc::Sender<Result<v1::ConnectVncResponse, Status>>;

/// Carries RFB between a client and a screen until either ends. A direction that is stuck holds up only
/// itself.
async fn carry(
    screen: UnixStream,
    input: Streaming<v1::ConnectVncRequest>,
    sender: ScreenSender,
    stopping: CancellationToken,
) {
    let (from, to) = screen.into_split();
    let failure = tokio::select! {
        () = sender.closed() => None,
        () = stopping.cancelled() => Some(status(Error::Stopping)),
        () = show(from, &sender) => None,
        failure = point_and_type(to, input) => failure,
    };
    if let Some(failure) = failure {
        let _ = sender.send(Err(failure)).await;
    }
}

async fn show(mut from: OwnedReadHalf, sender: &ScreenSender) {
    let mut buffer = vec![0; MAX_INPUT];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let data = bytes::Bytes::copy_from_slice(&buffer[..count]);
        if sender.send(Ok(v1::ConnectVncResponse { data })).await.is_err() {
            return;
        }
    }
}

/// Returns why the client can't continue; `None` when it or the screen is done.
async fn point_and_type(
    mut to: OwnedWriteHalf,
    mut input: Streaming<v1::ConnectVncRequest>,
) -> Option<Status> {
    while let Some(Ok(message)) = input.next().await {
        let Some(connect_vnc_request::Item::Data(data)) = message.item else {
            return Some(invalid("data", "only data may follow connect"));
        };
        if data.len() > MAX_INPUT {
            return Some(invalid("data", format!("{} bytes is over the limit of {MAX_INPUT}", data.len())));
        }
        to.write_all(&data).await.ok()?;
    }
    None
}

fn attach_item(item: ConsoleItem) -> v1::AttachResponse {
    let item = match item {
        ConsoleItem::Data { offset, bytes } => attach_response::Item::Data(data(offset, bytes)),
        ConsoleItem::Gap { from, to } => attach_response::Item::Gap(gap(from, to)),
    };
    v1::AttachResponse { item: Some(item) }
}

fn input_end(typed: u64) -> v1::AttachResponse {
    let end = v1::ConsoleInputEnd { bytes: offset(typed) };
    v1::AttachResponse { item: Some(attach_response::Item::InputEnd(end)) }
}

fn log_item(item: ConsoleItem) -> v1::ReadLogResponse {
    let item = match item {
        ConsoleItem::Data { offset, bytes } => read_log_response::Item::Data(data(offset, bytes)),
        ConsoleItem::Gap { from, to } => read_log_response::Item::Gap(gap(from, to)),
    };
    v1::ReadLogResponse { item: Some(item) }
}

fn data(from: u64, data: bytes::Bytes) -> v1::ConsoleData {
    v1::ConsoleData { offset: offset(from), data }
}

fn gap(from: u64, to: u64) -> v1::ConsoleGap {
    v1::ConsoleGap { from: offset(from), to: offset(to) }
}
