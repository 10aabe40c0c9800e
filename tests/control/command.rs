//! What users of the command ran into: each with its right words.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::ffi::OsStrExt as _,
    process::{Command, Output, Stdio},
};

use serde_json::json;
use zoneward::{
    internals::{
        auth::{Role, pki::Pki},
        hypervisor::simulated::Faults,
        zone::Ended,
    },
    proto::v1,
};

use super::{
    auth::door,
    support::{eventually, machine, real::run_with, simulated::Simulated},
};

const VMADM: &str = env!("CARGO_BIN_EXE_vmadm");

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn vmadm(agent: &Simulated, words: &[&str], input: &[u8]) -> Output {
    let (socket, input) = (agent.socket(), input.to_vec());
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let run = move || {
        use std::io::Write as _;
        let mut command = Command::new(VMADM);
        command.env("ZONEWARD_ENDPOINT", format!("unix:{}", socket.display())).args(words);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(&input);
        child.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[test]
fn a_reader_that_leaves_ends_the_completions() {
    let mut child = Command::new(VMADM)
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn an_environment_that_is_no_text_is_passed_over() {
    let output =
        run_with(
            Command::new(env!("CARGO_BIN_EXE_zoneward"))
                .env("X", std::ffi::OsStr::from_bytes(b"\xa3"))
                .args(["--set", "nonsense=1", "serve"]),
            "",
        );
    let said = stderr(&output);
    assert!(!output.status.success() && said.contains("nonsense") && !said.contains("panicked"), "{said}");
}

#[tokio::test]
async fn a_payload_that_is_not_one_object_is_told() {
    let agent = Simulated::start().await;
    for (text, words) in [
        (&b"\xef\xbb\xbf{\"brand\":\"kvm\"}"[..], "byte order mark"),
        (b"{\"brand\":\"kvm\"} {\"brand\":\"kvm\"}", "follows the end"),
        (b"", "it is empty"),
        (b"{\"brand\":\"kvm\",\"ram\":1,\"ram\":2}", "\"ram\" stands twice"),
    ] {
        let output = vmadm(&agent, &["create"], text).await;
        assert!(!output.status.success() && stderr(&output).contains(words), "{}", stderr(&output));
    }
    let mut clients = agent.clients().await;
    assert!(clients.vms.list_vms(v1::ListVmsRequest::default()).await.unwrap().into_inner().vms.is_empty());
}

#[tokio::test]
async fn times_and_states_are_in_the_users_words() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let output = vmadm(&agent, &["events", "--no-follow", "--since", "1 hour ago"], b"").await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("create"));
    let output = vmadm(&agent, &["sysrq", &uuid, "nmi"], b"").await;
    assert!(
        stderr(&output).contains("Unable to send an NMI to vm from state \"stopped\""),
        "{}",
        stderr(&output)
    );
}

/// What a guest writes moves no terminal and forges no line.
#[tokio::test]
async fn what_a_terminal_obeys_is_shown() {
    let agent = Simulated::start().await;
    let uuid = agent.clients().await.create(machine()).await;
    let value = "a\u{1b}[2J\nforged line\u{202e}";
    let update = json!({"set_customer_metadata": {"k": value}}).to_string();
    let updated = vmadm(&agent, &["update", &uuid], update.as_bytes()).await;
    assert!(updated.status.success(), "{}", stderr(&updated));
    for words in [
        &["list", "-o", "customer_metadata.k"][..],
        &["events", "--no-follow", "--since", "1 hour ago"],
        &["get", &uuid],
    ] {
        let output = vmadm(&agent, words, b"").await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("\\u001b[2J") && !text.contains(['\u{1b}', '\u{202e}']), "{words:?}: {text}");
        assert!(!text.lines().any(|line| line.starts_with("forged")), "{words:?}: {text}");
    }
    // A key can't have it.
    for key in ["a\u{1b}b", "a\nb", "a\u{202e}b"] {
        let update = json!({"set_customer_metadata": {key: "v"}}).to_string();
        let refused = vmadm(&agent, &["update", &uuid], update.as_bytes()).await;
        assert!(!refused.status.success() && !stderr(&refused).contains(key), "{}", stderr(&refused));
    }
}

/// A whole number that the wire would round is kept as text.
#[tokio::test]
async fn large_numbers_are_kept_exactly() {
    let agent = Simulated::start().await;
    let payload =
        r#"{"brand":"kvm","autoboot":false,"tags":{"a":9007199254740993,"b":-18014398509481985,"c":42}}"#;
    let output = vmadm(&agent, &["create"], payload.as_bytes()).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let output = vmadm(&agent, &["list", "-H", "-p", "-o", "tags.a,tags.b,tags.c"], b"").await;
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "9007199254740993:-18014398509481985:42");
    // One that came as a double may have been rounded already.
    let kind = Some(prost_types::value::Kind::NumberValue(9_007_199_254_740_992.0));
    let tags = [("a".to_owned(), prost_types::Value { kind })].into();
    let vm = v1::VmSpec { tags: Some(prost_types::Struct { fields: tags }), ..machine() };
    let create = v1::CreateVmRequest { vm: Some(vm), ..Default::default() };
    let status = agent.clients().await.vms.create_vm(create).await.unwrap_err();
    assert_eq!(super::support::fields(&status), ["tags.a"]);
}

/// The agent is replaced while a guest takes its time.
#[tokio::test]
async fn a_stop_outlives_the_agent_that_was_asked() {
    let mut agent = Simulated::start().await;
    agent.hypervisor.set_faults(Faults { deaf: true, ..Faults::default() });
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    clients.start(&uuid).await.unwrap();
    let stopping = tokio::spawn({
        let (socket, uuid) = (agent.socket(), uuid.clone());
        let run = move || {
            let mut command = Command::new(VMADM);
            command.env("ZONEWARD_ENDPOINT", format!("unix:{}", socket.display()));
            command.args(["stop", &uuid, "-t", "300"]).output().unwrap()
        };
        async move { tokio::task::spawn_blocking(run).await.unwrap() }
    });
    eventually("it stops", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { (clients.state(&uuid).await == v1::VmState::Stopping).then_some(()) }
    })
    .await;
    agent.stop().await;
    agent.resume().await;
    agent.process(&uuid).end(Ended::Code(0));
    let output = stopping.await.unwrap();
    let said = stderr(&output);
    assert!(output.status.success() && said.contains("same request id"), "{said}");
    assert!(said.contains("Successfully completed stop"), "{said}");
}

#[tokio::test]
async fn a_certificate_that_is_refused_is_named() {
    let door = door().await;
    door.pki.issue(Role::Operator, "mallory", 30).unwrap();
    door.pki.revoke("mallory").unwrap();
    door.tls.reload().unwrap();
    let (address, certs) = (door.address, door.certs.path().to_owned());
    let run = move || {
        let mut command = Command::new(VMADM);
        command.args(["--endpoint", &format!("https://localhost:{}", address.port())]);
        command.arg("--certs").arg(&certs);
        command.arg("--cert").arg(certs.join("mallory.pem")).arg("--key").arg(certs.join("mallory.key"));
        command.arg("list").output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let said = stderr(&output);
    assert!(said.contains("refused the certificate") && said.contains("mallory.pem"), "{said}");
    assert!(said.to_lowercase().contains("revoked"), "{said}");
}

/// A name that no client can look for leaves nothing.
#[test]
fn certificates_are_made_all_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path().join("certs"), "zoneward".to_owned());
    for name in ["bad name", "a_b", "", "host.", "1.2.3", "host\u{202e}", "*.", "-a"] {
        assert!(pki.init(&["localhost".to_owned(), name.to_owned()], 30).is_err(), "{name:?}");
        let left = std::fs::read_dir(dir.path().join("certs")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{name:?}");
    }
    let names = ["localhost", "10.0.0.1", "fd00::1", "*.example", "host-1.example"].map(str::to_owned);
    pki.init(&names, 30).unwrap();
}

/// vmadm's object is one: what `get` shows of a VM is what filters look at, and what events have of it.
#[tokio::test]
async fn whatever_get_shows_can_be_asked_for() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let spec = v1::VmSpec { alias: Some("one".into()), disks: vec![super::support::disk(1)], ..machine() };
    let uuid = clients.create(spec).await;
    clients.start(&uuid).await.unwrap();
    let output = vmadm(&agent, &["get", &uuid], b"").await;
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    for name in ["restrictions", "limits", "zonepath", "accelerator", "init_restarts", "disks", "nics"] {
        assert!(object.contains_key(name), "{name}");
    }
    let mut asked = Vec::new();
    for (name, value) in &object {
        match value {
            serde_json::Value::Object(items) => {
                let texts = items.iter().filter_map(|(key, value)| Some((key, value.as_str()?)));
                asked.extend(texts.map(|(key, value)| format!("{name}.{key}={value}")));
            }
            // What is null is empty.
            serde_json::Value::Null => asked.push(format!("{name}=")),
            serde_json::Value::Array(_) => {}
            serde_json::Value::String(text) => asked.push(format!("{name}={text}")),
            other => asked.push(format!("{name}={other}")),
        }
    }
    assert!(asked.len() > 40, "{asked:?}");
    for filter in asked {
        let output = vmadm(&agent, &["lookup", &filter], b"").await;
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), uuid, "{filter}: {}", stderr(&output));
    }
    for (other, expected) in
        [("server_uuid=x", ""), ("v=1", uuid.as_str()), ("docker=true", ""), ("docker=false", &uuid)]
    {
        let output = vmadm(&agent, &["lookup", other], b"").await;
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{other}");
    }
    let columns = "uuid,dns_domain,docker,zoneid,datasets,v,snapshots,server_uuid,limit_priv,transition_to,disk_driver,\
        platform_buildstamp,zfs_filesystem,zfs_data_compression,datacenter_name,tmpfs,tags,nics";
    let listed = vmadm(&agent, &["list", "-p", "-H", "-o", columns], b"").await;
    assert_eq!(listed.status.code(), Some(0), "{}", stderr(&listed));
    // One message everywhere.
    let now = clients.get(&uuid).await.unwrap();
    let listed = clients.vms.list_vms(v1::ListVmsRequest::default()).await.unwrap().into_inner().vms;
    assert_eq!(listed.first(), Some(&now));
    let told = clients.journal().await.into_iter().rev().find_map(|event| match event.kind {
        Some(v1::event::Kind::Modified(modified)) => modified.vm,
        _ => None,
    });
    assert_eq!(told, Some(now));
}
