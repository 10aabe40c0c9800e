//! `vnc`: a local port for the user's own viewer, carried to the guest's screen.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

use super::{Clients, error::CliError, print};
use crate::proto::v1::{self, connect_vnc_request::Item, console_service_client::ConsoleServiceClient};

/// Bytes that are carried at once.
const PIECE: usize = 32 << 10;

pub(super) async fn vnc(clients: &mut Clients, uuid: &str, listen: &str) -> Result<(), CliError> {
    // A VM without a screen is an error now, not when a viewer comes.
    let start = request(Item::Connect(v1::ConnectVncStart { uuid: uuid.to_owned() }));
    clients.consoles.connect_vnc(tokio_stream::once(start)).await?;
    let failed = |error: std::io::Error| CliError::failed(format!("{listen}: {error}"));
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    print(&address.to_string())?;
    say!("A VNC viewer finds the screen of VM {uuid} there; Ctrl-C ends.");
    loop {
        let (viewer, _) = listener.accept().await.map_err(failed)?;
        let (client, uuid) = (clients.consoles.clone(), uuid.to_owned());
        tokio::spawn(async move {
            if let Err(status) = carry(viewer, client, uuid).await {
                say!("{}", status.message());
            }
        });
    }
}

/// Prints a link for a browser.
pub(super) async fn link(clients: &mut Clients, uuid: &str) -> Result<(), CliError> {
    let request = v1::CreateVncLinkRequest { uuid: uuid.to_owned() };
    let made = clients.consoles.create_vnc_link(request).await?.into_inner();
    print(&made.url)?;
    if let Some(time) = made.expire_time {
        let time = jiff::Timestamp::new(time.seconds, time.nanos).unwrap_or_default();
        say!("It opens once, until {}; whoever has it may use the screen.", time.strftime("%T UTC"));
    }
    Ok(())
}

const fn request(item: Item) -> v1::ConnectVncRequest {
    v1::ConnectVncRequest { item: Some(item) }
}

async fn carry(
    viewer: TcpStream,
    mut client: ConsoleServiceClient<Channel>,
    uuid: String,
) -> Result<(), Status> {
    let (mut from, mut to) = viewer.into_split();
    let (sender, requests) = mpsc::channel(8);
    let _ = sender.send(request(Item::Connect(v1::ConnectVncStart { uuid }))).await;
    let mut screen = client.connect_vnc(ReceiverStream::new(requests)).await?.into_inner();
    let typing = async {
        let mut buffer = vec![0; PIECE];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if sender.send(request(Item::Data(buffer[..count].to_vec().into()))).await.is_err() {
                return;
            }
        }
    };
    let showing = async {
        while let Some(message) = screen.message().await? {
            if to.write_all(&message.data).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    tokio::select! {
        () = typing => Ok(()),
        shown = showing => shown,
    }
}
