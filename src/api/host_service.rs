//! `HostService`.

use tonic::{Request, Response, Status};

use super::convert;
use crate::{
    agent::Agent,
    proto::v1::{self, host_service_server::HostService},
    spec::Brand,
};

/// Serves what is known of the host.
#[derive(Clone, Debug)]
pub(super) struct Host {
    agent: Agent,
}

impl Host {
    pub(super) fn new(agent: Agent) -> Self {
        Self { agent }
    }
}

#[tonic::async_trait]
impl HostService for Host {
    async fn get_host(
        &self,
        _: Request<v1::GetHostRequest>,
    ) -> Result<Response<v1::GetHostResponse>, Status> {
        let kvm = self.agent.describe_kvm().await;
        let uname = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let memory = rustix::system::sysinfo();
        let mib = memory.totalram.saturating_mul(memory.mem_unit.into()) >> 20;
        Ok(Response::new(v1::GetHostResponse {
            hostname: text(uname.nodename()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: format!("{} {}", text(uname.sysname()), text(uname.release())),
            hypervisors: vec![v1::Hypervisor {
                brand: Brand::Kvm.as_str().to_owned(),
                version: kvm.version,
                accelerator: kvm.accelerator,
                accelerator_reason: kvm.reason,
            }],
            cpus: std::thread::available_parallelism()
                .ok()
                .and_then(|n| i32::try_from(n.get()).ok())
                .unwrap_or(1),
            memory: i32::try_from(mib).unwrap_or(i32::MAX),
            restrictions: convert::restrictions(&self.agent.enforcements().await),
            limits: convert::limits(&self.agent.limits().await),
            zones_dir: self.agent.layout().zones().display().to_string(),
        }))
    }
}
