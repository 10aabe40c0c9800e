//! Payloads that other people published, as they stand: each is created, or refused for a reason. `docs/cases.md` has the
//! same as a table.

use std::path::Path;

use zoneward::{
    proto::{spec_to_proto, v1},
    spec::machine_json::{self, Strictness},
};

use super::support::simulated::Simulated;

/// Each payload, and why it is refused; nothing where it is created. What follows `~` is accepted by `--ignore-unknown`.
const VERDICTS: &[(&str, &str)] = &[
    ("b01-lx-builder", "is not on this host"),
    ("b02-win", ""),
    ("b04-retro", "is not on this host"),
    ("b05-ubuntu-iso", "bhyve_extra_opts: these are arguments of bhyve"),
    ("b07-freebsd", "is not on this host"),
    ("b08-bootrom-path", "is not on this host"),
    ("b10-tritond", "is not on this host"),
    ("b11-gpu", "bhyve_hostbridge: there is no such property"),
    ("k01-docs-hvm", ""),
    (
        "k02-clone-default_gateway",
        "default_gateway: there is no such property; did you mean \"nics.*.gateway\"?",
    ),
    ("k04-win7", ""),
    ("k05-image+size", "is not on this host"),
    ("k07-script-strings", "is not on this host"),
    (
        "k08-default-gateway-dash",
        "~default-gateway: there is no such property; did you mean \"nics.*.gateway\"?",
    ),
    ("k10-old-machine-host", "~host: there is no such property"),
    ("k11-vmtools-windows", "nics.0.network_uuid: \"2175011c-51c4-457z-8312-24ddbfdd18d0\" is not a UUID"),
    ("k12-spice", ""),
    ("k13-omnios", ""),
    ("k14b-salt-doc-vnc9", ""),
    ("k14c-salt-doc-nic-without-model", "nics.0.model: missing .model option for NIC"),
    ("k16-salt-script", "is not on this host"),
    ("k17-vmapi-fixture", ""),
    ("k19-vrrp", ""),
    ("k20-router", ""),
    ("k22-no-nics-no-disks", ""),
    ("k23-physical-index", "~nics.0.physical: there is no such property"),
    ("k25-disk-blocksize", ""),
    ("k26-zpool-other", ""),
    ("k28-vnc-password", ""),
    ("k29-nested-metadata", "customer_metadata.cfg: values must be strings, numbers or booleans"),
    ("k31-scsi-cd", ""),
    ("k32-ipv6", ""),
    ("k34-uppercase-uuid", "is not a UUID in lower case"),
    ("k35-autoboot-int", ""),
    ("smartos-get", ""),
];

/// Why a payload is refused, in every word; nothing when it is not.
async fn refusal(agent: &Simulated, path: &Path, strictness: Strictness) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let parsed = machine_json::parse_as(machine_json::parse_text(text.as_bytes()).unwrap(), strictness);
    let found = parsed.all_violations();
    if !found.is_empty() {
        return found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    }
    let mut clients = agent.clients().await;
    // No host here has its files.
    let vm = v1::VmSpec { autoboot: Some(false), ..spec_to_proto(&parsed.spec) };
    let request = v1::ValidateVmRequest { vm: Some(Box::new(vm.clone())), ..Default::default() };
    let violations = clients.vms.validate_vm(request).await.unwrap().into_inner().violations;
    let create = v1::CreateVmRequest { vm: Some(vm), ..Default::default() };
    match clients.vms.create_vm(create).await {
        Ok(created) => {
            assert_eq!(violations, [], "{}: validate and create agree", path.display());
            clients.delete(&created.into_inner().vm.unwrap().uuid).await.unwrap();
            String::new()
        }
        Err(status) => {
            assert!(
                !violations.is_empty(),
                "{}: validate says VALID, and create: {status:?}",
                path.display()
            );
            let all = violations.iter().map(|found| format!("{}: {}", found.field, found.description));
            all.collect::<Vec<_>>().join("\n")
        }
    }
}

#[tokio::test]
async fn each_ends_as_the_table_says() {
    let agent = Simulated::start().await;
    let mut files: Vec<_> =
        std::fs::read_dir("tests/payloads").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let names = files.iter().map(|path| path.file_stem().unwrap().to_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), VERDICTS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    let cases = std::fs::read_to_string("docs/cases.md").unwrap();
    for (path, (name, reason)) in files.iter().zip(VERDICTS) {
        let (is_lenient, reason) = reason.strip_prefix('~').map_or((false, *reason), |reason| (true, reason));
        let said = refusal(&agent, path, Strictness::Strict).await;
        assert!(said.contains(reason) && said.is_empty() == reason.is_empty(), "{name}: {said:?}");
        if is_lenient {
            let said = refusal(&agent, path, Strictness::Lenient).await;
            assert!(!said.contains("no such property"), "{name}, leniently: {said:?}");
        }
        let verdict = match reason {
            "" => "created".to_owned(),
            reason if is_lenient => format!("refused, unless unknown properties are ignored: {reason}"),
            reason => format!("refused: {reason}"),
        };
        let row = format!("| {name} | {verdict} |");
        assert!(cases.contains(&row), "docs/cases.md lacks: {row}");
    }
}
