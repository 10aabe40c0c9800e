//! An update payload: whatever it holds, it is read and applied without a panic, and what comes out is a
//! machine that an update with nothing in it leaves as it is.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use zoneward::{
    proto::{json_to_update, update_to_json},
    spec::{
        Brand, Mac, VmSpec,
        defaults::{self, Host},
        machine_json, update,
    },
};

const MACHINE: &str = r#"{"brand":"kvm","disks":[{"size":5},{"media":"cdrom","path":"/a"}],
    "nics":[{"nic_tag":"a","model":"virtio","mac":"2:0:0:0:0:1","ip":"10.0.0.1","netmask":"255.0.0.0"}],"tags":{"a":1}}"#;

static CURRENT: LazyLock<VmSpec> = LazyLock::new(|| {
    let mut spec = machine_json::parse(MACHINE.as_bytes()).expect("a machine").spec;
    defaults::complete(&mut spec, uuid::Uuid::from_u128(1), &host());
    spec
});

fn host() -> Host<'static> {
    Host { overhead: 256, disk_path: &|n| format!("/d{n}"), new_mac: &|| Mac::local([7; 6]) }
}

fuzz_target!(|data: &[u8]| {
    let Ok(object) = machine_json::parse_text(data) else { return };
    let Ok(patch) = update::read(object, Some(Brand::Kvm)) else { return };
    if let Ok(request) = json_to_update(patch.payload().clone()) {
        let _ = update_to_json(&request);
    }
    if let Ok(updated) = update::apply(&CURRENT, &patch, &host()) {
        let nothing = update::read(serde_json::Map::new(), Some(Brand::Kvm)).expect("nothing");
        let again = update::apply(&updated.spec, &nothing, &host()).expect("still a machine");
        assert_eq!(again.spec, updated.spec);
    }
});
