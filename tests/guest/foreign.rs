//! The same journey with clients that nobody here wrote.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use zoneward::proto::v1;

use super::support::{
    machine,
    real::{Real, guest, ok, run_with, target},
};

pub(super) struct Foreign {
    pub(super) agent: Real,
    certs: tempfile::TempDir,
    address: String,
    pub(super) tools: PathBuf,
}

async fn foreign() -> Foreign {
    foreign_with(&[]).await
}

/// An agent on TCP with more configuration, and the foreign clients.
pub(super) async fn foreign_with(sets: &[&str]) -> Foreign {
    let tools = target().join("foreign");
    assert!(
        tools.join("key").exists(),
        "the foreign clients are missing: run `make test`, which installs them"
    );
    let certs = tempfile::tempdir().unwrap();
    let dir = certs.path().to_str().unwrap();
    ok(
        &["pki"],
        run_with(Command::new(env!("CARGO_BIN_EXE_zoneward")).args(["pki", "init", "--dir", dir]), ""),
    );
    // A port that is free now; taken at once.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("listen=127.0.0.1:{port}");
    let agent = Real::start_with(&[&[listen.as_str(), &format!("tls.dir={dir}")], sets].concat()).await;
    Foreign { agent, certs, address: format!("localhost:{port}"), tools }
}

#[tokio::test]
async fn python_grpcio_by_reflection_and_a_vnc_viewer() {
    let foreign = foreign().await;
    let picture = target().join("screen-by-vnc.png");
    let _ = std::fs::remove_file(&picture);
    let output = Command::new(foreign.tools.join("venv/bin/python"))
        .arg("-B")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/journey.py"))
        .arg(&foreign.address)
        .arg(foreign.certs.path())
        .arg(guest().join("tiny.iso"))
        .arg(&picture)
        .arg(foreign.tools.join("venv/bin/vncdo"))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}{}\n{}",
        text(&output.stdout),
        text(&output.stderr),
        foreign.agent.log()
    );
    assert!(std::fs::metadata(picture).unwrap().len() > 2000, "not a blank screen");
}

/// A controller in Python that knows nothing but reflection, and an agent that goes away twice: killed, and asked to.
#[tokio::test]
async fn python_follows_events_over_restarts_with_its_cursor() {
    use std::io::{BufRead as _, BufReader};
    let mut foreign = foreign().await;
    let mut clients = foreign.agent.clients().await;
    let uuid = clients.create(machine()).await;
    let mut python = Command::new(foreign.tools.join("venv/bin/python"))
        .arg("-B")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/follow.py"))
        .args([foreign.address.as_str(), foreign.certs.path().to_str().unwrap(), "the-last"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(python.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), format!("vm {uuid}"));
    assert_eq!(lines.next().unwrap(), "end");
    let known = clients.journal().await.len();
    let mut heard = Vec::new();

    clients.start(&uuid).await.unwrap();
    for kill in [true, false] {
        match kill {
            true => foreign.agent.kill(),
            false => assert!(foreign.agent.terminate().success()),
        }
        // It hears that the agent is gone, each time.
        heard.extend(lines.by_ref().take_while(|line| line != "again"));
        foreign.agent.resume().await;
        clients = foreign.agent.clients().await;
        clients.create(machine()).await;
    }
    clients.stop(&uuid, true).await.unwrap();
    let last = clients.create(v1::VmSpec { alias: Some("the-last".to_owned()), ..machine() }).await;
    clients.delete(&last).await.unwrap();
    heard.extend(lines.filter(|line| line != "again"));
    assert!(python.wait().unwrap().success());
    let journal = clients.journal().await;
    let told: Vec<String> =
        journal[known..].iter().map(|event| format!("event {}", event.sequence)).collect();
    assert_eq!(heard, told, "each event once, and in order");
}

#[tokio::test]
async fn buf_curl_by_reflection() {
    let foreign = foreign().await;
    let dir = foreign.certs.path().display();
    let curl = |method: &str, data: &Value| -> Output {
        let mut command = Command::new(foreign.tools.join("node_modules/.bin/buf"));
        command.args(["curl", "--protocol", "grpc"]);
        command.args([
            "--cacert",
            &format!("{dir}/ca.pem"),
            "--cert",
            &format!("{dir}/admin.pem"),
            "--key",
            &format!("{dir}/admin.key"),
        ]);
        if method.starts_with("--") {
            command.arg(method).arg(format!("https://{}", foreign.address));
        } else {
            command.args(["-d", &data.to_string(), &format!("https://{}/{method}", foreign.address)]);
        }
        run_with(&mut command, "")
    };
    let call = |method: &str, data: Value| -> Value {
        let (stdout, _) = ok(&[method], curl(&format!("zoneward.v1.{method}"), &data));
        serde_json::from_str(stdout.lines().last().map_or("{}", |_| stdout.as_str())).unwrap_or(Value::Null)
    };
    let (services, _) = ok(&["list"], curl("--list-services", &Value::Null));
    for service in [
        "zoneward.v1.VmService",
        "zoneward.v1.EventService",
        "zoneward.v1.ConsoleService",
        "zoneward.v1.HostService",
    ] {
        assert!(services.contains(service), "{services}");
    }
    // A machine JSON as it stands is the JSON of a VmSpec.
    let machine = json!({"brand": "kvm", "autoboot": false, "ram": 256, "disks": [{"size": 64}],
        "nics": [{"nic_tag": "admin", "model": "virtio", "primary": true}], "tags": {"a": 1}});
    let created = call("VmService/CreateVm", json!({"vm": machine}));
    let uuid = created["vm"]["uuid"].as_str().unwrap().to_owned();
    assert_eq!(created["vm"]["spec"]["ram"], 256, "numbers are numbers: {created}");
    assert_eq!(call("HostService/GetHost", json!({}))["hypervisors"][0]["accelerator"], "tcg");

    let (stream, _) = ok(&["start"], curl("zoneward.v1.VmService/StartVm", &json!({"uuid": uuid})));
    assert!(stream.contains("PHASE_RUNNING") && stream.contains("VM_STATE_RUNNING"), "{stream}");
    let stopped = call("VmService/StopVm", json!({"uuid": uuid, "force": true}));
    assert_eq!(stopped["vm"]["status"]["exit"]["reason"], "EXIT_REASON_OPERATOR");
    call("VmService/DeleteVm", json!({"uuid": uuid}));

    // NOT_FOUND is 5; buf's exit code is eight times that.
    let missing = curl("zoneward.v1.VmService/GetVm", &json!({"uuid": uuid}));
    assert_eq!(missing.status.code(), Some(40));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("not_found"));
    let unknown = curl("zoneward.v1.VmService/CreateVm", &json!({"vm": {"brand": "kvm", "colour": "red"}}));
    assert!(!unknown.status.success(), "an unknown key is an error");
}

/// The example for controllers in Python, as it stands.
#[tokio::test]
async fn the_python_example_places_boots_follows_and_removes() {
    let foreign = foreign().await;
    let output = Command::new(foreign.tools.join("venv/bin/python"))
        .arg("-B")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/controller.py"))
        .arg(foreign.certs.path())
        .arg(&foreign.address)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for wanted in ["created ", "phase ", ": modified", ": deleted"] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}

/// `docs/grpcurl.md`, line by line, with the real grpcurl.
#[tokio::test]
async fn grpcurl_by_its_page() {
    let foreign = foreign().await;
    let page = include_str!("../../docs/grpcurl.md");
    let socket = foreign.agent.socket().display().to_string();
    let path = format!("{}:{}", foreign.tools.join("venv/bin").display(), std::env::var("PATH").unwrap());
    let mut uuid = "UUID".to_owned();
    let mut lines = page.lines().peekable();
    let mut commands = 0;
    while let Some(line) = lines.next() {
        let Some(line) = line.strip_prefix("$ ") else { continue };
        let shown: Vec<&str> =
            std::iter::from_fn(|| lines.next_if(|line| !line.starts_with("$ ") && *line != "```")).collect();
        let line = line
            .replace("/run/zoneward/zoneward.sock", &socket)
            .replace("host1.example:9443", &foreign.address)
            .replace("UUID", &uuid);
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).env("PATH", &path).current_dir(foreign.certs.path());
        let output = run_with(&mut shell, "");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        commands += 1;
        if !shown.is_empty() {
            assert!(!output.status.success(), "{line}");
            assert_eq!(error.trim_end(), shown.join("\n"), "{line}");
            continue;
        }
        assert!(output.status.success(), "{line}: {error}");
        if line.contains("describe") {
            assert!(out.contains("// Cut the power instead of pressing the power button."), "{out}");
        }
        if line.ends_with("CreateVm") {
            let created: Value = serde_json::from_str(&out).unwrap();
            uuid = created["vm"]["uuid"].as_str().unwrap().to_owned();
            assert_eq!(created["vm"]["spec"]["nics"][0]["primary"], true);
        }
    }
    assert_eq!(commands, 15, "all of the page");
    assert_eq!(foreign.agent.vmadm_ok(&["list", "-p"]).0, "");
}
