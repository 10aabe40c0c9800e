//! The programs that call SmartOS's vmadm, unmodified: Salt, Ansible and node-vmadm, each through the whole life of a
//! machine.

use std::{os::unix::fs::symlink, process::Command};

use super::support::real::{Real, ok, run_with, target};

/// An agent, and a directory for PATH with the commands by the names that programs call.
struct Host {
    agent: Real,
    bin: tempfile::TempDir,
}

impl Host {
    async fn start() -> Self {
        let tools = target().join("foreign");
        assert!(
            tools.join("key").exists(),
            "the foreign clients are missing: run `make test`, which installs them"
        );
        let bin = tempfile::tempdir().unwrap();
        for name in ["vmadm", "nictagadm", "sysinfo"] {
            symlink(env!("CARGO_BIN_EXE_vmadm"), bin.path().join(name)).unwrap();
        }
        // zoneadm says which zones run; the global one does.
        std::fs::write(bin.path().join("zoneadm"), "#!/bin/sh\necho 0:global:running:/::ipkg:shared\n")
            .unwrap();
        let runs = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(bin.path().join("zoneadm"), runs).unwrap();
        Self { agent: Real::start().await, bin }
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

#[tokio::test]
async fn ansible() {
    let host = Host::start().await;
    let collections = target().join("foreign");
    let variables = [
        ("ANSIBLE_COLLECTIONS_PATH", collections.to_str().unwrap()),
        ("ANSIBLE_LOCALHOST_WARNING", "false"),
        ("ANSIBLE_INVENTORY_UNPARSED_WARNING", "false"),
    ];
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
