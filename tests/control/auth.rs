//! One door: certificates, roles, reload and revocation, over real TLS on loopback.

use std::{net::SocketAddr, path::Path, sync::Arc};

use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code,
    transport::{Channel, Endpoint, Uri},
};
use zoneward::{
    internals::{
        api,
        auth::{Files, Listeners, Role, ScreenLinks, Tls, pki::Pki},
        browser::{self, Browser},
        config::Config,
    },
    proto::{Rpc, v1},
};

use super::support::{Clients, eventually, machine, metadata, reason, simulated::Simulated};

pub(super) struct Door {
    pub(super) agent: Simulated,
    pub(super) certs: TempDir,
    pub(super) pki: Pki,
    pub(super) tls: Arc<Tls>,
    pub(super) address: SocketAddr,
    pub(super) unix: std::path::PathBuf,
    _stop: tokio_util::sync::DropGuard,
}

/// An agent on TCP, with a browser console.
pub(super) async fn door() -> Door {
    // Any folder with files in it.
    let novnc = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let agent = Simulated::start_with(|config| config.browser.novnc = novnc).await;
    let certs = tempfile::tempdir().unwrap();
    let pki = Pki::new(certs.path().to_owned(), "zoneward".to_owned());
    pki.init(&["localhost".to_owned(), "127.0.0.1".to_owned()], 30).unwrap();
    let config = Config::default().tls;
    let files = Files::new(&zoneward::internals::auth::Settings { dir: certs.path().to_owned(), ..config });
    let tls = Tls::load(files, "zoneward".to_owned()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = agent.agent().clone();
    let browsers = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("https://{}", browsers.local_addr().unwrap());
    let links = Arc::new(ScreenLinks::new(&base, std::time::Duration::from_secs(60)));
    let console = Browser::new(serving.clone(), links.clone(), tls.clone());
    tokio::spawn(browser::serve(console, browsers, stop.clone()));
    let unix = agent.dir.path().join("door.sock");
    let listeners = Listeners {
        unix: Some(tokio::net::UnixListener::bind(&unix).unwrap()),
        tcp: Some((listener, tls.clone())),
        links: Some(links),
    };
    tokio::spawn(api::serve(serving, listeners, stop.clone()));
    Door { agent, certs, pki, tls, address, unix, _stop: stop.drop_guard() }
}

/// A connection with the certificate of that name; none when it is empty.
async fn connect(address: SocketAddr, certs: &Path, name: &str) -> Result<Channel, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certs.join("ca.pem")).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS13])
    .unwrap()
    .with_root_certificates(roots);
    let mut config = if name.is_empty() {
        builder.with_no_client_auth()
    } else {
        let chain = vec![CertificateDer::from_pem_file(certs.join(format!("{name}.pem"))).unwrap()];
        let key = PrivateKeyDer::from_pem_file(certs.join(format!("{name}.key"))).unwrap();
        builder.with_client_auth_cert(chain, key).unwrap()
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let connector = tower::service_fn(move |_: Uri| {
        let config = config.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").unwrap();
            let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await?;
            Ok::<_, std::io::Error>(TokioIo::new(tls))
        }
    });
    Endpoint::from_static("https://localhost")
        .connect_with_connector(connector)
        .await
        .map_err(|error| format!("{error:?}"))
}

impl Door {
    pub(super) async fn clients(&self, name: &str) -> Result<Clients, String> {
        connect(self.address, self.certs.path(), name).await.map(Clients::new)
    }

    /// Whether a client gets an answer at all.
    async fn lets_in(&self, name: &str) -> bool {
        match self.clients(name).await {
            Ok(mut clients) => clients.host.get_host(v1::GetHostRequest {}).await.is_ok(),
            Err(_) => false,
        }
    }
}

#[tokio::test]
async fn only_certificates_of_our_ca_with_a_role_come_in() {
    let door = door().await;
    assert!(door.lets_in("admin").await);
    assert!(!door.lets_in("").await, "no certificate");

    let expired = Pki::new(door.certs.path().to_owned(), "zoneward".to_owned());
    expired.issue(Role::Admin, "expired", 0).unwrap();
    // It is valid until the end of this second.
    eventually("expired", || async { (!door.lets_in("expired").await).then_some(()) }).await;

    let foreign = Pki::new(door.certs.path().to_owned(), "elsewhere".to_owned());
    foreign.issue(Role::Admin, "foreign", 30).unwrap();
    assert!(!door.lets_in("foreign").await, "another trust domain");

    assert!(!door.lets_in("server").await, "not a client's certificate");

    let other = tempfile::tempdir().unwrap();
    let pki = Pki::new(other.path().to_owned(), "zoneward".to_owned());
    pki.init(&[], 30).unwrap();
    for file in ["admin.pem", "admin.key"] {
        let copy = door.certs.path().join(file.replace("admin", "stranger"));
        std::fs::copy(other.path().join(file), copy).unwrap();
    }
    assert!(!door.lets_in("stranger").await, "another CA");
    assert!(door.lets_in("admin").await, "and nobody else was disturbed");
}

/// Each rpc of the contract is refused to each role below its own, and not to its own.
#[tokio::test]
async fn each_rpc_has_its_role() {
    let door = door().await;
    for role in [Role::Viewer, Role::Operator, Role::Admin] {
        let name = format!("a-{role}");
        door.pki.issue(role, &name, 30).unwrap();
        let channel = connect(door.address, door.certs.path(), &name).await.unwrap();
        for rpc in Rpc::ALL {
            let mut grpc = tonic::client::Grpc::new(channel.clone());
            grpc.ready().await.unwrap();
            // An empty message of any type is valid on the wire.
            let path = http::uri::PathAndQuery::from_static(rpc.path());
            let codec = tonic_prost::ProstCodec::<(), ()>::default();
            let stream = tokio_stream::iter([()]);
            let answer = grpc.streaming(tonic::Request::new(stream), path, codec).await;
            let refused = answer.err().filter(|status| status.code() == Code::PermissionDenied);
            let needed = zoneward::internals::auth::needed(*rpc);
            assert_eq!(refused.is_some(), role < needed, "{rpc:?} for {role}");
            if let Some(status) = refused {
                assert_eq!(reason(&status), "ROLE_REQUIRED");
                assert_eq!(metadata(&status, "role_required"), needed.to_string());
                assert_eq!(metadata(&status, "caller"), format!("spiffe://zoneward/{role}/{name}"));
            }
        }
    }
}

#[tokio::test]
async fn the_callers_identity_is_in_the_journal() {
    let door = door().await;
    let mut clients = door.clients("admin").await.unwrap();
    clients.create(machine()).await;
    assert_eq!(clients.journal().await[0].actor, "spiffe://zoneward/admin/admin");
    drop(door.agent);
}

/// A revoked client is cut off where it is, and does not come back; the others stay.
#[tokio::test]
async fn revocation_cuts_live_connections() {
    let door = door().await;
    door.pki.issue(Role::Admin, "mallory", 30).unwrap();
    let mut mallory = door.clients("mallory").await.unwrap();
    let mut admin = door.clients("admin").await.unwrap();
    let mut stream =
        mallory.events.watch_events(v1::WatchEventsRequest::default()).await.unwrap().into_inner();
    let mut kept = admin.events.watch_events(v1::WatchEventsRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap();
    kept.message().await.unwrap();

    door.pki.revoke("mallory").unwrap();
    assert_eq!(door.tls.reload().unwrap(), 1);
    assert!(stream.message().await.is_err(), "cut in the middle");
    assert!(!door.lets_in("mallory").await, "and not let in again");
    // A list that is gone or cut does not let anybody in again.
    let list = door.certs.path().join("crl.pem");
    let whole = std::fs::read(&list).unwrap();
    for broken in [None, Some("")] {
        match broken {
            None => std::fs::remove_file(&list).unwrap(),
            Some(text) => std::fs::write(&list, text).unwrap(),
        }
        assert!(door.tls.reload().unwrap_err().to_string().contains("crl.pem"));
        assert!(!door.lets_in("mallory").await);
    }
    std::fs::write(&list, whole).unwrap();
    door.tls.reload().unwrap();
    let uuid = admin.create(machine()).await;
    let next = kept.message().await.unwrap().unwrap();
    assert!(matches!(next.item, Some(v1::watch_events_response::Item::Event(event)) if event.uuid == uuid));
}

#[tokio::test]
async fn a_broken_reload_changes_nothing() {
    let door = door().await;
    let mut clients = door.clients("admin").await.unwrap();
    let key = door.certs.path().join("server.key");
    let good = std::fs::read(&key).unwrap();
    std::fs::write(&key, "rubbish").unwrap();
    assert!(door.tls.reload().unwrap_err().to_string().contains("server.key"));
    assert!(door.lets_in("admin").await);
    clients.host.get_host(v1::GetHostRequest {}).await.unwrap();
    std::fs::write(&key, good).unwrap();
    assert_eq!(door.tls.reload().unwrap(), 0);
}

/// New roots replace the old ones: who is not of them is out.
#[tokio::test]
async fn new_client_roots_take_over_without_a_restart() {
    let door = door().await;
    assert!(door.lets_in("admin").await);
    let other = tempfile::tempdir().unwrap();
    Pki::new(other.path().to_owned(), "zoneward".to_owned()).init(&[], 30).unwrap();
    let ca = std::fs::read(door.certs.path().join("ca.pem")).unwrap();
    std::fs::copy(other.path().join("ca.pem"), door.certs.path().join("ca.pem")).unwrap();
    eventually("the files' times differ", || {
        let changed = door.tls.reload_if_changed().unwrap().is_some();
        async move { changed.then_some(()) }
    })
    .await;
    // The client still needs the old root to know the agent.
    std::fs::write(door.certs.path().join("ca.pem"), ca).unwrap();
    assert!(!door.lets_in("admin").await);
    door.tls.reload().unwrap();
    assert!(door.lets_in("admin").await);
}

#[tokio::test]
async fn health_and_both_reflections_answer() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let door = door().await;
    door.pki.issue(Role::Viewer, "v", 30).unwrap();
    let channel = connect(door.address, door.certs.path(), "v").await.unwrap();
    for service in [
        "",
        "zoneward.v1.VmService",
        "zoneward.v1.EventService",
        "zoneward.v1.ConsoleService",
        "zoneward.v1.HostService",
    ] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "{service}");
    }
    macro_rules! services {
        ($version:ident) => {{
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
            };
            let request = ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let mut client = ServerReflectionClient::new(channel.clone());
            let stream = client.server_reflection_info(tokio_stream::iter([request])).await;
            let answer = stream.unwrap().into_inner().message().await.unwrap().unwrap();
            match answer.message_response {
                Some(MessageResponse::ListServicesResponse(list)) => {
                    list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
                }
                other => panic!("{other:?}"),
            }
        }};
    }
    for names in [services!(v1), services!(v1alpha)] {
        assert!(names.contains(&"zoneward.v1.VmService".to_owned()), "{names:?}");
    }
}
