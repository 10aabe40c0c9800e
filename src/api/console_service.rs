//! `ConsoleService`.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{
    convert::offset,
    request::{bytes, invalid, uuid, uuid_at},
    status::{console_status, status},
};
use crate::{
    agent::{Agent, Error},
    console::{Console, ConsoleError, ConsoleItem, ConsoleReader, ConsoleWriter},
    proto::v1::{
        self, attach_request, attach_response, console_service_server::ConsoleService, read_log_response,
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
}

impl Consoles {
    pub(super) fn new(agent: Agent) -> Self {
        Self { agent }
    }

    /// Reads until the reader is done, the client leaves or the agent stops.
    fn forward<T: Send + 'static>(
        &self,
        mut reader: ConsoleReader,
        wrap: impl Fn(ConsoleItem) -> T + Send + 'static,
        sender: mpsc::Sender<Result<T, Status>>,
    ) {
        let stopping = self.agent.stopping();
        tokio::spawn(async move {
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
type Log = Pin<Box<dyn Stream<Item = Result<v1::ReadLogResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ConsoleService for Consoles {
    type AttachStream = Attached;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Attached>, Status> {
        let mut input = request.into_inner();
        let first = input.message().await?.and_then(|message| message.item);
        let Some(attach_request::Item::Attach(start)) = first else {
            return Err(invalid("attach", "the first message must be attach"));
        };
        let console = self.agent.console(uuid_at("attach.uuid", &start.uuid)?).map_err(status)?;
        let from = start.offset.map(|offset| bytes("attach.offset", offset)).transpose()?;
        let reader = console.reader(from).map_err(console_status)?.follow();
        let (sender, stream) = mpsc::channel(BUFFER);
        tokio::spawn(type_in(console, input, sender.clone()));
        self.forward(reader, attach_item, sender);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type ReadLogStream = Log;

    async fn read_log(&self, request: Request<v1::ReadLogRequest>) -> Result<Response<Log>, Status> {
        let request = request.into_inner();
        let console = self.agent.console(uuid(&request.uuid)?).map_err(status)?;
        let mut reader = console.reader(Some(bytes("offset", request.offset)?)).map_err(console_status)?;
        if request.follow {
            reader = reader.follow();
        }
        let (sender, stream) = mpsc::channel(BUFFER);
        self.forward(reader, log_item, sender);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Types what the client sends, until the client is done.
async fn type_in(
    console: Console,
    mut input: Streaming<v1::AttachRequest>,
    sender: mpsc::Sender<Result<v1::AttachResponse, Status>>,
) {
    let mut writer: Option<ConsoleWriter> = None;
    let failure = loop {
        let next = tokio::select! {
            () = sender.closed() => return,
            next = input.next() => next,
        };
        let typed = match next {
            Some(Ok(v1::AttachRequest { item: Some(attach_request::Item::Input(typed)) })) => typed,
            Some(Ok(_)) => break invalid("input", "only input may follow attach"),
            // The client is done, or gone: the reader notices the latter by itself.
            None | Some(Err(_)) => return,
        };
        if typed.len() > MAX_INPUT {
            break invalid("input", format!("{} bytes is over the limit of {MAX_INPUT}", typed.len()));
        }
        // A guest that does not read makes the writer wait, but not longer than its client stays.
        let written = tokio::select! {
            () = sender.closed() => return,
            written = write(&console, &mut writer, &typed) => written,
        };
        if let Err(error) = written {
            break console_status(error);
        }
    };
    let _ = sender.send(Err(failure)).await;
}

/// Opens the input at the first byte, and again for a VM that was started anew meanwhile.
async fn write(
    console: &Console,
    writer: &mut Option<ConsoleWriter>,
    typed: &[u8],
) -> Result<(), ConsoleError> {
    if let Some(open) = writer {
        match open.write(typed).await {
            Err(ConsoleError::NotRunning) => {}
            written => return written,
        }
    }
    let mut opened = console.writer()?;
    let written = opened.write(typed).await;
    *writer = Some(opened);
    written
}

fn attach_item(item: ConsoleItem) -> v1::AttachResponse {
    let item = match item {
        ConsoleItem::Data { offset, bytes } => attach_response::Item::Data(data(offset, bytes)),
        ConsoleItem::Gap { from, to } => attach_response::Item::Gap(gap(from, to)),
    };
    v1::AttachResponse { item: Some(item) }
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
