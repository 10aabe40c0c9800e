//! What the tests share: agents with folders of their own, and clients for them.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod ignored;
pub(crate) mod net;
pub(crate) mod real;
pub(crate) mod simulated;
pub(crate) mod web;

use std::{future::Future, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};
use tonic_types::StatusExt as _;
use zoneward::proto::v1::{
    self, console_service_client::ConsoleServiceClient, event_service_client::EventServiceClient,
    host_service_client::HostServiceClient, image_service_client::ImageServiceClient,
    vm_service_client::VmServiceClient,
};

/// The clients of one agent.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) vms: VmServiceClient<Channel>,
    pub(crate) events: EventServiceClient<Channel>,
    pub(crate) consoles: ConsoleServiceClient<Channel>,
    pub(crate) host: HostServiceClient<Channel>,
    pub(crate) images: ImageServiceClient<Channel>,
    pub(crate) channel: Channel,
}

impl Clients {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            vms: VmServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20),
            events: EventServiceClient::new(channel.clone()),
            consoles: ConsoleServiceClient::new(channel.clone()),
            host: HostServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel.clone()),
            channel,
        }
    }

    /// Makes a VM; gives its UUID.
    pub(crate) async fn create(&mut self, vm: v1::VmSpec) -> String {
        let request = v1::CreateVmRequest { vm: Some(vm), ..Default::default() };
        self.vms.create_vm(request).await.expect("created").into_inner().vm.expect("vm").uuid
    }

    pub(crate) async fn get(&mut self, uuid: &str) -> Result<v1::Vm, Status> {
        let request = v1::GetVmRequest { uuid: uuid.to_owned() };
        Ok(self.vms.get_vm(request).await?.into_inner().vm.expect("vm"))
    }

    pub(crate) async fn state(&mut self, uuid: &str) -> v1::VmState {
        self.get(uuid).await.expect("vm").status.expect("status").state()
    }

    /// Starts a VM; gives the phases.
    pub(crate) async fn start(&mut self, uuid: &str) -> Result<Vec<v1::boot_phase::Phase>, Status> {
        self.start_with(v1::StartVmRequest { uuid: uuid.to_owned(), ..Default::default() }).await
    }

    pub(crate) async fn start_with(
        &mut self,
        request: v1::StartVmRequest,
    ) -> Result<Vec<v1::boot_phase::Phase>, Status> {
        let mut stream = self.vms.start_vm(request).await?.into_inner();
        let mut phases = Vec::new();
        while let Some(item) = stream.message().await? {
            match item.item.expect("item") {
                v1::start_vm_response::Item::Phase(phase) => phases.push(phase.phase()),
                v1::start_vm_response::Item::Vm(_) => {}
            }
        }
        Ok(phases)
    }

    pub(crate) async fn stop(&mut self, uuid: &str, force: bool) -> Result<v1::StopVmResponse, Status> {
        let request = v1::StopVmRequest { uuid: uuid.to_owned(), force, ..Default::default() };
        Ok(self.vms.stop_vm(request).await?.into_inner())
    }

    pub(crate) async fn delete(&mut self, uuid: &str) -> Result<(), Status> {
        let request = v1::DeleteVmRequest { uuid: uuid.to_owned(), ..Default::default() };
        self.vms.delete_vm(request).await.map(drop)
    }

    /// Puts a file into a zone.
    pub(crate) async fn put(
        &mut self,
        header: v1::PutFileHeader,
        chunks: Vec<Vec<u8>>,
    ) -> Result<v1::FileEntry, Status> {
        let header = v1::PutFileRequest { item: Some(v1::put_file_request::Item::Header(header)) };
        let chunks = chunks
            .into_iter()
            .map(|chunk| v1::PutFileRequest { item: Some(v1::put_file_request::Item::Chunk(chunk.into())) });
        let stream = tokio_stream::iter(std::iter::once(header).chain(chunks).collect::<Vec<_>>());
        Ok(self.vms.put_file(stream).await?.into_inner().file.expect("file"))
    }

    /// Everything in the journal so far.
    pub(crate) async fn journal(&mut self) -> Vec<v1::Event> {
        let start = Some(v1::watch_events_request::Start::Beginning(true));
        let request = v1::WatchEventsRequest { start, uuids: vec![], ..Default::default() };
        let mut stream = self.events.watch_events(request).await.expect("watch").into_inner();
        let mut events = Vec::new();
        loop {
            match stream.message().await.expect("event").expect("an endless stream").item.expect("item") {
                v1::watch_events_response::Item::Event(event) => events.push(event),
                v1::watch_events_response::Item::Bookmark(_) => return events,
                v1::watch_events_response::Item::Snapshot(_)
                | v1::watch_events_response::Item::SnapshotEnd(_) => {}
            }
        }
    }

    /// The console's output so far.
    pub(crate) async fn console_log(&mut self, uuid: &str) -> String {
        let request = v1::ReadLogRequest { uuid: uuid.to_owned(), offset: 0, follow: false };
        let mut stream = self.consoles.read_log(request).await.expect("log").into_inner();
        let mut text = Vec::new();
        while let Some(message) = stream.message().await.expect("log") {
            if let Some(v1::read_log_response::Item::Data(data)) = message.item {
                text.extend_from_slice(&data.data);
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Follows the console from `offset` until `wanted` has been printed; gives the text up to there, and the
    /// offset behind it. More may have been printed already.
    pub(crate) async fn console_until(&mut self, uuid: &str, offset: i64, wanted: &str) -> (String, i64) {
        let request = v1::ReadLogRequest { uuid: uuid.to_owned(), offset, follow: true };
        let mut stream = self.consoles.read_log(request).await.expect("log").into_inner();
        let mut text = Vec::new();
        let mut next = offset;
        let read = async {
            loop {
                let message = stream.message().await.expect("log").expect("an endless log");
                if let Some(v1::read_log_response::Item::Data(data)) = message.item {
                    assert_eq!(data.offset, next, "no byte is missing or double");
                    text.extend_from_slice(&data.data);
                    next += i64::try_from(data.data.len()).expect("size");
                    let found = text.windows(wanted.len()).position(|part| part == wanted.as_bytes());
                    if let Some(end) = found.map(|at| at + wanted.len()) {
                        return end;
                    }
                }
            }
        };
        match tokio::time::timeout(patience(), read).await {
            Ok(end) => {
                text.truncate(end);
                let behind = offset + i64::try_from(end).expect("size");
                (String::from_utf8_lossy(&text).into_owned(), behind)
            }
            Err(_) => panic!("{wanted:?} was not printed; the console ends: {}", tail(&text)),
        }
    }
}

/// How long a guest under TCG may take for anything, on a busy machine.
pub(crate) const GUEST: Duration = Duration::from_secs(180);

fn tail(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned()
}

pub(crate) async fn connect_unix(path: std::path::PathBuf) -> Channel {
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    // Connects at the first call, and again after a break.
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
}

/// How long a test waits for a value: for a simulated host seconds, for a guest under TCG minutes.
pub(crate) fn patience() -> Duration {
    match env!("CARGO_CRATE_NAME") {
        "control" => Duration::from_secs(30),
        _ => GUEST,
    }
}

/// Waits until `look` gives something. For what has no event to wait for.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = tokio::time::Instant::now() + patience();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The machine-readable reason of an error.
pub(crate) fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// A detail of an error.
pub(crate) fn metadata(status: &Status, key: &str) -> String {
    let details = status.get_error_details();
    details.error_info().and_then(|info| info.metadata.get(key).cloned()).unwrap_or_default()
}

/// The field paths of an error.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    details
        .bad_request()
        .map(|bad| bad.field_violations.iter().map(|v| v.field.clone()).collect())
        .unwrap_or_default()
}

/// A machine that starts only when told to.
pub(crate) fn machine() -> v1::VmSpec {
    v1::VmSpec { brand: "kvm".into(), autoboot: Some(false), ..Default::default() }
}

/// A disk of `size` MiB.
pub(crate) fn disk(size: i32) -> v1::DiskSpec {
    v1::DiskSpec { size: Some(size), ..Default::default() }
}

pub(crate) fn sha256(content: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}
