//! The browser console: what a link opens, once, and when it ends.

use std::{path::Path, sync::Arc};

use futures_util::{SinkExt as _, StreamExt as _};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, protocol::CloseFrame},
};
use tonic::Status;
use zoneward::{internals::auth::Role, proto::v1};

use super::{
    auth::{Door, door},
    support::{Clients, machine, reason},
};

type Screen = WebSocketStream<TlsStream<TcpStream>>;

/// As a browser connects: with no certificate, but with the agent's checked.
async fn connect(certs: &Path, url: &str) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certs.join("ca.pem")).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS13])
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    let tcp = TcpStream::connect(host(url)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

fn host(url: &str) -> &str {
    url.strip_prefix("https://").unwrap().split('/').next().unwrap()
}

/// Status line, headers and body of `url` with `path` behind it.
async fn get(door: &Door, url: &str, path: &str) -> (String, String) {
    let mut stream = connect(door.certs.path(), url).await;
    let place = url.strip_prefix("https://").unwrap().strip_prefix(host(url)).unwrap();
    let request = format!("GET {place}{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host(url));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The agent may close the connection without TLS's goodbye.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

async fn status_of(door: &Door, url: &str, path: &str) -> String {
    get(door, url, path).await.0.split(' ').nth(1).unwrap().to_owned()
}

async fn open(door: &Door, url: &str) -> Result<Screen, tungstenite::Error> {
    let stream = connect(door.certs.path(), url).await;
    client_async(format!("{}screen", url.replace("https", "wss")), stream).await.map(|(screen, _)| screen)
}

async fn link(clients: &mut Clients, uuid: &str) -> Result<String, Status> {
    let request = v1::CreateVncLinkRequest { uuid: uuid.to_owned() };
    Ok(clients.consoles.create_vnc_link(request).await?.into_inner().url)
}

async fn running(door: &Door) -> (Clients, String) {
    let mut clients = door.clients("admin").await.unwrap();
    let uuid = clients.create(v1::VmSpec { alias: Some("<web>".into()), ..machine() }).await;
    clients.start(&uuid).await.unwrap();
    (clients, uuid)
}

/// What the guest's screen says until it ends, and why it ends.
async fn until_closed(screen: &mut Screen) -> (Vec<u8>, CloseFrame) {
    let mut shown = Vec::new();
    loop {
        match screen.next().await.expect("a closing frame").unwrap() {
            Message::Binary(data) => shown.extend_from_slice(&data),
            Message::Close(frame) => return (shown, frame.unwrap()),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_link_opens_a_screen_once() {
    let door = door().await;
    let (mut clients, uuid) = running(&door).await;
    let url = link(&mut clients, &uuid).await.unwrap();
    let (head, page) = get(&door, &url, "").await;
    assert!(head.starts_with("HTTP/1.1 200") && page.contains("page.js"), "{head}\n{page}");
    for header in ["no-store", "no-referrer", "nosniff", "frame-ancestors 'none'", "default-src 'none'"] {
        assert!(head.contains(header), "{head}");
    }
    let (_, machine) = get(&door, &url, "machine").await;
    let machine: serde_json::Value = serde_json::from_str(&machine).unwrap();
    assert_eq!(machine, serde_json::json!({"uuid": uuid, "alias": "<web>"}));
    assert_eq!(status_of(&door, &url, "page.js").await, "200");
    assert_eq!(status_of(&door, &url, "page.css").await, "200");
    // The folder of noVNC is this project's sources here: nothing above it can be had.
    assert_eq!(status_of(&door, &url, "novnc/lib.rs").await, "200");
    for outside in
        ["novnc/../Cargo.toml", "novnc/%2e%2e/Cargo.toml", "novnc/..%2fCargo.toml", "novnc//etc/passwd"]
    {
        assert_eq!(status_of(&door, &url, outside).await, "404", "{outside}");
    }
    assert_eq!(status_of(&door, &url, "novnc/").await, "404", "no listing");

    let mut screen = open(&door, &url).await.unwrap();
    assert_eq!(screen.next().await.unwrap().unwrap().into_data(), "RFB 003.008\n");
    for path in ["", "page.js", "novnc/lib.rs", "machine"] {
        assert_eq!(status_of(&door, &url, path).await, "404", "used up: {path}");
    }
    assert!(
        matches!(open(&door, &url).await, Err(tungstenite::Error::Http(answer)) if answer.status() == 404)
    );
    // Garbage is the hypervisor's to judge; what is not even bytes ends this screen, and no other.
    let other = link(&mut clients, &uuid).await.unwrap();
    let mut other = open(&door, &other).await.unwrap();
    screen.send(Message::Binary(vec![0xff; 4096].into())).await.unwrap();
    screen.send(Message::Text("hello".into())).await.unwrap();
    let (_, frame) = until_closed(&mut screen).await;
    assert_eq!(frame.reason.as_str(), "the browser sent text, not RFB");
    clients.stop(&uuid, true).await.unwrap();
    let (shown, frame) = until_closed(&mut other).await;
    assert!(shown.starts_with(b"RFB"));
    assert_eq!(frame.reason.as_str(), "the VM stopped");
}

#[tokio::test]
async fn without_a_link_there_is_nothing() {
    let door = door().await;
    let (mut clients, uuid) = running(&door).await;
    let url = link(&mut clients, &uuid).await.unwrap();
    let base = format!("https://{}/", host(&url));
    for path in ["", "x/", "x/page.js", "x/novnc/lib.rs", "novnc/lib.rs", "page.js"] {
        let (head, body) = get(&door, &base, path).await;
        assert!(head.starts_with("HTTP/1.1 404") && head.contains("no-store"), "{path}: {head}");
        assert!(body.contains("vmadm vnc --browser"), "{path}: {body}");
    }
    let half = &url[..url.len() - 2];
    assert_eq!(status_of(&door, &format!("{half}/"), "").await, "404");
}

#[tokio::test]
async fn only_for_a_vm_that_runs_where_there_is_a_browser_console() {
    let door = door().await;
    let (mut clients, uuid) = running(&door).await;
    clients.stop(&uuid, true).await.unwrap();
    assert_eq!(reason(&link(&mut clients, &uuid).await.unwrap_err()), "VM_STATE");
    let nobody = uuid::Uuid::new_v4().to_string();
    assert_eq!(reason(&link(&mut clients, &nobody).await.unwrap_err()), "VM_NOT_FOUND");
    assert_eq!(reason(&link(&mut clients, "x").await.unwrap_err()), "INVALID_MACHINE");
    let without = super::support::simulated::Simulated::start().await;
    let mut clients = without.clients().await;
    assert_eq!(reason(&link(&mut clients, &uuid).await.unwrap_err()), "CAPABILITY_MISSING");
}

/// Whom the agent no longer lets in has no screen either, by links that were made before.
#[tokio::test]
async fn a_screen_ends_with_its_makers_certificate() {
    let door = door().await;
    let (mut admin, uuid) = running(&door).await;
    door.pki.issue(Role::Operator, "mallory", 30).unwrap();
    let mut mallory = door.clients("mallory").await.unwrap();
    let (first, second) =
        (link(&mut mallory, &uuid).await.unwrap(), link(&mut mallory, &uuid).await.unwrap());
    let kept = link(&mut admin, &uuid).await.unwrap();
    let mut kept = open(&door, &kept).await.unwrap();
    let mut screen = open(&door, &first).await.unwrap();
    assert_eq!(screen.next().await.unwrap().unwrap().into_data(), "RFB 003.008\n");
    door.pki.revoke("mallory").unwrap();
    door.tls.reload().unwrap();
    let (_, frame) = until_closed(&mut screen).await;
    assert!(frame.reason.contains("certificate"), "{frame:?}");
    let (shown, frame) = until_closed(&mut open(&door, &second).await.unwrap()).await;
    assert!(shown.is_empty() && frame.reason.contains("certificate"), "{frame:?}");
    assert_eq!(kept.next().await.unwrap().unwrap().into_data(), "RFB 003.008\n", "nobody else is disturbed");
}
