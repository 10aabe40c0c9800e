//! `VmService`.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::{
    convert,
    request::{actor, bytes, call, call_of, invalid, page_size, uuid, uuid_at},
    status::status,
};
use crate::{
    agent::{Agent, Error, Outcome, Uploader},
    proto::{
        spec_from_proto,
        v1::{self, put_file_request, start_vm_response, vm_service_server::VmService},
    },
    spec::{Violation, VmSpec},
    storage::UploadPlan,
    store::{BootPhase, VmRecord},
};

/// Boot phases that wait for a client.
const PHASES: usize = 16;
/// Largest chunk of an upload.
const MAX_CHUNK: usize = 1 << 20;
/// Seconds that a guest has to obey the power button, unless the caller says otherwise.
const STOP_SECONDS: i32 = 180;

/// Serves VMs.
#[derive(Clone, Debug)]
pub(super) struct Vms {
    agent: Agent,
}

impl Vms {
    pub(super) fn new(agent: Agent) -> Self {
        Self { agent }
    }

    fn vm(&self, record: &VmRecord) -> v1::Vm {
        let mut vm = convert::vm(record);
        if let Some(status) = &mut vm.status {
            status.zonepath = self.agent.layout().vm(record.uuid).zonepath().display().to_string();
        }
        vm
    }

    /// The VM of an outcome, and whether it was so before.
    fn outcome(&self, outcome: Outcome) -> Result<(v1::Vm, bool), Status> {
        match outcome {
            Outcome::Vm { vm, already, .. } => Ok((self.vm(&vm), already)),
            Outcome::Deleted | Outcome::File(_) => Err(Status::internal("the answer is of another kind")),
        }
    }
}

fn spec(vm: Option<v1::VmSpec>) -> Result<VmSpec, Status> {
    let vm =
        vm.ok_or_else(|| status(Error::Invalid(vec![Violation::missing("vm", "required: the machine")])))?;
    spec_from_proto(vm).map_err(|violations| status(Error::Invalid(violations)))
}

type PhaseStream = Pin<Box<dyn Stream<Item = Result<v1::StartVmResponse, Status>> + Send>>;

#[tonic::async_trait]
impl VmService for Vms {
    async fn create_vm(
        &self,
        request: Request<v1::CreateVmRequest>,
    ) -> Result<Response<v1::CreateVmResponse>, Status> {
        let call = call(&request, "CreateVm", &request.get_ref().request_id)?;
        let request = request.into_inner();
        let created = self.agent.create(call, spec(request.vm)?, request.validate_only).await;
        Ok(Response::new(v1::CreateVmResponse { vm: Some(self.vm(&created.map_err(status)?)) }))
    }

    async fn validate_vm(
        &self,
        request: Request<v1::ValidateVmRequest>,
    ) -> Result<Response<v1::ValidateVmResponse>, Status> {
        let Some(vm) = request.into_inner().vm else {
            return Err(status(Error::Invalid(vec![Violation::missing("vm", "required: the machine")])));
        };
        let violations = match spec_from_proto(vm) {
            Ok(spec) => self.agent.validate(&spec),
            Err(violations) => violations,
        };
        let violations = violations.into_iter().map(convert::violation).collect();
        Ok(Response::new(v1::ValidateVmResponse { violations }))
    }

    async fn get_vm(
        &self,
        request: Request<v1::GetVmRequest>,
    ) -> Result<Response<v1::GetVmResponse>, Status> {
        let record = self.agent.vm(uuid(&request.get_ref().uuid)?).map_err(status)?;
        Ok(Response::new(v1::GetVmResponse { vm: Some(self.vm(&record)) }))
    }

    async fn list_vms(
        &self,
        request: Request<v1::ListVmsRequest>,
    ) -> Result<Response<v1::ListVmsResponse>, Status> {
        let request = request.into_inner();
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(uuid_at("page_token", token)?),
        };
        let (records, more) = self.agent.vms(after, page_size(request.page_size)?);
        let last = records.last().filter(|_| more);
        let next_page_token = last.map(|record| record.uuid.to_string()).unwrap_or_default();
        let vms = records.iter().map(|record| self.vm(record)).collect();
        Ok(Response::new(v1::ListVmsResponse { vms, next_page_token }))
    }

    async fn delete_vm(
        &self,
        request: Request<v1::DeleteVmRequest>,
    ) -> Result<Response<v1::DeleteVmResponse>, Status> {
        let call = call(&request, "DeleteVm", &request.get_ref().request_id)?;
        let request = request.into_inner();
        self.agent.delete_vm(call, uuid(&request.uuid)?, request.etag).await.map_err(status)?;
        Ok(Response::new(v1::DeleteVmResponse {}))
    }

    type StartVmStream = PhaseStream;

    async fn start_vm(&self, request: Request<v1::StartVmRequest>) -> Result<Response<PhaseStream>, Status> {
        let call = call(&request, "StartVm", &request.get_ref().request_id)?;
        let request = request.into_inner();
        let vm = uuid(&request.uuid)?;
        let options = convert::boot_options(request.options)
            .map_err(|violations| status(Error::Invalid(violations)))?;
        let (sender, phases) = mpsc::channel(PHASES);
        let (items, stream) = mpsc::channel(PHASES);
        let this = self.clone();
        tokio::spawn(async move {
            let told = tokio::spawn(tell_phases(phases, items.clone()));
            let outcome = this.agent.start_vm(call, vm, request.etag, options, Some(sender)).await;
            let told = told.await.unwrap_or_default();
            this.tell_outcome(outcome, told, &items).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn stop_vm(
        &self,
        request: Request<v1::StopVmRequest>,
    ) -> Result<Response<v1::StopVmResponse>, Status> {
        let call = call(&request, "StopVm", &request.get_ref().request_id)?;
        let request = request.into_inner();
        let seconds = request.timeout_seconds.unwrap_or(STOP_SECONDS);
        let seconds = u32::try_from(seconds)
            .map_err(|_| invalid("timeout_seconds", format!("{seconds} is negative")))?;
        let stopped =
            self.agent.stop_vm(call, uuid(&request.uuid)?, request.etag, request.force, seconds).await;
        let (vm, already_stopped) = self.outcome(stopped.map_err(status)?)?;
        Ok(Response::new(v1::StopVmResponse { vm: Some(vm), already_stopped }))
    }

    async fn reboot_vm(
        &self,
        request: Request<v1::RebootVmRequest>,
    ) -> Result<Response<v1::RebootVmResponse>, Status> {
        let call = call(&request, "RebootVm", &request.get_ref().request_id)?;
        let request = request.into_inner();
        let rebooted = self.agent.reboot_vm(call, uuid(&request.uuid)?, request.etag, request.force).await;
        let (vm, _) = self.outcome(rebooted.map_err(status)?)?;
        Ok(Response::new(v1::RebootVmResponse { vm: Some(vm) }))
    }

    async fn get_vm_info(
        &self,
        request: Request<v1::GetVmInfoRequest>,
    ) -> Result<Response<v1::GetVmInfoResponse>, Status> {
        let request = request.into_inner();
        let info = self.agent.vm_info(uuid(&request.uuid)?, &request.types).await.map_err(status)?;
        Ok(Response::new(v1::GetVmInfoResponse { info: Some(convert::json_to_struct(info)) }))
    }

    async fn take_screenshot(
        &self,
        request: Request<v1::TakeScreenshotRequest>,
    ) -> Result<Response<v1::TakeScreenshotResponse>, Status> {
        let png = self.agent.screenshot(uuid(&request.get_ref().uuid)?).await.map_err(status)?;
        Ok(Response::new(v1::TakeScreenshotResponse { png: png.into() }))
    }

    async fn put_file(
        &self,
        request: Request<Streaming<v1::PutFileRequest>>,
    ) -> Result<Response<v1::PutFileResponse>, Status> {
        let actor = actor(&request)?;
        let mut stream = request.into_inner();
        let first = stream.message().await?.and_then(|message| message.item);
        let Some(put_file_request::Item::Header(header)) = first else {
            return Err(invalid("header", "the first message must be the header"));
        };
        let uploader = self.begin_upload(actor, header)?;
        let outcome = receive(uploader, &mut stream).await?;
        match outcome {
            Outcome::File(file) => Ok(Response::new(v1::PutFileResponse {
                file: Some(v1::FileEntry {
                    path: file.path,
                    r#type: v1::file_entry::Type::File.into(),
                    size: convert::offset(file.size),
                    modified: Some(prost_types::Timestamp { seconds: file.modified, nanos: 0 }),
                }),
            })),
            Outcome::Vm { .. } | Outcome::Deleted => Err(Status::internal("the answer is of another kind")),
        }
    }

    async fn list_files(
        &self,
        request: Request<v1::ListFilesRequest>,
    ) -> Result<Response<v1::ListFilesResponse>, Status> {
        let request = request.into_inner();
        let path = if request.path.is_empty() { "/".to_owned() } else { request.path };
        let limit = page_size(request.page_size)?;
        let list = self.agent.list_files(uuid(&request.uuid)?, path).await.map_err(status)?;
        // The token is the last path of the page before.
        let from = list.entries.partition_point(|entry| entry.path <= request.page_token);
        let page = list.entries[from..].iter().take(limit);
        let more = list.entries.len() > from + limit;
        let next_page_token =
            page.clone().next_back().filter(|_| more).map(|e| e.path.clone()).unwrap_or_default();
        let uploads = match request.page_token.as_str() {
            "" => list.uploads.into_iter().map(convert::upload).collect(),
            _ => Vec::new(),
        };
        Ok(Response::new(v1::ListFilesResponse {
            files: page.map(convert::file_entry).collect(),
            next_page_token,
            uploads,
        }))
    }

    async fn delete_file(
        &self,
        request: Request<v1::DeleteFileRequest>,
    ) -> Result<Response<v1::DeleteFileResponse>, Status> {
        let call = call(&request, "DeleteFile", &request.get_ref().request_id)?;
        let request = request.into_inner();
        self.agent.delete_file(call, uuid(&request.uuid)?, request.path).await.map_err(status)?;
        Ok(Response::new(v1::DeleteFileResponse {}))
    }
}

type Items = mpsc::Sender<Result<v1::StartVmResponse, Status>>;

fn phase_item(phase: &BootPhase) -> v1::StartVmResponse {
    v1::StartVmResponse { item: Some(start_vm_response::Item::Phase(convert::phase(phase))) }
}

/// Passes phases on as they come; gives how many.
async fn tell_phases(mut phases: mpsc::Receiver<BootPhase>, items: Items) -> usize {
    let mut told = 0;
    while let Some(phase) = phases.recv().await {
        // A client that left does not stop the boot.
        let _ = items.send(Ok(phase_item(&phase))).await;
        told += 1;
    }
    told
}

impl Vms {
    /// The last items: of a repeated request also the phases of the first run.
    async fn tell_outcome(&self, outcome: Result<Outcome, Error>, told: usize, items: &Items) {
        match outcome {
            Ok(Outcome::Vm { vm, phases, .. }) => {
                for phase in phases.iter().skip(told) {
                    let _ = items.send(Ok(phase_item(phase))).await;
                }
                let item = Some(start_vm_response::Item::Vm(self.vm(&vm)));
                let _ = items.send(Ok(v1::StartVmResponse { item })).await;
            }
            Ok(Outcome::Deleted | Outcome::File(_)) => {
                let _ = items.send(Err(Status::internal("the answer is of another kind"))).await;
            }
            Err(error) => {
                let _ = items.send(Err(status(error))).await;
            }
        }
    }

    fn begin_upload(&self, actor: String, header: v1::PutFileHeader) -> Result<Uploader, Status> {
        // The offset differs between tries of the same upload.
        let content = prost::Message::encode_to_vec(&v1::PutFileHeader { offset: 0, ..header.clone() });
        let call = call_of(actor, "PutFile", &header.request_id, &content)?;
        let vm: Uuid = uuid_at("header.uuid", &header.uuid)?;
        let plan =
            UploadPlan { path: header.path, size: bytes("header.size", header.size)?, sha256: header.sha256 };
        let offset = bytes("header.offset", header.offset)?;
        self.agent.put_file(call, vm, plan, offset, header.overwrite).map_err(status)
    }
}

/// Passes chunks on until the client says that this was all, or is gone.
async fn receive(uploader: Uploader, stream: &mut Streaming<v1::PutFileRequest>) -> Result<Outcome, Status> {
    loop {
        let chunk = match stream.next().await {
            None => return uploader.finish().await.map_err(status),
            Some(Ok(v1::PutFileRequest { item: Some(put_file_request::Item::Chunk(chunk)) })) => chunk,
            Some(Ok(_)) => {
                uploader.cut().await;
                return Err(invalid("chunk", "only chunks may follow the header"));
            }
            Some(Err(error)) => {
                uploader.cut().await;
                return Err(error);
            }
        };
        if chunk.len() > MAX_CHUNK {
            let size = chunk.len();
            uploader.cut().await;
            return Err(invalid("chunk", format!("{size} bytes is over the limit of {MAX_CHUNK}")));
        }
        if !uploader.chunk(chunk).await {
            return uploader.finish().await.map_err(status);
        }
    }
}
