//! What SmartOS's own code says of payloads for creation (`tests/smartos-oracle`: recorded answers of the whole of its
//! create), compared with the verdict here: the same, or another for a reason that the table names.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;
use zoneward::spec::{
    Brand, machine_json,
    property::{self, Given, Kind, Property},
};

use super::support::{real::run_with, simulated::Simulated};

/// Cases by their names without the brand, that are refused here and accepted there.
const STRICTER: &[(&str, &[&str])] = &[
    (
        "a value that QEMU or Linux does not have would fail at the first boot",
        &[
            "ram-zero",
            "cpu-shares-0",
            "cpu-shares-70000",
            "zfs-io-priority-20000",
            "vcpus-huge",
            "vnc-port-65536",
            "boot-unknown",
            "disk-driver-unknown",
            "disk-size-zero",
            "nic-model-unknown",
            "nic-model-e1000",
            "nic-mac-multicast",
            "bootrom-path",
            "disk-cdrom-no-path",
            "disk-two-boot",
        ],
    ),
    (
        "a value of the wrong type or form is coerced to something that nobody asked for there",
        &[
            "ram-array",
            "ram-true",
            "customer-metadata-array",
            "alias-newline",
            "hostname-long",
            "hostname-quote",
        ],
    ),
    (
        "a limit below the guest's memory is refused for one brand there, and raised for the other",
        &["max-physical-under-ram"],
    ),
    (
        "what is unknown, or not for creation, is dropped there with a warning in a log",
        &[
            "unknown-key",
            "nic-unknown-key",
            "disk-unknown-key",
            "hostbridge",
            "locality",
            "add-disks-on-create",
            "set-tags-on-create",
            "remove-nics-on-create",
        ],
    ),
    ("an image decides the size of its disk", &["disk-image-and-size", "disk-image-size-without-image"]),
];

/// Cases that are accepted here and refused there.
const LAXER: &[(&str, &[&str])] = &[
    (
        "the host decides, and ValidateVm asks it: tags, pools, images",
        &["nic-tag-unknown", "nic-mtu-1400", "zpool-unknown", "disk-image-wrong-size", "disk-image-unknown"],
    ),
    (
        "null and \"\" are nothing, as in other properties of theirs",
        &["ram-null", "ram-empty-text", "autoboot-null"],
    ),
    ("0 is false, as 1 is true there", &["autoboot-0"]),
    (
        "it is for the other brand, and has no effect",
        &["flexible-disk-size-text", "disk-guest-block-size-bad"],
    ),
    ("their own code for volumes takes it", &["disk-refreservation-auto"]),
];

fn has(table: &[(&str, &[&str])], case: &str) -> bool {
    table.iter().any(|(_, cases)| cases.contains(&case))
}

#[test]
fn payloads_end_as_on_smartos_or_for_a_reason() {
    let (mut compared, mut differing, mut wrong) = (0, BTreeSet::new(), Vec::new());
    for entry in std::fs::read_dir("tests/smartos-oracle").unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        if !file.contains("-create-") {
            continue;
        }
        for case in cases(&file) {
            let Some(payload) = case["payload"].as_object() else { continue };
            let name = case["name"].as_str().unwrap();
            let short = name.split_once("-create-").unwrap().1;
            let accepted = case["create"].as_str().unwrap().starts_with("accepted");
            let found = machine_json::parse_object(payload.clone()).all_violations();
            compared += 1;
            if accepted == found.is_empty() {
                continue;
            }
            differing.insert(short.to_owned());
            if !has(if accepted { STRICTER } else { LAXER }, short) {
                let ours: Vec<_> = found.iter().map(ToString::to_string).collect();
                wrong.push(format!("{name}: {} there, and here {ours:?}", case["create"]));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(compared > 250, "{compared}");
    let idle = STRICTER.iter().chain(LAXER).flat_map(|(_, cases)| *cases);
    let idle: Vec<_> = idle.filter(|case| !differing.contains(**case)).collect();
    assert!(idle.is_empty(), "these end as on SmartOS: {idle:?}");
}

/// Updates that are valid here only, or there only.
const UPDATES: &[(&str, &[&str])] = &[
    ("disks of both brands grow here", &["kvm-update-update-disks-size"]),
    ("both brands have firmware here", &["kvm-update-bootrom"]),
    (
        "it is for the other brand, and has no effect",
        &["kvm-update-add-pci-devices", "kvm-update-pci-devices", "kvm-update-update-disks-shrink"],
    ),
    (
        "lists are changed by add_, update_ and remove_, so that none is lost by mistake",
        &["bhyve-update-pci-devices"],
    ),
];

/// The same for updates, without a VM, as `validate update` judges them here and there.
#[tokio::test]
async fn updates_end_as_on_smartos_or_for_a_reason() {
    let agent = Simulated::start().await;
    let (mut differing, mut wrong) = (BTreeSet::new(), Vec::new());
    for brand in ["kvm", "bhyve"] {
        for case in cases(&format!("{brand}-update.json")) {
            let name = case["name"].as_str().unwrap();
            let (endpoint, payload) =
                (format!("unix:{}", agent.socket().display()), case["payload"].to_string());
            let output = tokio::task::spawn_blocking(move || {
                let mut vmadm = Command::new(env!("CARGO_BIN_EXE_vmadm"));
                vmadm.env("ZONEWARD_ENDPOINT", endpoint).args(["validate", "update", brand, "-f", "-"]);
                run_with(&mut vmadm, &payload)
            });
            let output = output.await.unwrap();
            if case["valid"] == output.status.success() {
                continue;
            }
            differing.insert(name.to_owned());
            if !has(UPDATES, name) {
                let ours = String::from_utf8_lossy(&output.stderr);
                wrong.push(format!("{name}: {} there, and here {ours}", case["valid"]));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let idle: Vec<_> =
        UPDATES.iter().flat_map(|(_, cases)| *cases).filter(|case| !differing.contains(**case)).collect();
    assert!(idle.is_empty(), "these end as on SmartOS: {idle:?}");
}

/// Properties that differ.
const PROPERTIES: &[(&str, &[&str])] = &[
    (
        "SmartOS's loader reads it and shows it never",
        &["allowed_address", "debug_id", "ip_type", "disks.*.zonexml_size"],
    ),
    ("of old containers; here it would be a typing error for nics.*.gateway", &["default_gateway"]),
    ("of vmadm receive alone", &["create_only"]),
    ("read as zpool", &["zfs_storage_pool_name"]),
    (
        "accepted without effect, as of another brand",
        &["add_filesystems", "update_filesystems", "remove_filesystems", "zonename"],
    ),
    ("both brands have it here", &["bootrom"]),
    ("disks of both brands grow here", &["disks.*.size"]),
    (
        "lists are given at creation, and changed by add_, update_ and remove_",
        &["pci_devices", "add_pci_devices"],
    ),
];

fn cases(file: &str) -> Vec<Value> {
    let file = std::fs::read_to_string(format!("tests/smartos-oracle/{file}")).unwrap();
    let mut file: Value = serde_json::from_str(&file).unwrap();
    serde_json::from_value(file["cases"].take()).unwrap()
}

/// Every property of theirs is one here, given when it is given there.
#[test]
fn properties_are_those_of_smartos() {
    let file = std::fs::read_to_string("tests/smartos-oracle/properties.json").unwrap();
    let file: Value = serde_json::from_str(&file).unwrap();
    let (mut differing, mut wrong) = (BTreeSet::new(), Vec::new());
    for (path, theirs) in file["properties"].as_object().unwrap() {
        let Some(ours) = find(path) else {
            differing.insert(path.as_str());
            wrong.extend((!has(PROPERTIES, path)).then(|| format!("{path}: unknown here")));
            continue;
        };
        for (brand, name) in [(Brand::Kvm, "kvm"), (Brand::Bhyve, "bhyve")] {
            let allowed = theirs["allowed"][name].as_array().cloned().unwrap_or_default();
            let is_allowed = |at: &str| allowed.iter().any(|allowed| allowed == at);
            let there = (is_allowed("create") || is_allowed("add"), is_allowed("update"));
            let here = match ours.given {
                _ if !ours.is_for(brand) => (false, false),
                Given::Always => (true, true),
                Given::AtCreation => (true, false),
                Given::InUpdates => (false, true),
                Given::Never | Given::Foreign | Given::OtherBrands => (false, false),
            };
            if there != here {
                differing.insert(path);
                let fault = format!("{path} of {name}: (create, update) {there:?} there, {here:?} here");
                wrong.extend((!has(PROPERTIES, path)).then_some(fault));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let idle: Vec<_> =
        PROPERTIES.iter().flat_map(|(_, paths)| *paths).filter(|path| !differing.contains(**path)).collect();
    assert!(idle.is_empty(), "these are as on SmartOS: {idle:?}");
}

fn find(path: &str) -> Option<&'static Property> {
    let mut parts = path.split(".*.");
    let mut found = property::find(property::VM, parts.next()?)?;
    for part in parts {
        let Kind::Objects(items) = found.kind else { return None };
        found = property::find(items, part)?;
    }
    Some(found)
}
