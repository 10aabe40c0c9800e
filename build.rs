//! Compiles the contract without a system `protoc`, and makes an enum of its rpcs, so that code
//! that must decide about each of them (`auth::role`) is an exhaustive `match`.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use prost::Message as _;
use prost_types::FileDescriptorSet;

const PROTOS: [&str; 7] = [
    "zoneward/v1/vm.proto",
    "zoneward/v1/vm_service.proto",
    "zoneward/v1/event_service.proto",
    "zoneward/v1/console_service.proto",
    "zoneward/v1/host_service.proto",
    "zoneward/v1/image.proto",
    "zoneward/v1/image_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let descriptors = protox::compile(PROTOS, ["proto"])?;

    // Reflection serves comments, which `grpcurl describe` prints; the code needs none.
    let mut documented = descriptors.clone();
    for file in &mut documented.file {
        if file.package().starts_with("google.") {
            file.source_code_info = None;
        }
        for location in file.source_code_info.iter_mut().flat_map(|source| &mut source.location) {
            // `grpcurl` prints none of these.
            (location.trailing_comments, location.leading_detached_comments) = (None, Vec::new());
        }
        if let Some(source) = &mut file.source_code_info {
            source.location.retain(|location| location.leading_comments.is_some());
        }
    }
    fs::write(out.join("zoneward_documented.bin"), documented.encode_to_vec())?;
    for file in &mut documented.file {
        file.source_code_info = None;
    }
    fs::write(out.join("zoneward_descriptors.bin"), documented.encode_to_vec())?;
    fs::write(out.join("rpcs.rs"), rpcs(&descriptors)?)?;

    // A machine is large; messages that may hold several of them keep them elsewhere.
    let mut config = tonic_prost_build::configure().bytes(".zoneward.v1");
    for field in ["ValidateVmRequest.update", "ValidateVmRequest.vm", "UpdateVmRequest.vm"] {
        config = config.boxed(format!(".zoneward.v1.{field}"));
    }
    // Made from a machine's JSON many times a second: faster than by reflection.
    for message in ["VmSpec", "DiskSpec", "NicSpec", "PciDeviceSpec"] {
        let attributes = "#[derive(serde::Deserialize)] #[serde(default, deny_unknown_fields)]";
        config = config.type_attribute(format!(".zoneward.v1.{message}"), attributes);
    }
    for field in ["customer_metadata", "internal_metadata", "tags", "routes"] {
        let attribute = "#[serde(deserialize_with = \"crate::proto::flat_object\")]";
        config = config.field_attribute(format!(".zoneward.v1.VmSpec.{field}"), attribute);
    }
    config.build_server(false).compile_fds(descriptors.clone())?;

    // Servers apart: theirs is another form of the one message that goes to very many.
    let servers = out.join("servers");
    fs::create_dir_all(&servers)?;
    tonic_prost_build::configure()
        .build_client(false)
        .extern_path(".zoneward.v1", "crate::proto::v1")
        .extern_path(".zoneward.v1.WatchEventsResponse", "crate::proto::Packed")
        .out_dir(servers)
        .compile_fds(descriptors)?;
    Ok(())
}

/// `enum Rpc` with one variant for each rpc of the contract, and its path on the wire.
fn rpcs(descriptors: &FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let mut variants = Vec::new();
    for file in descriptors.file.iter().filter(|f| f.package() == "zoneward.v1") {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                variants.push((method.name().to_owned(), path));
            }
        }
    }
    let mut code = String::from(
        "/// Every rpc of the contract; made from the descriptors at build time.\n\
         #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]\n#[allow(missing_docs)]\npub enum Rpc {\n",
    );
    for (name, _) in &variants {
        writeln!(code, "    {name},")?;
    }
    code.push_str(
        "}\nimpl Rpc {\n    /// All of them, in the order of the contract.\n    pub const ALL: &[Rpc] = &[",
    );
    for (name, _) in &variants {
        write!(code, "Rpc::{name}, ")?;
    }
    code.push_str("];\n    /// The path that the rpc has on the wire.\n    #[must_use]\n    pub const fn path(self) -> &'static str {\n        match self {\n");
    for (name, path) in &variants {
        writeln!(code, "            Rpc::{name} => {path:?},")?;
    }
    code.push_str("        }\n    }\n}\n");
    Ok(code)
}
