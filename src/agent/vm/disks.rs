//! The disks of a machine whose hypervisor exited.

use crate::{agent::context::VmContext, model::VmRecord, spec::DiskSpec};

/// Restores the sizes of disks and UEFI variables, in case the hypervisor changed them.
pub(in crate::agent) async fn settle(context: &VmContext, vm: &VmRecord) {
    let (volumes, layout) = (context.platform.volumes.clone(), context.layout_of(vm.uuid));
    let disks: Vec<DiskSpec> =
        vm.spec.disks.iter().filter(|disk| disk.is_made_here() && !disk.is_overlay()).cloned().collect();
    let ran = vm.machine.as_ref().and_then(|run| run.bootrom.clone());
    let (hypervisor, bootrom) =
        (context.hypervisor(vm).clone(), ran.unwrap_or_else(|| vm.spec.bootrom().clone()));
    let settle = move || {
        if let Err(error) = hypervisor.settle_firmware(&bootrom, &layout.efi_vars()) {
            tracing::warn!(%error, zone = %layout.zonepath().display(), "cannot check the UEFI variables");
        }
        for (disk, name) in disks.iter().filter_map(|disk| Some((disk, disk.file_name()?))) {
            match volumes.settle(layout.zonepath(), name, disk.mebibytes()) {
                Ok(false) => {}
                Ok(true) => {
                    tracing::warn!(disk = name, zone = %layout.zonepath().display(), "the hypervisor changed the size of its disk; it has its own again");
                }
                Err(error) => {
                    tracing::debug!(%error, disk = name, "the size of the disk could not be checked")
                }
            }
        }
    };
    let _ = tokio::task::spawn_blocking(settle).await;
}
