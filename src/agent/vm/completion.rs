//! Defaults that this host gives to machines.

use uuid::Uuid;

use crate::{
    agent::{context::VmContext, vm::images},
    spec::{
        Mac, VmSpec,
        defaults::{self, Host, ImageFacts},
    },
};

/// Returns this host's defaults for an incomplete machine.
pub(in crate::agent) fn host_for<'a>(
    context: &VmContext,
    disk_path: &'a dyn Fn(usize) -> String,
    new_mac: &'a dyn Fn() -> Mac,
    image: &'a dyn Fn(Uuid) -> Option<ImageFacts>,
) -> Host<'a> {
    Host { overhead: context.settings.overhead, disk_path, new_mac, new_uuid: &Uuid::new_v4, image }
}

/// Returns the machine type that a machine keeps: its own, or else the newest of its brand.
pub(in crate::agent) async fn machine_type(context: &VmContext, spec: &VmSpec) -> Option<String> {
    match &spec.machine_type {
        Some(own) => Some(own.clone()),
        None => context.hypervisor_of(spec).describe().await.machine_types.pop(),
    }
}

/// Fills in a payload's missing properties.
pub(in crate::agent) fn complete(context: &VmContext, uuid: Uuid, spec: &mut VmSpec) {
    let layout = context.layout_of(uuid);
    let new_mac = || context.new_mac();
    let disk_path = |number| layout.disk(number).display().to_string();
    let image = |uuid| images::facts(context, uuid);
    defaults::complete(spec, uuid, &host_for(context, &disk_path, &new_mac, &image));
}
