//! The disks of a machine whose hypervisor ended.

use super::Agent;
use crate::{spec::DiskSpec, store::VmRecord};

/// Takes back what a hypervisor gave its disks beyond their sizes.
pub(super) async fn settle(agent: &Agent, vm: &VmRecord) {
    let (volumes, layout) = (agent.inner.platform.volumes.clone(), agent.inner.layout.vm(vm.uuid));
    let disks: Vec<DiskSpec> = vm.spec.disks.iter().filter(|disk| disk.is_made_here()).cloned().collect();
    let settle = move || {
        for (disk, name) in disks.iter().filter_map(|disk| Some((disk, disk.file_name()?))) {
            match volumes.settle(layout.zonepath(), name, disk.mebibytes()) {
                Ok(false) => {}
                Ok(true) => {
                    tracing::warn!(disk = name, zone = %layout.zonepath().display(), "the hypervisor made its disk larger than it is; that was taken back");
                }
                Err(error) => tracing::debug!(%error, disk = name, "its size"),
            }
        }
    };
    let _ = tokio::task::spawn_blocking(settle).await;
}
