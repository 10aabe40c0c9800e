//! What an image asks of the machines that are made from it.

use serde_json::Value;

use super::Manifest;
use crate::spec::{Bootrom, VmSpec};

/// Returns why a machine does not meet an image's requirements.
#[must_use]
pub fn unmet(manifest: &Manifest, spec: &VmSpec) -> Option<String> {
    let requirements = manifest.object().get("requirements")?;
    let text = |key: &str| requirements.get(key).and_then(Value::as_str);
    let number = |key: &str| requirements.get(key).and_then(Value::as_i64);
    let (brand, ram) = (spec.brand().as_str(), i64::from(spec.ram()));
    if let Some(wanted) = text("brand").filter(|wanted| *wanted != brand) {
        return Some(format!("the image is for brand {wanted}"));
    }
    if let Some(wanted) = text("bootrom") {
        let is_met = match (wanted, spec.bootrom()) {
            ("bios", Bootrom::Bios) => true,
            ("uefi", firmware) => *firmware != Bootrom::Bios,
            _ => false,
        };
        if !is_met {
            return Some(format!("the image needs bootrom {wanted}"));
        }
    }
    if let Some(least) = number("min_ram").filter(|least| ram < *least) {
        return Some(format!("the image needs at least {least} MiB of ram"));
    }
    number("max_ram")
        .filter(|most| ram > *most)
        .map(|most| format!("the image takes at most {most} MiB of ram"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::machine_json;

    #[test]
    fn each_requirement_is_met_or_named() {
        let spec = |text: &str| machine_json::parse(format!("{{{text}}}").as_bytes()).unwrap().spec;
        let why = |requirements: &str, machine: &str| {
            let text = format!(
                r#"{{"uuid":"01b2c898-945f-11e1-a523-af1afbe22822","name":"a","requirements":{{{requirements}}}}}"#
            );
            let manifest = Manifest::read(serde_json::from_str(&text).unwrap()).unwrap();
            unmet(&manifest, &spec(machine)).unwrap_or_default()
        };
        let kvm = r#""brand":"kvm","ram":512"#;
        assert_eq!(why(r#""brand":"kvm","min_ram":512,"max_ram":512,"bootrom":"bios""#, kvm), "");
        assert!(why(r#""brand":"bhyve""#, kvm).contains("brand bhyve"));
        assert!(why(r#""bootrom":"uefi""#, kvm).contains("bootrom uefi"));
        assert_eq!(why(r#""bootrom":"uefi""#, r#""brand":"bhyve","bootrom":"uefi""#), "");
        assert!(why(r#""min_ram":513"#, kvm).contains("at least 513"));
        assert!(why(r#""max_ram":511"#, kvm).contains("at most 511"));
    }
}
