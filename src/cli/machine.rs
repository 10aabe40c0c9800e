//! A VM as vmadm prints it.

use serde_json::{Map, Value};

use crate::{
    model,
    proto::{spec_to_json, status_from_proto, time_from, v1},
};

/// vmadm's flat object of a VM.
pub(super) fn machine(vm: &v1::Vm) -> Map<String, Value> {
    model::flat(spec_to_json(&vm.spec.clone().unwrap_or_default()), &status_from_proto(vm))
}

/// vmadm's time stamps: milliseconds, UTC.
pub(super) fn iso(time: &prost_types::Timestamp) -> String {
    time_from(time).iso()
}
