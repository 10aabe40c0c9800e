//! The VM server.

use super::sight::Expressions;
use crate::{
    agent::Agent,
    model::VmRecord,
    proto::{Sight, v1, vm_to_proto},
};

/// Serves VMs.
#[derive(Clone, Debug)]
pub(super) struct Vms {
    pub(super) agent: Agent,
    pub(super) expressions: Expressions,
}

impl Vms {
    pub(super) fn new(agent: Agent, expressions: Expressions) -> Self {
        Self { agent, expressions }
    }

    pub(super) fn vm(&self, record: &VmRecord, sight: Sight) -> v1::Vm {
        vm_to_proto(record, &self.agent.site(record.uuid), sight)
    }
}
