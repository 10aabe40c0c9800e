//! VMs as they are shown.

pub(super) mod diff;
pub(super) mod object;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{
    model::VmRecord,
    proto::{spec_to_proto, v1},
    spec::secret,
};

/// A VM as it is shown, made when somebody looks and kept until it changes.
#[derive(Debug)]
pub struct View {
    /// As it was last committed.
    pub record: Arc<VmRecord>,
    /// Where its zone is on the host.
    pub zonepath: String,
    /// vmadm's flat object.
    pub object: Map<String, Value>,
    /// The machine in the contract's form.
    pub spec: v1::VmSpec,
}

impl View {
    /// Of a record, and the place of its zone on the host.
    pub(super) fn new(record: Arc<VmRecord>, zonepath: &str) -> Self {
        let object = object::object(&record, zonepath);
        let spec = spec_to_proto(&secret::shown(&record.spec));
        Self { record, zonepath: zonepath.to_owned(), object, spec }
    }
}
