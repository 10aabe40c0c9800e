//! `HostService`.

use std::pin::Pin;

use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::{
    convert,
    request::{call, invalid, page_size},
    status::status,
};
use crate::{
    agent::{Agent, Reclaimed},
    proto::{
        limits, restrictions,
        v1::{self, host_service_server::HostService},
    },
};

/// Serves facts about the host.
#[derive(Clone, Debug)]
pub(super) struct Host {
    agent: Agent,
}

impl Host {
    pub(super) fn new(agent: Agent) -> Self {
        Self { agent }
    }
}

/// Leaks that are reclaimed at once.
const MAX_IDS: usize = 1000;
/// Seconds that a guest may take by default.
const DRAIN: u32 = 60;

#[tonic::async_trait]
impl HostService for Host {
    async fn list_nic_tags(
        &self,
        request: Request<v1::ListNicTagsRequest>,
    ) -> Result<Response<v1::ListNicTagsResponse>, Status> {
        let request = request.into_inner();
        let limit = page_size(request.page_size)?;
        let mut tags = self.agent.nic_tags().await;
        // The token is the last name of the page before.
        tags.retain(|tag| tag.name > request.page_token);
        let more = tags.len() > limit;
        tags.truncate(limit);
        let next_page_token = tags.last().filter(|_| more).map(|tag| tag.name.clone()).unwrap_or_default();
        let nic_tags = tags.into_iter().map(convert::nic_tag).collect();
        Ok(Response::new(v1::ListNicTagsResponse { nic_tags, next_page_token }))
    }

    async fn list_leaks(
        &self,
        request: Request<v1::ListLeaksRequest>,
    ) -> Result<Response<v1::ListLeaksResponse>, Status> {
        let request = request.into_inner();
        let limit = page_size(request.page_size)?;
        let mut leaks = self.agent.leaks().await.map_err(status)?;
        // The token is the last id of the page before.
        leaks.retain(|leak| leak.id > request.page_token);
        let more = leaks.len() > limit;
        leaks.truncate(limit);
        let last = leaks.last().filter(|_| more);
        let next_page_token = last.map(|leak| leak.id.clone()).unwrap_or_default();
        let leaks = leaks.into_iter().map(convert::leak).collect();
        Ok(Response::new(v1::ListLeaksResponse { leaks, next_page_token }))
    }

    async fn reclaim_leaks(
        &self,
        request: Request<v1::ReclaimLeaksRequest>,
    ) -> Result<Response<v1::ReclaimLeaksResponse>, Status> {
        let call = call(&request, "ReclaimLeaks")?;
        let request = request.into_inner();
        if request.ids.is_empty() || request.ids.len() > MAX_IDS {
            return Err(invalid("ids", format!("1 to {MAX_IDS} are needed, as ListLeaks names them")));
        }
        let results = self.agent.reclaim(call, request.ids, request.validate_only).await.map_err(status)?;
        let result = |result: Reclaimed| v1::ReclaimResult {
            id: result.id,
            reclaimed: result.reason.is_none(),
            reason: result.reason.unwrap_or_default(),
        };
        Ok(Response::new(v1::ReclaimLeaksResponse { results: results.into_iter().map(result).collect() }))
    }

    type DrainHostStream = Pin<Box<dyn Stream<Item = Result<v1::DrainHostResponse, Status>> + Send>>;

    async fn drain_host(
        &self,
        request: Request<v1::DrainHostRequest>,
    ) -> Result<Response<Self::DrainHostStream>, Status> {
        let call = call(&request, "DrainHost")?;
        let seconds = match request.get_ref().timeout_seconds {
            0 => DRAIN,
            seconds => u32::try_from(seconds)
                .map_err(|_| invalid("timeout_seconds", format!("{seconds} is negative")))?,
        };
        if request.get_ref().end {
            self.agent.end_drain(&call).await.map_err(status)?;
            return Ok(Response::new(Box::pin(tokio_stream::empty())));
        }
        let drained = ReceiverStream::new(self.agent.drain(call, seconds).await).map(|vm| {
            Ok(v1::DrainHostResponse {
                uuid: vm.uuid.to_string(),
                alias: vm.alias,
                reason: vm.failure.map(|error| error.to_string()).unwrap_or_default(),
                left: i32::try_from(vm.left).unwrap_or(i32::MAX),
            })
        });
        Ok(Response::new(Box::pin(drained)))
    }

    async fn get_host(
        &self,
        _: Request<v1::GetHostRequest>,
    ) -> Result<Response<v1::GetHostResponse>, Status> {
        let hypervisors = self.agent.hypervisors().await.into_iter().map(|(brand, found)| v1::Hypervisor {
            brand: brand.as_str().to_owned(),
            version: found.version,
            accelerator: found.accelerator,
            accelerator_reason: found.reason,
            description: found.text,
            machine_types: found.machine_types,
        });
        let uname = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let memory = rustix::system::sysinfo();
        let mib = memory.totalram.saturating_mul(memory.mem_unit.into()) >> 20;
        Ok(Response::new(v1::GetHostResponse {
            server_uuid: self.agent.server_uuid().to_string(),
            hostname: text(uname.nodename()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: format!("{} {}", text(uname.sysname()), text(uname.release())),
            hypervisors: hypervisors.collect(),
            cpus: std::thread::available_parallelism()
                .ok()
                .and_then(|n| i32::try_from(n.get()).ok())
                .unwrap_or(1),
            memory: i32::try_from(mib).unwrap_or(i32::MAX),
            restrictions: restrictions(&self.agent.enforcements().await),
            limits: limits(&self.agent.limits().await),
            capacity: self.agent.capacity().into_iter().map(convert::capacity).collect(),
            zones_dir: self.agent.layout().zones().display().to_string(),
        }))
    }
}
