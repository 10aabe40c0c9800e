//! Converts QEMU's replies into vmadm's `info` shapes.

use serde_json::{Map, Value, json};

use super::super::InfoType;

/// Returns the query of a type; `None` if the agent answers it itself.
pub(super) fn command(kind: InfoType) -> Option<&'static str> {
    Some(match kind {
        InfoType::Block => "query-block",
        InfoType::Blockstats => "query-blockstats",
        InfoType::Chardev => "query-chardev",
        InfoType::Cpus => "query-cpus-fast",
        InfoType::Kvm => "query-kvm",
        InfoType::Pci => "query-pci",
        InfoType::Status => "query-status",
        InfoType::Version => "query-version",
        InfoType::Vnc => return None,
    })
}

/// Shapes a reply as vmadm does.
pub(super) fn shape(kind: InfoType, answer: Value) -> Value {
    match kind {
        InfoType::Status => json!({
            "running": answer["running"],
            "singlestep": answer["singlestep"].as_bool().unwrap_or_default(),
            // The machine exists before the control connection responds.
            "hwsetup": true,
        }),
        InfoType::Version => json!({"qemu": answer["qemu"], "package": answer["package"]}),
        InfoType::Chardev => list(&answer, |device| pick(device, &["label", "filename"])),
        InfoType::Block => list(&answer, block),
        InfoType::Blockstats => list(&answer, |device| {
            let name = named(device);
            let counters = ["rd_bytes", "wr_bytes", "rd_operations", "wr_operations", "wr_highest_offset"];
            json!({"device": name, "stats": pick(&device["stats"], &counters)})
        }),
        InfoType::Cpus => list(
            &answer,
            |cpu| json!({"CPU": cpu["cpu-index"], "current": cpu["cpu-index"] == json!(0), "thread_id": cpu["thread-id"]}),
        ),
        InfoType::Kvm | InfoType::Pci | InfoType::Vnc => answer,
    }
}

fn block(device: &Value) -> Value {
    let path = device["qdev"].as_str().unwrap_or_default();
    let removable = device["removable"].as_bool().unwrap_or_default();
    let mut shaped = json!({
        "device": named(device),
        "locked": device["locked"],
        "removable": removable,
        "type": if removable { "cdrom" } else if path.is_empty() { "unknown" } else { "hd" },
    });
    if let Value::Object(inserted) = &device["inserted"] {
        let inserted = Value::Object(inserted.clone());
        shaped["inserted"] = pick(&inserted, &["file", "ro", "drv", "encrypted"]);
    }
    shaped
}

/// Returns the device's own name: QEMU leaves `device` empty for a device with a node name.
fn named(device: &Value) -> Value {
    let given = device["device"].as_str().unwrap_or_default();
    let qdev = device["qdev"].as_str().unwrap_or_default();
    let last = qdev.split('/').rfind(|part| !part.is_empty() && !part.starts_with("virtio-backend"));
    json!(if given.is_empty() { last.unwrap_or_default() } else { given })
}

fn list(answer: &Value, shape: impl Fn(&Value) -> Value) -> Value {
    Value::Array(answer.as_array().map(|items| items.iter().map(shape).collect()).unwrap_or_default())
}

fn pick(from: &Value, keys: &[&str]) -> Value {
    let picked: Map<String, Value> =
        keys.iter().filter_map(|key| Some(((*key).to_owned(), from.get(key)?.clone()))).collect();
    Value::Object(picked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_vmadms() {
        let status =
            shape(InfoType::Status, json!({"running": true, "status": "running", "singlestep": false}));
        assert_eq!(status, json!({"running": true, "singlestep": false, "hwsetup": true}));
        let block = shape(
            InfoType::Block,
            json!([{"device": "", "qdev": "/machine/peripheral/drive0/virtio-backend", "locked": false, "removable": false,
                    "inserted": {"file": "/dev/fdset/11", "ro": false, "drv": "raw", "encrypted": false, "cache": {}}}]),
        );
        assert_eq!(
            block,
            json!([{"device": "drive0", "locked": false, "removable": false, "type": "hd",
                    "inserted": {"file": "/dev/fdset/11", "ro": false, "drv": "raw", "encrypted": false}}])
        );
        assert_eq!(shape(InfoType::Cpus, json!("nonsense")), json!([]));
    }
}
