//! A VM as operators see it, in vmadm's flat object: one function for `get`, `list`, filters, events and `vm.json`.

use serde_json::{Map, Value};

use crate::{
    model::{Site, VmRecord, flat},
    spec::secret,
};

/// A VM as operators see it, in vmadm's flat object.
pub(in crate::agent) fn object(vm: &VmRecord, site: &Site) -> Map<String, Value> {
    flat(machine(&secret::shown(&vm.spec)), &vm.status(site))
}

/// Returns the same without secrets, for `vm.json`.
pub(in crate::agent) fn for_a_file(vm: &VmRecord, site: &Site) -> Value {
    let mut object = object(vm, site);
    secret::redact(&mut object);
    Value::Object(object)
}

pub(super) fn machine(spec: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}
