//! The same journey with clients that nobody here wrote.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::{Value, json};

use super::support::real::{Real, guest, ok, run_with, target};

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
