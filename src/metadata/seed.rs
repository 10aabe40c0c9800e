//! Metadata for a guest without a metadata channel: the files of a NoCloud disk, for images whose cloud-init
//! has no SmartOS data source.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use ipnet::IpNet;

use crate::spec::{
    FlatObject, Scalar, VmSpec,
    addressing::{Interface, Route, host_name, interfaces},
};

/// The key of `internal_metadata` that asks for the disk, and its value.
const ASKED_BY: (&str, &str) = ("cloudinit_datasource", "nocloud");

/// Returns the files by name, for a VM that asks for them.
#[must_use]
pub(crate) fn files(uuid: Uuid, spec: &VmSpec) -> Option<Vec<(&'static str, String)>> {
    let asked = text(&spec.internal_metadata, ASKED_BY.0);
    if !asked.is_some_and(|asked| asked.eq_ignore_ascii_case(ASKED_BY.1)) {
        return None;
    }
    let own = |key: &str| text(&spec.customer_metadata, &format!("cloud-init:{key}"));
    // JSON is valid YAML, and needs no further quoting.
    let given = |key: &str, usual: Value| own(key).unwrap_or_else(|| format!("{usual:#}\n"));
    Some(vec![
        ("meta-data", format!("{:#}\n", meta_data(uuid, spec))),
        ("network-config", given("network-config", network_config(spec))),
        ("user-data", own("user-data").unwrap_or_else(|| "#cloud-config\n".to_owned())),
        ("vendor-data", own("vendor-data").unwrap_or_default()),
    ])
}

fn text(object: &FlatObject, key: &str) -> Option<String> {
    match object.get(key)? {
        Scalar::Text(text) => Some(text.clone()),
        Scalar::Bool(_) | Scalar::Number(_) => None,
    }
}

fn meta_data(uuid: Uuid, spec: &VmSpec) -> Value {
    let mut data = json!({"instance-id": uuid, "local-hostname": host_name(spec, &uuid.to_string())});
    if let Some(keys) = text(&spec.customer_metadata, "root_authorized_keys") {
        data["public-keys"] = keys.lines().filter(|line| !line.trim().is_empty()).collect();
    }
    data
}

/// Of version 2.
fn network_config(spec: &VmSpec) -> Value {
    let mut ethernets = Map::new();
    for interface in interfaces(spec, &spec.nics) {
        let name = link_name(&interface, &ethernets);
        let config = ethernet(&interface, &name);
        ethernets.insert(name, config);
    }
    json!({"version": 2, "ethernets": ethernets})
}

/// Bytes of a Linux link's name.
const LINK_NAME: usize = 15;

/// Returns the interface's own name, if it is valid in a guest and not taken.
fn link_name(interface: &Interface<'_>, taken: &Map<String, Value>) -> String {
    let plain = |name: &&str| {
        (1..=LINK_NAME).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
            && !name.bytes().all(|b| b == b'.')
    };
    let own = interface.nic.interface.as_deref().filter(plain).map(str::to_owned);
    let others = (interface.index..).map(|number| format!("net{number}"));
    own.into_iter().chain(others).find(|name| !taken.contains_key(name)).unwrap_or_default()
}

fn ethernet(interface: &Interface<'_>, name: &str) -> Value {
    let nic = interface.nic;
    // An interface with a static IPv6 address still learns its router from the network.
    let hears_routers =
        nic.is_autoconfigured() || interface.networks.iter().any(|net| matches!(net, IpNet::V6(_)));
    let mut config = json!({
        "match": {"macaddress": nic.mac},
        // Old versions of cloud-init want it with each match.
        "set-name": name,
        "dhcp4": nic.is_dynamic(),
        "accept-ra": hears_routers,
    });
    if !interface.networks.is_empty() {
        config["addresses"] = interface.networks.iter().map(ToString::to_string).collect();
    }
    if let Some(mtu) = nic.mtu {
        config["mtu"] = json!(mtu);
    }
    let routes = routes(interface);
    if !routes.is_empty() {
        config["routes"] = json!(routes);
    }
    if !interface.resolvers.is_empty() {
        config["nameservers"] = json!({"addresses": interface.resolvers});
    }
    config
}

fn routes(interface: &Interface<'_>) -> Vec<Value> {
    let shown = |route: &Route| match route.gateway {
        Some(gateway) => json!({"to": route.destination.to_string(), "via": gateway}),
        None => json!({"to": route.destination.to_string(), "scope": "link"}),
    };
    let main = interface.router.map(|router| {
        let mut route = json!({"to": "0.0.0.0/0", "via": router});
        if interface.router_off_net().is_some() {
            route["on-link"] = json!(true);
        }
        route
    });
    main.into_iter().chain(interface.routes.iter().map(shown)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(spec: Value) -> Option<Map<String, Value>> {
        let spec = serde_json::from_value(spec).unwrap();
        let files = files(Uuid::nil(), &spec)?;
        Some(files.into_iter().map(|(name, content)| (name.to_owned(), json!(content))).collect())
    }

    #[test]
    fn only_who_asks_has_one() {
        assert_eq!(of(json!({})), None);
        assert_eq!(of(json!({"internal_metadata": {"cloudinit_datasource": "smartos"}})), None);
        assert_eq!(of(json!({"customer_metadata": {"cloudinit_datasource": "nocloud"}})), None);
    }

    #[test]
    fn files_say_what_the_machine_is() {
        let asked = json!({"cloudinit_datasource": "nocloud"});
        let files = of(json!({"internal_metadata": asked, "alias": "web1", "resolvers": ["10.0.0.2"],
            "customer_metadata": {"root_authorized_keys": "ssh-ed25519 A a\nssh-ed25519 B b\n"},
            "nics": [{"mac": "02:00:00:00:00:01", "interface": "net0", "ips": ["10.0.0.5/24", "fd00::5/64"],
                "gateways": ["10.0.0.1"], "mtu": 1400}, {"mac": "02:00:00:00:00:02", "ip": "dhcp"}]}))
        .unwrap();
        let json = |name: &str| serde_json::from_str::<Value>(files[name].as_str().unwrap()).unwrap();
        assert_eq!(
            json("meta-data"),
            json!({"instance-id": Uuid::nil(), "local-hostname": "web1", "public-keys": ["ssh-ed25519 A a", "ssh-ed25519 B b"]})
        );
        let net0 = json!({"match": {"macaddress": "02:00:00:00:00:01"}, "set-name": "net0", "dhcp4": false, "accept-ra": true,
            "addresses": ["10.0.0.5/24", "fd00::5/64"], "mtu": 1400,
            "routes": [{"to": "0.0.0.0/0", "via": "10.0.0.1"}], "nameservers": {"addresses": ["10.0.0.2"]}});
        let net1 = json!({"match": {"macaddress": "02:00:00:00:00:02"}, "set-name": "net1", "dhcp4": true, "accept-ra": false});
        assert_eq!(json("network-config"), json!({"version": 2, "ethernets": {"net0": net0, "net1": net1}}));
        assert_eq!(files["user-data"], "#cloud-config\n");

        let own = json!({"cloud-init:user-data": "#!/bin/sh\n", "cloud-init:network-config": "version: 1\n",
            "cloud-init:vendor-data": "#cloud-config\n"});
        let files = of(json!({"internal_metadata": asked, "customer_metadata": own})).unwrap();
        assert_eq!(files["user-data"], "#!/bin/sh\n");
        assert_eq!(files["network-config"], "version: 1\n");
        assert_eq!(files["vendor-data"], "#cloud-config\n");
    }
}
