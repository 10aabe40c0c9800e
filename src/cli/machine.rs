//! A VM as vmadm prints it: one flat object.

use serde_json::{Map, Value, json};

use crate::{
    proto::{
        spec_to_json,
        v1::{self, ExitReason, VmState as Wire},
    },
    spec::{Brand, VmState},
};

/// The machine JSON of a VM, with what is known of its state.
pub(super) fn machine(vm: &v1::Vm) -> Map<String, Value> {
    let spec = vm.spec.clone().unwrap_or_default();
    let mut object = spec_to_json(&spec);
    let status = vm.status.clone().unwrap_or_default();
    let state = self::state(status.state());
    let mut put = |key: &str, value: Value| {
        object.insert(key.to_owned(), value);
    };
    put("zonename", json!(vm.uuid));
    put("zonepath", json!(status.zonepath));
    if let Some((_, brand)) = Brand::NAMES.iter().find(|(name, _)| *name == spec.brand) {
        put("type", json!(brand.type_name()));
    }
    put("state", json!(state.as_str()));
    put("zone_state", json!(state.zone_state()));
    if let Some(pid) = status.pid {
        put("pid", json!(pid));
    }
    for (key, time) in [
        ("create_timestamp", &status.create_time),
        ("last_modified", &status.last_modified),
        ("boot_timestamp", &status.boot_time),
    ] {
        if let Some(time) = time {
            put(key, json!(iso(time)));
        }
    }
    if let Some(accelerator) = &status.accelerator {
        put("accelerator", json!(accelerator));
    }
    if !status.restrictions.is_empty() {
        put("restrictions", restrictions(&status.restrictions));
    }
    if !status.limits.is_empty() {
        put("limits", limits(&status.limits));
    }
    if status.transition_to() != Wire::Unspecified {
        put("transition_to", json!(self::state(status.transition_to()).as_str()));
    }
    if let Some(expire) = &status.transition_expire {
        put("transition_expire", json!(iso(expire)));
    }
    if let Some(resets) = status.resets {
        put("init_restarts", json!(resets));
    }
    if let Some(exit) = &status.exit {
        put("exit_status", json!(exit.status));
        if let Some(time) = &exit.time {
            put("exit_timestamp", json!(iso(time)));
        }
        put("exit_reason", json!(exit_reason(exit.reason())));
        if !exit.detail.is_empty() {
            put("exit_detail", json!(exit.detail));
        }
    }
    put("hvm", json!(true));
    put("etag", json!(vm.etag));
    for name in ["customer_metadata", "internal_metadata", "tags", "routes"] {
        object.entry(name).or_insert_with(|| json!({}));
    }
    for name in ["disks", "nics", "resolvers"] {
        object.entry(name).or_insert_with(|| json!([]));
    }
    object
}

/// What a hypervisor is kept from: `{"NETWORK": ["seccomp"], ...}`, or why not.
pub(super) fn restrictions(all: &[v1::Restriction]) -> Value {
    let entry = |found: &v1::Restriction| {
        let name = found.kind().as_str_name().trim_start_matches("KIND_").to_owned();
        let value = if found.enforced { json!(found.mechanisms) } else { json!({"missing": found.reason}) };
        (name, value)
    };
    Value::Object(all.iter().map(entry).collect())
}

/// What bounds a VM: `{"max_lwps": "cgroup v2 pids.max=2000", ...}`, or why nothing does.
pub(super) fn limits(all: &[v1::Limit]) -> Value {
    let entry = |limit: &v1::Limit| {
        let value = if limit.effective { json!(limit.mechanism) } else { json!({"missing": limit.reason}) };
        (limit.property.clone(), value)
    };
    Value::Object(all.iter().map(entry).collect())
}

/// vmadm's word for a state; one that is newer than this program counts as unknown, so as lost.
pub(super) fn state(state: Wire) -> VmState {
    match state {
        Wire::Provisioning => VmState::Provisioning,
        Wire::Stopped => VmState::Stopped,
        Wire::Starting => VmState::Starting,
        Wire::Running => VmState::Running,
        Wire::Stopping => VmState::Stopping,
        Wire::Deleting => VmState::Deleting,
        Wire::Failed => VmState::Failed,
        Wire::Paused => VmState::Paused,
        Wire::Suspended => VmState::Suspended,
        Wire::Lost | Wire::Unspecified => VmState::Lost,
    }
}

fn exit_reason(reason: ExitReason) -> String {
    reason.as_str_name().trim_start_matches("EXIT_REASON_").to_lowercase()
}

/// vmadm's time stamps: milliseconds, UTC.
pub(super) fn iso(time: &prost_types::Timestamp) -> String {
    jiff::Timestamp::new(time.seconds, time.nanos).map(|time| format!("{time:.3}")).unwrap_or_default()
}
