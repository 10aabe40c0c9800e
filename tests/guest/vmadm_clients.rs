//! The programs that call SmartOS's vmadm, unmodified: Salt, Ansible and node-vmadm, each through the whole life of a
//! machine.

use std::{os::unix::fs::symlink, process::Command};

use super::support::{
    real::{Real, ok, run_with, target},
    web::Web,
};

/// An agent, and a directory for PATH with the commands by the names that programs call.
struct Host {
    agent: Real,
    bin: tempfile::TempDir,
}

impl Host {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(sets: &[&str]) -> Self {
        let tools = target().join("foreign");
        assert!(
            tools.join("key").exists(),
            "the foreign clients are missing: run `make test`, which installs them"
        );
        let bin = tempfile::tempdir().unwrap();
        for name in ["vmadm", "nictagadm", "sysinfo"] {
            symlink(env!("CARGO_BIN_EXE_vmadm"), bin.path().join(name)).unwrap();
        }
        symlink(env!("CARGO_BIN_EXE_imgadm"), bin.path().join("imgadm")).unwrap();
        // zoneadm says which zones run; the global one does.
        std::fs::write(bin.path().join("zoneadm"), "#!/bin/sh\necho 0:global:running:/::ipkg:shared\n")
            .unwrap();
        let runs = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(bin.path().join("zoneadm"), runs).unwrap();
        Self { agent: Real::start_with(sets).await, bin }
    }

    /// Runs a program that must succeed, and gives what it printed.
    fn run(&self, program: &str, words: &[&str], variables: &[(&str, &str)]) -> String {
        let foreign = target().join("foreign");
        let path = format!("{}:{}", self.bin.path().display(), std::env::var("PATH").unwrap());
        let mut command =
            Command::new(if program.contains('/') { foreign.join(program) } else { program.into() });
        command
            .env("PATH", path)
            .env("ZONEWARD_ENDPOINT", format!("unix:{}", self.agent.socket().display()))
            .env("HOME", self.bin.path())
            .current_dir(self.bin.path())
            .envs(variables.iter().copied())
            .args(words);
        ok(words, run_with(&mut command, "")).0
    }

    fn nothing_is_left(&self) {
        assert_eq!(self.agent.vmadm_ok(&["list", "-p"]).0, "");
    }
}

fn script(name: &str) -> String {
    format!("{}/tests/foreign/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn salt() {
    let host = Host::start().await;
    let said = host.run("smartos/bin/python", &["-B", &script("salt_vmadm.py")], &[]);
    assert!(said.ends_with("salt: all of it\n"), "{said}");
    host.nothing_is_left();
}

fn for_ansible(collections: &std::path::Path) -> [(&'static str, &str); 3] {
    [
        ("ANSIBLE_COLLECTIONS_PATH", collections.to_str().unwrap()),
        ("ANSIBLE_LOCALHOST_WARNING", "false"),
        ("ANSIBLE_INVENTORY_UNPARSED_WARNING", "false"),
    ]
}

/// The modules for images of Ansible and of Salt, with an image server as its documentation describes it.
#[tokio::test(flavor = "multi_thread")]
async fn images() {
    let web = Web::start().await;
    let manifest = std::fs::read_to_string("tests/zfs-streams/image.imgmanifest").unwrap();
    let object: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let image = object["uuid"].as_str().unwrap();
    web.bytes("/images", format!("[{manifest}]"));
    web.bytes(&format!("/images/{image}"), manifest.clone());
    let file = std::fs::read("tests/zfs-streams/image.zsend.gz").unwrap();
    web.bytes(&format!("/images/{image}/file"), file);
    let server = web.url("");
    let servers = format!("images.servers=[\"{server}\"]");
    let host = Host::start_with(&["images.allow=[\"127.0.0.1\"]", &servers]).await;
    let said = host.run("smartos/bin/python", &["-B", &script("salt_imgadm.py"), image], &[]);
    assert!(said.ends_with("salt: all of it\n"), "{said}");
    let collections = target().join("foreign");
    let variables = [&for_ansible(&collections)[..], &[("IMAGE", image), ("SOURCE", &server)]].concat();
    let said = host.run("smartos/bin/ansible-playbook", &[&script("imgadm.yml")], &variables);
    assert!(said.contains("failed=0"), "{said}");
    assert_eq!(host.agent.imgadm_ok(&["list", "-H"]).0, "");
}

#[tokio::test]
async fn ansible() {
    let host = Host::start().await;
    let collections = target().join("foreign");
    let variables = for_ansible(&collections);
    let play = |book: &str, variables: &[(&str, &str)]| {
        let said = host.run("smartos/bin/ansible-playbook", &[book], variables);
        assert!(said.contains("failed=0"), "{said}");
        host.nothing_is_left();
    };
    let named = script("vmadm.yml");
    play(&named, &[&variables[..], &[("ZONEWARD_IGNORE_UNKNOWN", "1")]].concat());
    let aliased = host.bin.path().join("aliased.yml");
    let book = std::fs::read_to_string(&named).unwrap().replace("      name: web\n", "      alias: web\n");
    std::fs::write(&aliased, book).unwrap();
    play(aliased.to_str().unwrap(), &variables);
}

#[tokio::test]
async fn node_vmadm() {
    let host = Host::start().await;
    let module = target().join("foreign/node_modules/vmadm");
    let zones = host.agent.dir.path().join("zones");
    let variables = [("VMADM", env!("CARGO_BIN_EXE_vmadm")), ("ZONES", zones.to_str().unwrap())];
    let said = host.run("node", &[&script("node_vmadm.js"), module.to_str().unwrap()], &variables);
    assert!(said.ends_with("node-vmadm: all of it\n"), "{said}");
    host.nothing_is_left();
}
