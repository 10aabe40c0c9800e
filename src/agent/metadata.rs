//! What a guest is told about its machine, and may write into it.

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{Agent, call::Call, error::Error, late_phases::LatePhases, registry::View};
use crate::{
    metadata::{self, Answer, Place, Route, route},
    spec::{
        NicAddress, NicSpec, Scalar,
        addressing::{self, Interface, interfaces},
        primary,
        property::{Kind, VM, find},
    },
    store::{Phase, VmRecord},
};

/// Serves the guest of a VM that has a hypervisor, until the handle is dropped.
pub(super) fn serve(agent: &Agent, uuid: Uuid, late: Option<LatePhases>) -> AbortOnDropHandle<()> {
    let socket = agent.inner.layout.vm(uuid).metadata();
    let source = Source { agent: agent.clone(), uuid, late };
    AbortOnDropHandle::new(tokio::spawn(async move { metadata::serve(&socket, &source).await }))
}

struct Source {
    agent: Agent,
    uuid: Uuid,
    late: Option<LatePhases>,
}

#[async_trait]
impl metadata::Source for Source {
    async fn first_request(&self) {
        if let Some(late) = &self.late {
            late.reached(Phase::GuestMetadata).await;
        }
    }

    async fn get(&self, key: &str) -> Answer {
        let vm = self.agent.inner.registry.get(self.uuid);
        vm.map_or(Answer::NotFound, |vm| look(&vm.view(), key))
    }

    async fn keys(&self) -> Vec<String> {
        self.agent.vm(self.uuid).map(|vm| listed(&vm)).unwrap_or_default()
    }

    fn size(&self) -> usize {
        let vm = self.agent.vm(self.uuid);
        vm.ok().and_then(|vm| serde_json::to_string(&vm.spec).ok()).map_or(0, |text| text.len())
    }

    async fn set(&self, key: &str, value: Option<&str>) -> Result<(), String> {
        let vm = self.agent.vm(self.uuid).map_err(|error| error.to_string())?;
        let namespaces = namespaces(&vm);
        let refused = |namespace: &str| Err(format!("Cannot update the \"{namespace}\" Namespace."));
        let place = match route(key, &namespaces) {
            Route::Machine(_) => return refused("sdc"),
            Route::Metadata { namespace: Some(namespace), .. } => return refused(namespace),
            Route::Metadata { place: Place::Customer, .. } => "customer_metadata",
            Route::Metadata { place: Place::Internal, .. } => "internal_metadata",
        };
        let payload = match value {
            Some(value) => json!({ format!("set_{place}"): { key: value } }),
            None => json!({ format!("remove_{place}"): [key] }),
        };
        let Value::Object(payload) = payload else { return Err("no payload".to_owned()) };
        // In the journal, so that nobody takes it for an operator's.
        let call = Call { actor: format!("guest:{}", self.uuid), ..Call::own() };
        match self.agent.update_vm(call, self.uuid, String::new(), payload, false).await {
            // What is not there needs not to be removed.
            Ok(_) => Ok(()),
            Err(Error::Invalid(_)) if value.is_none() => Ok(()),
            Err(Error::Invalid(violations)) => {
                Err(violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

fn namespaces(vm: &VmRecord) -> Vec<String> {
    let declared = vm.spec.other.get("internal_metadata_namespaces").and_then(Value::as_array);
    let names = declared.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned));
    names.collect()
}

/// What a key has.
fn look(view: &View, key: &str) -> Answer {
    let vm = &view.record;
    match route(key, &namespaces(vm)) {
        Route::Machine(name) => machine(view, name),
        Route::Metadata { place: Place::Customer, .. } => scalar(vm.spec.customer_metadata.get(key)),
        Route::Metadata { place: Place::Internal, .. } => scalar(vm.spec.internal_metadata.get(key)),
    }
}

fn scalar(value: Option<&Scalar>) -> Answer {
    Answer::of(value.and_then(|value| serde_json::to_value(value).ok()).as_ref())
}

/// A fact about the machine: what has structure only where a guest has a use for it.
fn machine(view: &View, name: &str) -> Answer {
    let vm = &view.record;
    match name {
        "nics" => Answer::json(&nics(vm)),
        "resolvers" => Answer::json(view.object.get(name).unwrap_or(&json!([]))),
        "routes" => Answer::json(&routes(vm)),
        "operator-script" => scalar(vm.spec.internal_metadata.get(name)),
        "volumes" => scalar(vm.spec.internal_metadata.get("sdc:volumes")),
        "customer_metadata" | "internal_metadata" | "tags" => Answer::Nested,
        name => match name.strip_prefix("tags.") {
            Some(tag) => scalar(vm.spec.tags.get(tag)),
            None if find(VM, name).is_some_and(|property| matches!(property.kind, Kind::Secret(_))) => {
                Answer::NotFound
            }
            None => Answer::of(view.object.get(name)),
        },
    }
}

/// The interfaces, with the defaults that a guest needs to be told.
fn nics(vm: &VmRecord) -> Value {
    let Ok(Value::Array(mut nics)) = serde_json::to_value(&vm.spec.nics) else { return json!([]) };
    let primary = primary(&vm.spec.nics);
    let shown = nics.iter_mut().filter_map(Value::as_object_mut);
    for (index, (shown, nic)) in shown.zip(&vm.spec.nics).enumerate() {
        shown.entry("vlan_id").or_insert(json!(0));
        if Some(index) == primary {
            shown.insert("primary".to_owned(), json!(true));
        }
        complete_addresses(shown, nic);
    }
    Value::Array(nics)
}

/// `ips` and `gateways` from their older forms.
fn complete_addresses(shown: &mut Map<String, Value>, nic: &NicSpec) {
    let ips: Vec<String> = match nic.ip {
        Some(NicAddress::Dhcp) => vec![NicAddress::Dhcp.to_string()],
        _ => nic.networks().map(|net| net.to_string()).collect(),
    };
    if nic.ips.is_empty() && !ips.is_empty() {
        shown.insert("ips".to_owned(), json!(ips));
    }
    if let Some(gateway) = nic.gateway.filter(|_| nic.gateways.is_empty()) {
        shown.insert("gateways".to_owned(), json!([gateway]));
    }
}

/// `{"10.2.0.0/16": "nics[1]"}` and `{"10.2.0.0/16": "10.1.0.1"}` as the guest wants them.
fn routes(vm: &VmRecord) -> Value {
    let interfaces = interfaces(&vm.spec, &vm.spec.nics);
    let of = |interface: &Interface<'_>| {
        let own = interface.nic.addresses().next();
        let shown = |route: &addressing::Route| {
            let gateway = route.gateway.or(own)?;
            Some(json!({"linklocal": route.gateway.is_none(), "dst": route.shown(), "gateway": gateway}))
        };
        interface.routes.iter().filter_map(shown).collect::<Vec<_>>()
    };
    interfaces.iter().flat_map(of).collect()
}

/// The keys that a guest may list: never the machine's.
fn listed(vm: &VmRecord) -> Vec<String> {
    let namespaces = namespaces(vm);
    let is_internal =
        |key: &String| matches!(route(key, &namespaces), Route::Metadata { place: Place::Internal, .. });
    let customer = vm.spec.customer_metadata.keys().filter(|key| !is_internal(key));
    customer.chain(vm.spec.internal_metadata.keys().filter(|key| is_internal(key))).cloned().collect()
}
