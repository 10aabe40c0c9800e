//! What SmartOS's own code says of payloads for creation (`tests/smartos-oracle`: recorded answers of the whole of its
//! create), compared with the verdict here: the same, or another for a reason that the table names.

use std::collections::BTreeSet;

use serde_json::Value;
use zoneward::spec::machine_json;

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
        let file: Value =
            serde_json::from_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap()).unwrap();
        for case in file["cases"].as_array().unwrap() {
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
