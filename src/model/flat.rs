//! vmadm's flat object: a VM as `get`, lists, filters, events and `vm.json` show it. Only this module builds
//! it.

use std::sync::OnceLock;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{exit::Exit, time::Timestamp, vm::VmRecord};
use crate::spec::{Brand, Enforcement, LimitReport, VmState, property::VM};

/// The state of a VM beside its machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Its permanent name.
    pub uuid: Uuid,
    /// The tag that makes a change conditional.
    pub etag: String,
    /// The place of its zone.
    pub site: Site,
    /// Its lifecycle state.
    pub state: VmState,
    /// When it was created.
    pub created: Timestamp,
    /// When it last changed.
    pub modified: Timestamp,
    /// Its hypervisor, while it has one.
    pub run: Option<RunStatus>,
    /// How the last run ended.
    pub exit: Option<Exit>,
    /// The state that it is changing to, and the deadline.
    pub transition: Option<(VmState, Option<Timestamp>)>,
}

/// The place of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// The directory of its zone on the host.
    pub zonepath: String,
    /// The host's UUID.
    pub server_uuid: Uuid,
}

/// The state of a hypervisor.
#[derive(Clone, Debug, PartialEq)]
pub struct RunStatus {
    /// On the host.
    pub pid: i32,
    /// When it was started.
    pub booted: Timestamp,
    /// What runs guest code: `kvm` or `tcg`.
    pub accelerator: String,
    /// The program and its version.
    pub hypervisor: String,
    /// Its restrictions.
    pub enforcements: Vec<Enforcement>,
    /// Its limits.
    pub limits: Vec<LimitReport>,
    /// How often it was reset.
    pub resets: u64,
}

impl VmRecord {
    /// What is known of the VM at `site`.
    #[must_use]
    pub fn status(&self, site: &Site) -> Status {
        let run = self.machine.as_ref().map(|run| RunStatus {
            pid: run.pid,
            booted: run.booted,
            accelerator: run.accelerator.clone(),
            hypervisor: run.hypervisor.clone(),
            enforcements: run.enforcements.clone(),
            limits: run.limits.clone(),
            resets: run.resets,
        });
        Status {
            uuid: self.uuid,
            etag: self.etag(),
            site: site.clone(),
            state: self.state,
            created: self.created,
            modified: self.modified,
            run,
            exit: self.exit.clone(),
            transition: self.transition(),
        }
    }
}

/// Completes a machine JSON to the flat object.
#[must_use]
pub(crate) fn flat(machine: Map<String, Value>, status: &Status) -> Map<String, Value> {
    let mut object = machine;
    let brand = object.get("brand").and_then(Value::as_str);
    let brand =
        Brand::NAMES.iter().find(|(name, _)| Some(*name) == brand).map(|(_, brand)| brand.type_name());
    let mut put = |name: &str, value: Value| {
        object.insert(name.to_owned(), value);
    };
    put("zonename", json!(status.uuid));
    put("zonepath", json!(status.site.zonepath));
    put("server_uuid", json!(status.site.server_uuid));
    put("type", json!(brand));
    put("state", json!(status.state));
    put("zone_state", json!(status.state.zone_state()));
    put("create_timestamp", json!(status.created.iso()));
    put("last_modified", json!(status.modified.iso()));
    if let Some(run) = &status.run {
        put("pid", json!(run.pid));
        put("boot_timestamp", json!(run.booted.iso()));
        put("accelerator", json!(run.accelerator));
        put("hypervisor", json!(run.hypervisor));
        put("restrictions", restrictions(&run.enforcements));
        put("limits", limits(&run.limits));
        put("init_restarts", json!(run.resets));
    }
    if let Some((to, expire)) = status.transition {
        put("transition_to", json!(to));
        if let Some(expire) = expire {
            put("transition_expire", json!(expire.iso()));
        }
    }
    if let Some(exit) = &status.exit {
        put("exit_status", json!(exit.status));
        put("exit_timestamp", json!(exit.time.iso()));
        put("exit_reason", json!(exit.reason));
        if !exit.detail.is_empty() {
            put("exit_detail", json!(exit.detail));
        }
    }
    put("hvm", json!(true));
    put("etag", json!(status.etag));
    for name in ["customer_metadata", "internal_metadata", "tags", "routes"] {
        object.entry(name).or_insert_with(|| json!({}));
    }
    for name in ["disks", "nics", "resolvers"] {
        object.entry(name).or_insert_with(|| json!([]));
    }
    for (name, value) in foreign() {
        object.entry(*name).or_insert_with(|| value.clone());
    }
    object
}

/// The properties that only SmartOS's VMs have, as VMs here show them: empty.
fn foreign() -> &'static [(&'static str, Value)] {
    static SHOWN: OnceLock<Vec<(&str, Value)>> = OnceLock::new();
    SHOWN.get_or_init(|| {
        let shown = VM.iter().filter_map(|property| Some((property.name, property.shown_as()?)));
        shown.filter_map(|(name, text)| Some((name, serde_json::from_str(text).ok()?))).collect()
    })
}

/// Returns the restrictions: `{"NETWORK": ["seccomp"], ...}`, or why one is missing.
#[must_use]
pub(crate) fn restrictions(all: &[Enforcement]) -> Value {
    let entry = |found: &Enforcement| {
        let value =
            if found.is_enforced() { json!(found.mechanisms) } else { json!({"missing": found.reason}) };
        (found.restriction.as_str().to_owned(), value)
    };
    Value::Object(all.iter().map(entry).collect())
}

/// Returns a VM's limits: `{"max_lwps": "cgroup v2 pids.max=2000", ...}`, or why one is missing.
#[must_use]
pub(crate) fn limits(all: &[LimitReport]) -> Value {
    let entry = |limit: &LimitReport| {
        let value =
            if limit.is_effective() { json!(limit.mechanism) } else { json!({"missing": limit.reason}) };
        (limit.property.clone(), value)
    };
    Value::Object(all.iter().map(entry).collect())
}
