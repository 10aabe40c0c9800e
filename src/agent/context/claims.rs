//! Exclusive claims of the host's VMs: addresses on a network, VNC ports, and their shares of the host.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use uuid::Uuid;

use crate::{
    agent::{
        context::capacity::{Budget, Capacity},
        error::Error,
    },
    spec::{Mac, NicSpec, VmSpec},
};

/// Something that only one VM may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Claim {
    Mac(Mac),
    /// On a network and VLAN.
    Ip(String, i32, IpAddr),
    Vrid(String, i32, i32),
    VncPort(i32),
}

impl Claim {
    fn of(spec: &VmSpec) -> Vec<(String, Self)> {
        let mut claims = Vec::new();
        if let Some(port) = spec.vnc_port.filter(|port| *port > 0) {
            claims.push(("vnc_port".to_owned(), Self::VncPort(port)));
        }
        claims.extend(Self::of_nics(&spec.nics));
        claims
    }

    fn of_nics(nics: &[NicSpec]) -> Vec<(String, Self)> {
        let mut claims = Vec::new();
        for (index, nic) in nics.iter().enumerate() {
            let (tag, vlan) = (nic.nic_tag.clone().unwrap_or_default(), nic.vlan_id.unwrap_or(0));
            // A VRRP group has one MAC address on all its hosts, so the group is claimed.
            match (nic.vrrp_vrid, nic.mac) {
                (Some(id), _) => {
                    claims.push((format!("nics.{index}.vrrp_vrid"), Self::Vrid(tag.clone(), vlan, id)));
                }
                (None, Some(mac)) => claims.push((format!("nics.{index}.mac"), Self::Mac(mac))),
                (None, None) => {}
            }
            for ip in nic.addresses() {
                claims.push((format!("nics.{index}.ip"), Self::Ip(tag.clone(), vlan, ip)));
            }
        }
        claims
    }
}

/// Who has what.
#[derive(Debug)]
pub(in crate::agent) struct Claims(Mutex<Held>);

#[derive(Debug)]
struct Held {
    claims: HashMap<Claim, Uuid>,
    budget: Budget,
}

impl Claims {
    pub(in crate::agent) fn new(budget: Budget) -> Self {
        Self(Mutex::new(Held { claims: HashMap::new(), budget }))
    }

    /// Counts what an existing VM has, without refusing it. `running` are the interfaces that it has until
    /// its next boot.
    pub(in crate::agent) fn put(&self, uuid: Uuid, spec: &VmSpec, running: &[NicSpec]) {
        self.lock().hold(uuid, spec, Claim::of(spec), running);
    }

    /// Claims what a VM's machine needs, and releases what the VM had before; all or nothing. Addresses of
    /// VMs in `ignored` do not count.
    pub(in crate::agent) fn take(
        &self,
        uuid: Uuid,
        spec: &VmSpec,
        running: &[NicSpec],
        ignored: impl Fn(Uuid) -> bool,
    ) -> Result<(), Error> {
        let wanted = Claim::of(spec);
        let mut held = self.lock();
        for (field, claim) in &wanted {
            if let Some(owner) = held.claims.get(claim).filter(|owner| **owner != uuid && !ignored(**owner)) {
                return Err(Error::Conflict { field: field.clone(), owner: *owner });
            }
        }
        held.budget.check(uuid, spec)?;
        held.hold(uuid, spec, wanted, running);
        Ok(())
    }

    /// Releases all claims of a VM.
    pub(in crate::agent) fn release(&self, uuid: Uuid) {
        let mut held = self.lock();
        held.claims.retain(|_, owner| *owner != uuid);
        held.budget.release(uuid);
    }

    /// Counts the coming bytes of an upload, or fails.
    pub(in crate::agent) fn begin_upload(&self, uuid: Uuid, bytes: u64) -> Result<(), Error> {
        self.lock().budget.begin_upload(uuid, bytes)
    }

    /// Records the size of a VM's uploads.
    pub(in crate::agent) fn put_uploads(&self, uuid: Uuid, bytes: u64) {
        self.lock().budget.set_uploads(uuid, bytes);
    }

    /// Returns the host's capacity and its use.
    pub(in crate::agent) fn capacity(&self) -> Vec<Capacity> {
        self.lock().budget.report()
    }

    /// Whether an interface has that address.
    pub(in crate::agent) fn has_mac(&self, mac: Mac) -> bool {
        self.lock().claims.contains_key(&Claim::Mac(mac))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn hold(&mut self, uuid: Uuid, spec: &VmSpec, claims: Vec<(String, Claim)>, running: &[NicSpec]) {
        self.claims.retain(|_, owner| *owner != uuid);
        let running = Claim::of_nics(running);
        self.claims.extend(claims.into_iter().chain(running).map(|(_, claim)| (claim, uuid)));
        self.budget.set(uuid, spec);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::machine_json;

    fn spec(text: &str) -> VmSpec {
        machine_json::parse(format!(r#"{{"brand":"kvm",{text}}}"#).as_bytes()).unwrap().spec
    }

    fn field(result: Result<(), Error>) -> String {
        match result.unwrap_err() {
            Error::Conflict { field, .. } => field,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn one_vm_has_an_address() {
        let claims = Claims::new(Budget::new(&crate::config::Capacity::default(), std::path::Path::new("/")));
        let nobody = |_: Uuid| false;
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let nic = |rest: &str| format!(r#""nics":[{{"nic_tag":"x","model":"virtio",{rest}}}]"#);
        claims
            .take(a, &spec(&nic(r#""mac":"2:0:0:0:0:1","ip":"10.0.0.1","netmask":"255.0.0.0""#)), &[], nobody)
            .unwrap();
        assert_eq!(
            field(claims.take(b, &spec(&nic(r#""mac":"02:00:00:00:00:01""#)), &[], nobody)),
            "nics.0.mac"
        );
        let same_ip = spec(&nic(r#""ips":["10.0.0.1/24"]"#));
        assert_eq!(field(claims.take(b, &same_ip, &[], nobody)), "nics.0.ip");
        claims.take(b, &same_ip, &[], |owner| owner == a).unwrap();
        let vlan = spec(&nic(r#""vlan_id":7,"ips":["10.0.0.1/24"]"#));
        claims.take(b, &vlan, &[], nobody).unwrap();
        claims.take(a, &spec(r#""vnc_port":5901"#), &[], nobody).unwrap();
        claims.take(b, &spec(&nic(r#""mac":"2:0:0:0:0:1""#)), &[], nobody).unwrap();
        assert_eq!(field(claims.take(b, &spec(r#""vnc_port":5901"#), &[], nobody)), "vnc_port");
        assert!(claims.has_mac("2:0:0:0:0:1".parse().unwrap()), "a refused take gives nothing back");
        claims.release(b);
        assert!(!claims.has_mac("2:0:0:0:0:1".parse().unwrap()));
        claims.take(b, &spec(r#""vnc_port":0"#), &[], nobody).unwrap();
        claims.take(a, &spec(r#""vnc_port":0"#), &[], nobody).unwrap();

        // What a VM still runs with is its own until it is stopped.
        let running = spec(&nic(r#""mac":"2:0:0:0:0:9","ips":["10.0.0.9/24"]"#)).nics;
        claims.put(a, &spec(r#""vnc_port":0"#), &running);
        let wanted = spec(&nic(r#""ips":["10.0.0.9/24"]"#));
        assert_eq!(field(claims.take(b, &wanted, &[], nobody)), "nics.0.ip");
        claims.put(a, &spec(r#""vnc_port":0"#), &[]);
        claims.take(b, &wanted, &[], nobody).unwrap();
    }
}
