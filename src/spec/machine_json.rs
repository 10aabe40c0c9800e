//! The machine JSON: vmadm's payload, strictly read.

use serde_json::{Map, Value};

use super::{
    Bootrom, Brand, DiskModel, DiskSpec, MAX_PAYLOAD, Media, NicModel, NicSpec, VmSpec, reader::Reader,
    violation::Violation,
};

/// Why a text is no machine JSON at all.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// Not JSON.
    #[error("Invalid JSON payload: {0}")]
    Json(#[source] serde_json::Error),
    /// JSON, but not an object.
    #[error("Invalid JSON payload: it must be an object, like {{\"brand\": \"kvm\", ...}}")]
    NotAnObject,
    /// Larger than [`MAX_PAYLOAD`].
    #[error("Invalid JSON payload: {0} bytes is over the limit of 1 MiB")]
    TooLarge(usize),
}

/// What was understood of a payload, and everything that was not.
#[derive(Debug)]
pub struct Parsed {
    /// The machine, without the fields that are in `violations`.
    pub spec: VmSpec,
    /// Fields of the wrong type or name.
    pub violations: Vec<Violation>,
}

/// vmadm's image properties: known, but of no effect before the agent has images.
const IMAGES: &[(&str, &str)] = &[
    ("image_uuid", "images are not supported by this agent yet; give size for an empty disk"),
    ("image_size", "images are not supported by this agent yet; give size for an empty disk"),
    ("image_name", "images are not supported by this agent yet; give size for an empty disk"),
];

/// Reads a machine JSON text.
pub fn parse(text: &[u8]) -> Result<Parsed, PayloadError> {
    if text.len() > MAX_PAYLOAD {
        return Err(PayloadError::TooLarge(text.len()));
    }
    match serde_json::from_slice(text).map_err(PayloadError::Json)? {
        Value::Object(object) => Ok(parse_object(object)),
        _ => Err(PayloadError::NotAnObject),
    }
}

/// Reads a machine JSON object.
#[must_use]
pub fn parse_object(object: Map<String, Value>) -> Parsed {
    let mut violations = Vec::new();
    let mut reader = Reader::new(object, &mut violations);
    let r = &mut reader;
    let spec = VmSpec {
        uuid: r.parsed::<StrictUuid>("uuid").map(|u| u.0),
        brand: r.named("brand", Brand::NAMES),
        alias: r.text("alias").filter(|alias| !alias.is_empty()),
        hostname: r.text("hostname").filter(|name| !name.is_empty()),
        ram: r.integer("ram"),
        vcpus: r.integer("vcpus"),
        cpu_cap: r.integer("cpu_cap"),
        cpu_shares: r.integer("cpu_shares"),
        max_physical_memory: r.integer("max_physical_memory"),
        max_locked_memory: r.integer("max_locked_memory"),
        max_swap: r.integer("max_swap"),
        max_lwps: r.integer("max_lwps"),
        zfs_io_priority: r.integer("zfs_io_priority"),
        autoboot: r.boolean("autoboot"),
        bootrom: r.named("bootrom", Bootrom::NAMES),
        vnc_port: r.integer("vnc_port"),
        resolvers: r.texts("resolvers"),
        disks: r.objects("disks", disk),
        nics: r.objects("nics", nic),
        customer_metadata: r.flat("customer_metadata"),
        internal_metadata: r.flat("internal_metadata"),
        tags: r.flat("tags"),
    };
    reader.finish();
    Parsed { spec, violations }
}

fn disk(r: &mut Reader<'_>) -> DiskSpec {
    let disk = DiskSpec {
        boot: r.boolean("boot").unwrap_or_default(),
        model: r.parsed::<ParsedModel>("model").map(|model| model.0),
        size: r.integer("size"),
        path: r.text("path"),
        media: r.named("media", Media::NAMES).unwrap_or_default(),
        nocreate: r.boolean("nocreate").unwrap_or_default(),
    };
    r.refuse(IMAGES);
    disk
}

fn nic(r: &mut Reader<'_>) -> NicSpec {
    NicSpec {
        nic_tag: r.text("nic_tag"),
        model: r.named("model", NicModel::NAMES),
        mac: r.parsed("mac"),
        ip: r.parsed("ip"),
        netmask: r.parsed::<Ipv4>("netmask").map(|ip| ip.0),
        gateway: r.parsed::<Ipv4>("gateway").map(|ip| ip.0),
        primary: r.boolean("primary").unwrap_or_default(),
    }
}

/// A VM's name as vmadm writes it: lower case, with dashes, 36 characters.
pub fn parse_uuid(text: &str) -> Result<uuid::Uuid, String> {
    let plain = text.len() == 36 && !text.bytes().any(|b| b.is_ascii_uppercase());
    uuid::Uuid::try_parse(text).ok().filter(|uuid| plain && !uuid.is_nil()).ok_or_else(|| {
        format!("\"{text}\" is not a UUID in lower case, like b8ab5fc1-8576-45ef-bb51-9826b52a4651")
    })
}

struct StrictUuid(uuid::Uuid);
impl std::str::FromStr for StrictUuid {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        parse_uuid(text).map(Self)
    }
}

struct ParsedModel(DiskModel);
impl std::str::FromStr for ParsedModel {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        DiskModel::parse(text).map(Self)
    }
}

struct Ipv4(std::net::Ipv4Addr);
impl std::str::FromStr for Ipv4 {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("\"{text}\" is not an IPv4 address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that every operator starts from.
    pub(super) const EXAMPLE: &str = r#"{"brand":"kvm","vcpus":1,"autoboot":false,"ram":1024,"resolvers":["208.67.222.222","208.67.220.220"],"disks":[{"boot":true,"model":"virtio","size":40960}],"nics":[{"nic_tag":"admin","model":"virtio","ip":"10.88.88.51","netmask":"255.255.255.0","gateway":"10.88.88.1","primary":1}]}"#;

    fn fields(text: &str) -> Vec<String> {
        let parsed = parse(text.as_bytes()).unwrap();
        parsed.violations.into_iter().map(|v| v.field).collect()
    }

    #[test]
    fn the_example_parses_as_it_stands() {
        let parsed = parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(parsed.violations, []);
        assert!(parsed.spec.nics[0].primary);
        assert_eq!(parsed.spec.disks[0].size, Some(40960));
        assert_eq!(parsed.spec.resolvers.len(), 2);
        assert_eq!(parsed.spec.autoboot, Some(false));
    }

    #[test]
    fn coercions() {
        let text = r#"{"brand":"kvm","ram":"1024","vcpus":2.0,"autoboot":"false","alias":null,"resolvers":"1.1.1.1, 8.8.8.8","vnc_port":""}"#;
        let parsed = parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.violations, []);
        assert_eq!((parsed.spec.ram, parsed.spec.vcpus), (Some(1024), Some(2)));
        assert_eq!(parsed.spec.autoboot, Some(false));
        assert_eq!((parsed.spec.alias, parsed.spec.vnc_port), (None, None));
        assert_eq!(parsed.spec.resolvers, ["1.1.1.1", "8.8.8.8"]);
    }

    #[test]
    fn everything_wrong_is_reported_at_once_by_path() {
        let text = r#"{"brand":"xen","ram":"lots","autoboot":"aardvark","alias":42,"rma":1,
            "disks":[{"model":"nvme","sise":1,"image_uuid":"x"}],"nics":[{"ip":"1.2.3.4,5.6.7.8"},7],"tags":{"a":[]},"uuid":"doogle"}"#;
        let mut found = fields(text);
        found.sort();
        assert_eq!(
            found,
            [
                "alias",
                "autoboot",
                "brand",
                "disks.0.image_uuid",
                "disks.0.model",
                "disks.0.sise",
                "nics.0.ip",
                "nics.1",
                "ram",
                "rma",
                "tags.a",
                "uuid"
            ]
        );
    }

    #[test]
    fn hints() {
        let parsed = parse(br#"{"brand":"kvn","vpcus":1}"#).unwrap();
        let text: Vec<String> = parsed.violations.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "brand: \"kvn\" is not one of: kvm, bhyve; did you mean \"kvm\"?",
                "vpcus: there is no such property; did you mean \"vcpus\"?"
            ]
        );
    }

    #[test]
    fn not_a_machine() {
        assert!(matches!(parse(b"{"), Err(PayloadError::Json(_))));
        assert!(matches!(parse(b"[]"), Err(PayloadError::NotAnObject)));
        assert!(matches!(parse(&vec![b' '; MAX_PAYLOAD + 1]), Err(PayloadError::TooLarge(_))));
        assert!(matches!(parse(&vec![b'['; MAX_PAYLOAD]), Err(PayloadError::Json(_))), "deep nesting");
    }

    #[test]
    fn metadata_values_stay_out_of_messages() {
        let parsed = parse(br#"{"brand":"kvm","customer_metadata":{"root_pw":["hunter2"]}}"#).unwrap();
        assert_eq!(parsed.violations.len(), 1);
        assert!(!parsed.violations[0].to_string().contains("hunter2"));
    }
}
