//! Defaults that this host gives to machines.

use uuid::Uuid;

use super::Agent;
use crate::spec::{
    Mac, VmSpec,
    defaults::{self, Host},
};

/// What this host gives to a machine that leaves something open.
pub(super) fn host_for<'a>(
    agent: &Agent,
    disk_path: &'a dyn Fn(usize) -> String,
    new_mac: &'a dyn Fn() -> Mac,
) -> Host<'a> {
    Host { overhead: agent.inner.config.zone.min_overhead, disk_path, new_mac }
}

/// Fills in what a payload leaves open.
pub(super) fn complete(agent: &Agent, uuid: Uuid, spec: &mut VmSpec) {
    let layout = agent.inner.layout.vm(uuid);
    let new_mac = || agent.new_mac();
    let disk_path = |number| layout.disk(number).display().to_string();
    defaults::complete(spec, uuid, &host_for(agent, &disk_path, &new_mac));
}
