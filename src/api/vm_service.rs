//! `VmService`.

use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    boot_stream::{PhaseStream, send_phases},
    convert,
    payload::{machine, no_machine, payload},
    request::{actor, call, invalid, page_size, peer, uuid, uuid_at},
    sight::sight,
    status::status,
    vms::Vms,
};
use crate::{
    agent::{Error, UpdateReply},
    proto::{
        boot_options, changes_to_proto, json_to_struct, note,
        v1::{self, vm_service_server::VmService},
        violation,
    },
    spec::property::schema,
};

/// Boot phases that wait for a client.
const PHASES: usize = 16;
/// Seconds that a guest has to obey the power button, unless the caller says otherwise.
const STOP_SECONDS: i32 = 180;

#[tonic::async_trait]
impl VmService for Vms {
    async fn create_vm(
        &self,
        request: Request<v1::CreateVmRequest>,
    ) -> Result<Response<v1::CreateVmResponse>, Status> {
        let sight = sight(&request)?;
        let call = call(&request, "CreateVm")?;
        let request = request.into_inner();
        let parsed = machine(request.vm.as_ref(), request.machine_json)?;
        let (created, notes) =
            self.agent.create(call, parsed, request.validate_only).await.map_err(status)?;
        let notes = notes.into_iter().map(note).collect();
        Ok(Response::new(v1::CreateVmResponse { vm: Some(self.vm(&created, sight)), notes }))
    }

    async fn validate_vm(
        &self,
        request: Request<v1::ValidateVmRequest>,
    ) -> Result<Response<v1::ValidateVmResponse>, Status> {
        let actor = actor(&request)?;
        let request = request.into_inner();
        let is_machine = request.vm.is_some() || request.machine_json.is_some();
        let (violations, notes) = match (is_machine, request.update) {
            (true, None) => {
                let parsed = machine(request.vm.as_deref(), request.machine_json)?;
                self.agent.validate_payload(parsed).await
            }
            (false, Some(update)) => self.validate_update(actor, *update, &request.brand).await?,
            (true, Some(_)) => return Err(invalid("update", "give vm or update, not both")),
            (false, None) => return Err(no_machine()),
        };
        let violations = violations.into_iter().map(violation).collect();
        let notes = notes.into_iter().map(note).collect();
        Ok(Response::new(v1::ValidateVmResponse { violations, notes }))
    }

    async fn get_vm_schema(
        &self,
        _: Request<v1::GetVmSchemaRequest>,
    ) -> Result<Response<v1::GetVmSchemaResponse>, Status> {
        let schema = match schema() {
            Value::Object(object) => json_to_struct(object),
            _ => return Err(Status::internal("the schema is no object")),
        };
        Ok(Response::new(v1::GetVmSchemaResponse { schema: Some(schema) }))
    }

    async fn update_vm(
        &self,
        request: Request<v1::UpdateVmRequest>,
    ) -> Result<Response<v1::UpdateVmResponse>, Status> {
        let sight = sight(&request)?;
        let call = call(&request, "UpdateVm")?;
        let request = request.into_inner();
        let vm = uuid(&request.uuid)?;
        let payload = payload(&request).map_err(|violations| status(Error::Invalid(violations)))?;
        let updated = self.agent.update_vm(
            call,
            vm,
            request.etag,
            (payload, request.replace_lists),
            request.validate_only,
        );
        let updated = updated.await;
        let UpdateReply { vm, changes, next_boot, notes } = updated.map_err(status)?;
        Ok(Response::new(v1::UpdateVmResponse {
            vm: Some(self.vm(&vm, sight)),
            changes: changes_to_proto(&changes, sight),
            next_boot,
            notes: notes.into_iter().map(note).collect(),
        }))
    }

    async fn kill_vm(
        &self,
        request: Request<v1::KillVmRequest>,
    ) -> Result<Response<v1::KillVmResponse>, Status> {
        let call = call(&request, "KillVm")?;
        let request = request.into_inner();
        let signal = self.agent.kill_vm(call, uuid(&request.uuid)?, request.etag, &request.signal).await;
        Ok(Response::new(v1::KillVmResponse { signal: signal.map_err(status)? }))
    }

    async fn send_sysrq(
        &self,
        request: Request<v1::SendSysrqRequest>,
    ) -> Result<Response<v1::SendSysrqResponse>, Status> {
        let call = call(&request, "SendSysrq")?;
        let request = request.into_inner();
        let vm = uuid(&request.uuid)?;
        let sent = match request.r#type() {
            v1::send_sysrq_request::Type::Nmi => self.agent.inject_nmi(call, vm, request.etag).await,
            v1::send_sysrq_request::Type::Screenshot => {
                self.agent.sysrq_screenshot(call, vm, request.etag).await
            }
            v1::send_sysrq_request::Type::Unspecified => {
                return Err(invalid("type", "required; one of: TYPE_NMI, TYPE_SCREENSHOT"));
            }
        };
        sent.map_err(status)?;
        Ok(Response::new(v1::SendSysrqResponse {}))
    }

    async fn pause_vm(
        &self,
        request: Request<v1::PauseVmRequest>,
    ) -> Result<Response<v1::PauseVmResponse>, Status> {
        let sight = sight(&request)?;
        let call = call(&request, "PauseVm")?;
        let request = request.into_inner();
        let paused = self.agent.pause_vm(call, uuid(&request.uuid)?, request.etag).await;
        let vm = self.vm(&paused.map_err(status)?.vm, sight);
        Ok(Response::new(v1::PauseVmResponse { vm: Some(vm) }))
    }

    async fn resume_vm(
        &self,
        request: Request<v1::ResumeVmRequest>,
    ) -> Result<Response<v1::ResumeVmResponse>, Status> {
        let sight = sight(&request)?;
        let call = call(&request, "ResumeVm")?;
        let request = request.into_inner();
        let resumed = self.agent.resume_vm(call, uuid(&request.uuid)?, request.etag).await;
        let vm = self.vm(&resumed.map_err(status)?.vm, sight);
        Ok(Response::new(v1::ResumeVmResponse { vm: Some(vm) }))
    }

    async fn change_media(
        &self,
        request: Request<v1::ChangeMediaRequest>,
    ) -> Result<Response<v1::ChangeMediaResponse>, Status> {
        let sight = sight(&request)?;
        let call = call(&request, "ChangeMedia")?;
        let v1::ChangeMediaRequest { uuid: vm, etag, drive, path, .. } = request.into_inner();
        let changed = self.agent.change_media(call, uuid(&vm)?, etag, drive, path).await;
        let vm = self.vm(&changed.map_err(status)?.vm, sight);
        Ok(Response::new(v1::ChangeMediaResponse { vm: Some(vm) }))
    }

    async fn get_vm(
        &self,
        request: Request<v1::GetVmRequest>,
    ) -> Result<Response<v1::GetVmResponse>, Status> {
        let sight = sight(&request)?;
        let record = self.agent.vm(uuid(&request.get_ref().uuid)?).map_err(status)?;
        Ok(Response::new(v1::GetVmResponse { vm: Some(self.vm(&record, sight)) }))
    }

    async fn list_vms(
        &self,
        request: Request<v1::ListVmsRequest>,
    ) -> Result<Response<v1::ListVmsResponse>, Status> {
        let sight = sight(&request)?;
        let caller = peer(&request)?.clone();
        let request = request.into_inner();
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(uuid_at("page_token", token)?),
        };
        let limit = page_size(request.page_size)?;
        let (filters, held) = self.expressions.filters(&caller, request.filters).await?;
        let this = self.clone();
        // Building the views of thousands of VMs takes a moment.
        let answer = tokio::task::spawn_blocking(move || {
            let _held = held;
            let (views, more) = this.agent.vms(after, limit, &filters);
            let last = views.last().filter(|_| more);
            let next_page_token = last.map(|view| view.record.uuid.to_string()).unwrap_or_default();
            let vms = views.iter().map(|view| convert::view(view, sight)).collect();
            v1::ListVmsResponse { vms, next_page_token }
        });
        Ok(Response::new(answer.await.map_err(|_| Status::internal("listing failed"))?))
    }

    async fn delete_vm(
        &self,
        request: Request<v1::DeleteVmRequest>,
    ) -> Result<Response<v1::DeleteVmResponse>, Status> {
        let call = call(&request, "DeleteVm")?;
        let request = request.into_inner();
        self.agent.delete_vm(call, uuid(&request.uuid)?, request.etag).await.map_err(status)?;
        Ok(Response::new(v1::DeleteVmResponse {}))
    }

    type StartVmStream = PhaseStream;

    async fn start_vm(&self, request: Request<v1::StartVmRequest>) -> Result<Response<PhaseStream>, Status> {
        let sight = sight(&request)?;
        let call = call(&request, "StartVm")?;
        let request = request.into_inner();
        let vm = uuid(&request.uuid)?;
        let options =
            boot_options(request.options).map_err(|violations| status(Error::Invalid(violations)))?;
        let (sender, phases) = mpsc::channel(PHASES);
        let (items, stream) = mpsc::channel(PHASES);
        let this = self.clone();
        tokio::spawn(async move {
            let told = tokio::spawn(send_phases(phases, items.clone()));
            let outcome = this.agent.start_vm(call, vm, request.etag, options, Some(sender)).await;
            let told = told.await.unwrap_or_default();
            this.send_outcome(outcome, told, sight, &items).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn stop_vm(
        &self,
        request: Request<v1::StopVmRequest>,
    ) -> Result<Response<v1::StopVmResponse>, Status> {
        let sight = sight(&request)?;
        let call = call(&request, "StopVm")?;
        let request = request.into_inner();
        let seconds = request.timeout_seconds.unwrap_or(STOP_SECONDS);
        let seconds = u32::try_from(seconds)
            .map_err(|_| invalid("timeout_seconds", format!("{seconds} is negative")))?;
        let stopped =
            self.agent.stop_vm(call, uuid(&request.uuid)?, request.etag, request.force, seconds).await;
        let stopped = stopped.map_err(status)?;
        Ok(Response::new(v1::StopVmResponse {
            vm: Some(self.vm(&stopped.vm, sight)),
            already_stopped: stopped.already,
            obeyed: stopped.obeyed(),
        }))
    }

    async fn reboot_vm(
        &self,
        request: Request<v1::RebootVmRequest>,
    ) -> Result<Response<v1::RebootVmResponse>, Status> {
        let sight = sight(&request)?;
        let call = call(&request, "RebootVm")?;
        let request = request.into_inner();
        let rebooted = self.agent.reboot_vm(call, uuid(&request.uuid)?, request.etag, request.force).await;
        let vm = self.vm(&rebooted.map_err(status)?.vm, sight);
        Ok(Response::new(v1::RebootVmResponse { vm: Some(vm) }))
    }

    async fn get_vm_info(
        &self,
        request: Request<v1::GetVmInfoRequest>,
    ) -> Result<Response<v1::GetVmInfoResponse>, Status> {
        let may_use_screen = peer(&request)?.role >= crate::auth::Role::Operator;
        let request = request.into_inner();
        let info =
            self.agent.vm_info(uuid(&request.uuid)?, &request.types, may_use_screen).await.map_err(status)?;
        Ok(Response::new(v1::GetVmInfoResponse { info: Some(json_to_struct(info)) }))
    }

    async fn take_screenshot(
        &self,
        request: Request<v1::TakeScreenshotRequest>,
    ) -> Result<Response<v1::TakeScreenshotResponse>, Status> {
        let (call, vm) = (call(&request, "TakeScreenshot")?, uuid(&request.get_ref().uuid)?);
        let png = self.agent.screenshot(&call, vm).await.map_err(status)?;
        Ok(Response::new(v1::TakeScreenshotResponse { png: png.into() }))
    }

    async fn put_file(
        &self,
        request: Request<Streaming<v1::PutFileRequest>>,
    ) -> Result<Response<v1::PutFileResponse>, Status> {
        self.put(request).await
    }

    async fn list_files(
        &self,
        request: Request<v1::ListFilesRequest>,
    ) -> Result<Response<v1::ListFilesResponse>, Status> {
        self.list(request).await
    }

    async fn delete_file(
        &self,
        request: Request<v1::DeleteFileRequest>,
    ) -> Result<Response<v1::DeleteFileResponse>, Status> {
        let call = call(&request, "DeleteFile")?;
        let request = request.into_inner();
        let (vm, etag) = (uuid(&request.uuid)?, request.etag);
        self.agent.delete_file(call, vm, etag, request.path).await.map_err(status)?;
        Ok(Response::new(v1::DeleteFileResponse {}))
    }
}
