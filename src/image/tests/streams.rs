//! ZFS streams, most of them ZFS's own, with the volume or the refusal that each must give.

use std::{fs, path::Path};

use serde_json::Value;

use super::{super::fault::FaultKind, Conversion, LIMIT, digest, to_file};

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zfs-streams"))
}

fn kind(name: &str) -> FaultKind {
    match name {
        "bad-magic" => FaultKind::UnknownFormat,
        "bad-header" | "bad-record" => FaultKind::BadRecord,
        "checksum" => FaultKind::Checksum,
        "truncated" => FaultKind::Truncated,
        "bad-compressed" => FaultKind::BadCompressed,
        "unsupported-compression" | "unsupported-feature" => FaultKind::Unsupported,
        "encrypted" => FaultKind::Encrypted,
        "resuming" => FaultKind::Resuming,
        "redacted" => FaultKind::Redacted,
        "needs-origin" => FaultKind::NeedsOrigin,
        "not-a-zvol" => FaultKind::NotADisk,
        "no-volsize" => FaultKind::NoSize,
        "bad-container" => FaultKind::BadContainer,
        other => panic!("a new kind of error: {other}"),
    }
}

/// A machine that vmadm sent is no image.
fn is_machine(case: &Value) -> bool {
    case["file"].as_str().unwrap().contains(".bundle")
}

#[test]
fn each_stream_gives_its_volume_or_its_refusal() {
    let manifest: Value = serde_json::from_slice(&fs::read(folder().join("manifest.json")).unwrap()).unwrap();
    let cases = manifest["cases"].as_array().unwrap();
    let mut wrong = Vec::new();
    for case in cases.iter().filter(|case| !is_machine(case)) {
        let (id, output) = (case["id"].as_str().unwrap(), tempfile::tempfile().unwrap());
        let mut conversion = Conversion { limit: LIMIT, ..Conversion::default() };
        let read = |file: &Value| fs::read(folder().join(file.as_str().unwrap())).unwrap();
        for base in case["base"].as_array().into_iter().flatten() {
            conversion.origin = to_file(&read(base), &output, &conversion).unwrap().guid;
        }
        let found = to_file(&read(&case["file"]), &output, &conversion);
        let told = found.as_ref().map_or_else(ToString::to_string, |found| format!("{found:?}"));
        let is_right = match (&found, &case["expect"]["error"]) {
            (Ok(found), Value::Null) => {
                let volume = case["expect"]["volumes"].as_array().unwrap().last().unwrap();
                let guid = found.guid.map(|guid| format!("{guid:016x}"));
                (guid.as_deref(), Some(found.size), digest(&output).as_str())
                    == (
                        volume["toguid"].as_str(),
                        volume["size"].as_u64(),
                        volume["sha256"].as_str().unwrap(),
                    )
            }
            (Err(fault), Value::String(name)) => fault.kind == kind(name),
            _ => false,
        };
        if !is_right {
            wrong.push(format!("{id}: {told}; expected {}", case["expect"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
