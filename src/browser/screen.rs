//! A guest's screen on a WebSocket.

use std::time::Duration;

use axum::{
    extract::{
        Path, State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, close_code},
    },
    response::Response,
};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::Browser;
use crate::{agent::Call, auth::ScreenLink};

/// Bytes that are carried at once, and the largest message of a browser: noVNC's are small, except for pasted
/// text.
const PIECE: usize = 32 << 10;
const MAX_MESSAGE: usize = 1 << 20;
/// A browser that sends nothing for so long, not even a pong, is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// Between the pings.
const QUESTION: Duration = Duration::from_secs(20);
/// How long a closing frame may take.
const GOODBYE: Duration = Duration::from_secs(5);

/// Opens a link, and uses it up.
pub(super) async fn open(
    State(browser): State<Browser>,
    Path(token): Path<String>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let Some(link) = browser.links.use_up(&token) else { return super::gone().await };
    upgrade.max_message_size(MAX_MESSAGE).on_upgrade(move |socket| show(browser, link, socket))
}

async fn show(browser: Browser, link: ScreenLink, socket: WebSocket) {
    let standing = link.maker.chain.clone().map(|chain| browser.tls.vouch(chain));
    let refused = async {
        match &standing {
            Some(standing) => standing.cut().cancelled_owned().await,
            None => std::future::pending().await,
        }
    };
    let (mut sink, stream) = socket.split();
    let place = browser.screens.clone().try_acquire_owned();
    tracing::info!(vm = %link.vm, caller = %link.maker.name, "a browser opened the screen");
    let stopping = browser.agent.stopping();
    let (code, reason) = tokio::select! {
        // First: a refused client sees nothing.
        biased;
        () = refused => (close_code::POLICY, "the certificate in whose name the link was made is not accepted".to_owned()),
        () = stopping.cancelled() => (close_code::AWAY, "the agent stops".to_owned()),
        () = std::future::ready(()), if place.is_err() => (close_code::AGAIN, "too many screens are open".to_owned()),
        reason = connect_and_carry(&browser, &link, &mut sink, stream) => (close_code::NORMAL, reason),
    };
    tracing::info!(vm = %link.vm, caller = %link.maker.name, reason, "the screen was closed");
    let frame = CloseFrame { code, reason: short(&reason).into() };
    let _ = tokio::time::timeout(GOODBYE, sink.send(Message::Close(Some(frame)))).await;
}

/// Returns why it ended.
async fn connect_and_carry(
    browser: &Browser,
    link: &ScreenLink,
    sink: &mut SplitSink<WebSocket, Message>,
    stream: SplitStream<WebSocket>,
) -> String {
    let call = Call::by(&*link.maker.name);
    match browser.agent.connect_vnc(&call, link.vm).await {
        Ok(screen) => carry(screen, sink, stream).await.to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Carries RFB until either side ends. A direction that is stuck holds up only itself.
async fn carry(
    screen: UnixStream,
    sink: &mut SplitSink<WebSocket, Message>,
    mut stream: SplitStream<WebSocket>,
) -> &'static str {
    let (mut from, mut to) = screen.into_split();
    let showing = async {
        let mut buffer = vec![0; PIECE];
        let mut question = tokio::time::interval_at(Instant::now() + QUESTION, QUESTION);
        loop {
            let message = tokio::select! {
                read = from.read(&mut buffer) => match read {
                    Ok(count @ 1..) => Message::Binary(bytes::Bytes::copy_from_slice(&buffer[..count])),
                    Ok(0) | Err(_) => return "the VM stopped",
                },
                _ = question.tick() => Message::Ping(bytes::Bytes::new()),
            };
            if sink.send(message).await.is_err() {
                return "the browser is gone";
            }
        }
    };
    // Browser input waits here while the guest's screen is slow, so that pongs are still received.
    let (sender, mut typed) = mpsc::channel::<bytes::Bytes>(16);
    let hearing = async {
        loop {
            match timeout_at(Instant::now() + SILENCE, stream.next()).await {
                Ok(Some(Ok(Message::Binary(data)))) => {
                    if sender.send(data).await.is_err() {
                        return "the VM stopped";
                    }
                }
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
                Ok(Some(Ok(Message::Text(_)))) => return "the browser sent text, not RFB",
                Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) => return "the browser left",
                Err(_) => return "the browser is silent",
            }
        }
    };
    let typing = async {
        while let Some(data) = typed.recv().await {
            if to.write_all(&data).await.is_err() {
                return "the VM stopped";
            }
        }
        "the browser left"
    };
    tokio::select! {
        reason = showing => reason,
        reason = hearing => reason,
        reason = typing => reason,
    }
}

/// A closing frame has room for 123 bytes.
fn short(reason: &str) -> String {
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}
