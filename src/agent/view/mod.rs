//! VMs as they are shown.

pub(super) mod diff;
pub(super) mod object;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{
    model::{Site, VmRecord},
    proto::{spec_to_proto, v1},
    spec::secret,
};

/// A VM as it is shown, built on demand and kept until the VM changes.
#[derive(Debug)]
pub struct View {
    /// As it was last committed.
    pub record: Arc<VmRecord>,
    /// Where it is.
    pub site: Site,
    /// vmadm's flat object.
    pub object: Map<String, Value>,
    /// The machine in the contract's form.
    pub spec: v1::VmSpec,
}

impl View {
    /// Of a record, and where its VM is.
    pub(super) fn new(record: Arc<VmRecord>, site: &Site) -> Self {
        let object = object::object(&record, site);
        let spec = spec_to_proto(&secret::shown(&record.spec));
        Self { record, site: site.clone(), object, spec }
    }
}
