//! The metadata that a guest may read and write.

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::{
    agent::{
        context::{VmContext, command::Command},
        error::Error,
        guest::late_phases::LatePhases,
        request::{call::Call, reply::UpdateReply},
        view::View,
    },
    metadata::{self, Answer, Place, Route, route},
    model::{Phase, VmRecord},
    spec::{
        NicAddress, NicSpec, Scalar,
        addressing::{self, Interface, interfaces},
        primary,
        property::{Kind, VM, find},
    },
};

/// Serves the guest of a VM that has a hypervisor, until the handle is dropped.
pub(in crate::agent) fn serve(
    context: &VmContext,
    uuid: Uuid,
    late: Option<LatePhases>,
) -> AbortOnDropHandle<()> {
    let socket = context.layout_of(uuid).metadata();
    let source = Source { context: context.clone(), uuid, late };
    AbortOnDropHandle::new(tokio::spawn(async move { metadata::serve(&socket, &source).await }))
}

struct Source {
    context: VmContext,
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
        let vm = self.context.registry.get(self.uuid);
        vm.map_or(Answer::NotFound, |vm| value_of(&vm.view(), key))
    }

    async fn keys(&self) -> Vec<String> {
        self.context.vm(self.uuid).map(|vm| listed(&vm)).unwrap_or_default()
    }

    fn size(&self) -> usize {
        let vm = self.context.vm(self.uuid);
        vm.ok().and_then(|vm| serde_json::to_string(&vm.spec).ok()).map_or(0, |text| text.len())
    }

    async fn set(&self, key: &str, value: Option<&str>) -> Result<(), String> {
        let vm = self.context.vm(self.uuid).map_err(|error| error.to_string())?;
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
        // Named so that nobody takes the change for an operator's.
        let call = Call::by(format!("guest:{}", self.uuid));
        let update = |reply| Command::Update {
            call,
            etag: String::new(),
            payload,
            replace_lists: false,
            validate_only: false,
            reply,
        };
        let updated = match self.context.registry.get(self.uuid) {
            Ok(vm) => vm.ask::<UpdateReply>(update).await,
            Err(error) => Err(error),
        };
        match updated {
            // An absent key needs no removal.
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

/// A key's value.
fn value_of(view: &View, key: &str) -> Answer {
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

/// Returns a property of the machine; a structured one only where guests use it.
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

/// Returns the interfaces, with the defaults that a guest needs.
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

/// Fills `ips` and `gateways` from older forms.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metadata::seed, network::Lease};

    /// What DHCP, the metadata channel and a NoCloud disk say of one interface: addresses, router, name servers, routes.
    #[derive(Debug, PartialEq)]
    struct Told {
        address: Value,
        router: Value,
        resolvers: Vec<String>,
        routes: Vec<(String, Option<String>)>,
    }

    fn by_dhcp(vm: &VmRecord, index: usize) -> Told {
        let lease = Lease::of(&vm.spec.nics, index, &vm.spec, "usual", 1500).unwrap();
        let router = lease.router.map(|ip| ip.to_string());
        // The way to a router off the net is for DHCP's clients alone.
        let is_to_router = |to: &ipnet::Ipv4Net| Some(to.addr()) == lease.router;
        let routes = lease.routes.iter().filter(|(to, by)| !(is_to_router(to) && by.is_unspecified()));
        let routes = routes.map(|(to, by)| {
            (to.to_string(), Some(by).filter(|by| !by.is_unspecified()).map(ToString::to_string))
        });
        Told {
            address: json!(lease.v4.unwrap().to_string()),
            router: json!(router),
            resolvers: lease.resolvers.iter().map(ToString::to_string).collect(),
            routes: routes.collect(),
        }
    }

    fn by_metadata(vm: &VmRecord, index: usize) -> Told {
        let shown = nics(vm)[index].clone();
        let is_primary = shown["primary"] == true;
        let own = vm.spec.nics[index].addresses().next().unwrap().to_string();
        let nets: Vec<ipnet::IpNet> = vm.spec.nics[index].networks().collect();
        let prefixed = |text: &str| if text.contains('/') { text.to_owned() } else { format!("{text}/32") };
        let routes = routes(vm).as_array().unwrap().clone().into_iter().filter_map(|route| {
            let gateway = route["gateway"].as_str()?.to_owned();
            let on_link = route["linklocal"] == true;
            let is_own = if on_link {
                gateway == own
            } else {
                nets.iter().any(|net| net.contains(&gateway.parse::<std::net::IpAddr>().unwrap()))
            };
            is_own.then(|| (prefixed(route["dst"].as_str().unwrap()), (!on_link).then_some(gateway)))
        });
        Told {
            address: shown["ips"][0].clone(),
            router: if is_primary { shown["gateways"][0].clone() } else { Value::Null },
            resolvers: if is_primary { vm.spec.resolvers.clone() } else { Vec::new() },
            routes: routes.collect(),
        }
    }

    fn by_nocloud(vm: &VmRecord, index: usize) -> Told {
        let files = seed::files(vm.uuid, &vm.spec).unwrap();
        let (_, config) = files.into_iter().find(|(name, _)| *name == "network-config").unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        let link = config["ethernets"].as_object().unwrap().values().nth(index).unwrap().clone();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let of = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let (main, rest): (Vec<Value>, Vec<Value>) =
            of(&link["routes"]).into_iter().partition(|route| route["to"] == "0.0.0.0/0");
        Told {
            address: link["addresses"][0].clone(),
            router: main.first().map(|route| route["via"].clone()).unwrap_or_default(),
            resolvers: of(&link["nameservers"]["addresses"]).iter().filter_map(text).collect(),
            routes: rest.iter().map(|route| (text(&route["to"]).unwrap(), text(&route["via"]))).collect(),
        }
    }

    #[test]
    fn all_who_tell_a_guest_its_network_tell_the_same() {
        for spec in [
            json!({"nics": [{"mac": "02:00:00:00:00:01", "ips": ["10.0.0.5/24"], "gateways": ["10.0.0.1"]}]}),
            json!({"resolvers": ["10.0.0.2", "10.0.0.3"], "routes": {"10.8.0.0/16": "10.0.0.9", "10.9.0.1": "nics[1]",
                "10.7.0.0/16": "10.1.0.9"}, "nics": [
                {"mac": "02:00:00:00:00:01", "ip": "10.0.0.5", "netmask": "255.255.255.0", "gateway": "10.0.0.1"},
                {"mac": "02:00:00:00:00:02", "ips": ["10.1.0.5/16"], "gateways": ["10.1.0.1"], "primary": true}]}),
            json!({"nics": [{"mac": "02:00:00:00:00:01", "ips": ["10.0.0.5/32"], "gateways": ["192.168.7.1"]}]}),
        ] {
            let mut spec = spec;
            spec["internal_metadata"] = json!({"cloudinit_datasource": "nocloud"});
            let count = spec["nics"].as_array().unwrap().len();
            let vm: VmRecord = serde_json::from_value(json!({"uuid": Uuid::from_u128(1), "generation": 1, "spec": spec,
                "state": "stopped", "created": 0, "modified": 0, "machine": null, "exit": null, "vnc_port": null}))
            .unwrap();
            for index in 0..count {
                let dhcp = by_dhcp(&vm, index);
                assert_eq!(by_metadata(&vm, index), dhcp, "the metadata channel and DHCP");
                assert_eq!(by_nocloud(&vm, index), dhcp, "a NoCloud disk and DHCP");
            }
        }
    }
}
