//! The same from another host: mTLS out of another network namespace.

use std::process::Command;

use super::support::{
    ignored::ignore,
    machine,
    real::{Real, ok, run_with},
};

/// A network namespace with one link to ours, removed with its link when this is dropped.
struct OtherHost {
    name: String,
}

impl OtherHost {
    fn ip(words: &[&str]) -> bool {
        Command::new("ip").args(words).status().is_ok_and(|status| status.success())
    }

    /// `ours` and `theirs` are addresses of one /30.
    fn new(name: &str, ours: &str, theirs: &str) -> Option<Self> {
        if !Self::ip(&["netns", "add", name]) {
            return None;
        }
        let host = Self { name: name.to_owned() };
        let (here, there) = (format!("{name}a"), format!("{name}b"));
        let all = [
            &["link", "add", &here, "type", "veth", "peer", "name", &there, "netns", name][..],
            &["addr", "add", &format!("{ours}/30"), "dev", &here],
            &["link", "set", &here, "up"],
            &["-n", name, "addr", "add", &format!("{theirs}/30"), "dev", &there],
            &["-n", name, "link", "set", &there, "up"],
        ]
        .iter()
        .all(|words| Self::ip(words));
        all.then_some(host)
    }
}

impl Drop for OtherHost {
    fn drop(&mut self) {
        // The pair of links goes with one of them.
        Self::ip(&["link", "del", &format!("{}a", self.name)]);
        Self::ip(&["netns", "del", &self.name]);
    }
}

#[tokio::test]
async fn vmadm_over_mtls_from_another_namespace() {
    let name = format!("zw{}", std::process::id() % 100_000);
    let third = 1 + std::process::id() % 250;
    let (ours, theirs) = (format!("10.201.{third}.1"), format!("10.201.{third}.2"));
    let Some(other) = OtherHost::new(&name, &ours, &theirs) else {
        ignore("network namespaces can't be made here (not root?)");
        return;
    };
    let certs = tempfile::tempdir().unwrap();
    let dir = certs.path().to_str().unwrap().to_owned();
    let pki = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zoneward"));
        ok(words, run_with(command.arg("pki").args(words).args(["--dir", &dir]), ""))
    };
    pki(&["init", "--name", &ours]);
    pki(&["issue", "--role", "viewer", "--name", "eve"]);

    let listen = format!("listen={ours}:9443");
    let agent = Real::start_with(&[&listen, &format!("tls.dir={dir}")]).await;
    agent.tolerate(&["connections were sent away"]);
    let uuid = agent.clients().await.create(machine()).await;
    let remote = |words: &[&str], input: &str| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &other.name, env!("CARGO_BIN_EXE_vmadm")]);
        command.args(["--endpoint", &format!("https://{ours}:9443"), "--certs", &dir]).args(words);
        run_with(&mut command, input)
    };
    let (list, _) = ok(&["list"], remote(&["list", "-H", "-o", "uuid,state"], ""));
    assert_eq!(list.trim_end(), format!("{uuid}  stopped"));
    let (_, created) = ok(&["create"], remote(&["create"], r#"{"brand":"kvm","autoboot":false}"#));
    let second = created.trim().strip_prefix("Successfully created VM ").unwrap();
    let (_, started) = ok(&["start"], remote(&["start", second], ""));
    assert_eq!(started, format!("Successfully started VM {second}\n"));
    ok(&["stop"], remote(&["stop", "-F", second], ""));
    ok(&["delete"], remote(&["delete", second], ""));

    let viewer = |words: &[&str]| {
        let (cert, key) = (format!("{dir}/eve.pem"), format!("{dir}/eve.key"));
        let all = [&["--cert", &cert, "--key", &key], words].concat();
        remote(&all, "")
    };
    ok(&["get"], viewer(&["get", &uuid]));
    let refused = viewer(&["delete", &uuid]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("needs role admin; spiffe://zoneward/viewer/eve has role viewer"), "{text}");

    let none = remote(&["--cert", "/dev/null", "--key", "/dev/null", "list"], "");
    assert_eq!(none.status.code(), Some(1));
    // Revoked while the agent runs: it notices by itself.
    pki(&["revoke", "--name", "eve"]);
    super::support::eventually("the agent has read the list", || {
        let refused = !viewer(&["get", &uuid]).status.success();
        async move { refused.then_some(()) }
    })
    .await;
    ok(&["get"], remote(&["get", &uuid], ""));
}
