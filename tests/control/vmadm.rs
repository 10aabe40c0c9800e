//! The operator's command against a simulated agent: texts, streams and exit codes.

use std::process::{Command, Output};

use super::support::{
    machine,
    real::{ok, run_with},
    simulated::Simulated,
};

const EXAMPLE: &str = r#"{"brand":"kvm","vcpus":1,"autoboot":false,"ram":1024,"resolvers":["208.67.222.222","208.67.220.220"],"disks":[{"boot":true,"model":"virtio","size":40960}],"nics":[{"nic_tag":"admin","model":"virtio","ip":"10.88.88.51","netmask":"255.255.255.0","gateway":"10.88.88.1","primary":1}]}"#;

struct Shell {
    agent: Simulated,
}

impl Shell {
    async fn start() -> Self {
        Self { agent: Simulated::start().await }
    }

    /// Runs the command beside the agent, which lives on this runtime.
    async fn run(&self, words: &[&str], input: &str) -> Output {
        let socket = self.agent.socket();
        let (words, input) = (words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>(), input.to_owned());
        tokio::task::spawn_blocking(move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_vmadm"));
            command.env("ZONEWARD_ENDPOINT", format!("unix:{}", socket.display())).args(&words);
            run_with(&mut command, &input)
        })
        .await
        .unwrap()
    }

    async fn ok(&self, words: &[&str]) -> (String, String) {
        ok(words, self.run(words, "").await)
    }

    /// Must end with `code`; gives standard output and error.
    async fn fails(&self, code: i32, words: &[&str], input: &str) -> (String, String) {
        let output = self.run(words, input).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    }

    async fn create(&self) -> String {
        let output = self.run(&["create"], EXAMPLE).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && output.stdout.is_empty(), "{stderr}");
        stderr.trim().strip_prefix("Successfully created VM ").unwrap().to_owned()
    }
}

#[tokio::test]
async fn the_journeys_texts() {
    let shell = Shell::start().await;
    let uuid = shell.create().await;
    let done = |text: &str| (String::new(), format!("{text} VM {uuid}\n"));
    assert_eq!(shell.ok(&["boot", &uuid]).await, done("Successfully started"));
    assert_eq!(
        shell.ok(&["start", &uuid]).await,
        (String::new(), format!("VM {uuid} is already 'running'\n"))
    );
    assert_eq!(shell.ok(&["reboot", &uuid]).await, done("Successfully completed reboot for"));
    assert_eq!(shell.ok(&["reboot", &uuid, "-F"]).await, done("Successfully completed reboot for"));
    assert_eq!(shell.ok(&["stop", &uuid]).await, done("Successfully completed stop for"));
    let already = format!("VM {uuid} is already not 'running' (currently: stopped)\n");
    assert_eq!(shell.ok(&["halt", &uuid, "-t", "5"]).await, (String::new(), already));
    shell.ok(&["boot", &uuid]).await;
    assert_eq!(shell.ok(&["stop", &uuid, "-F"]).await, done("Successfully completed stop for"));
    assert_eq!(shell.ok(&["destroy", &uuid]).await, done("Successfully deleted"));
    let (_, stderr) = shell.fails(1, &["get", &uuid], "").await;
    assert_eq!(stderr, format!("VM {uuid} not found\n"));
}

#[tokio::test]
async fn get_and_list() {
    let shell = Shell::start().await;
    let uuid = shell.create().await;
    let (stdout, _) = shell.ok(&["get", &uuid]).await;
    assert!(stdout.starts_with("{\n  \"uuid\""), "two spaces");
    let vm: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(vm["nics"][0]["primary"], true);
    assert_eq!(
        (&vm["state"], &vm["zone_state"], &vm["type"]),
        (&"stopped".into(), &"installed".into(), &"KVM".into())
    );

    let mut clients = shell.agent.clients().await;
    let other = clients.create(zoneward::proto::v1::VmSpec { alias: Some("web".into()), ..machine() }).await;
    let (table, _) = shell.ok(&["list"]).await;
    assert_eq!(
        table,
        format!(
            "UUID                                  TYPE  RAM      STATE             ALIAS\n\
             {other}  KVM   256      stopped           web\n\
             {uuid}  KVM   1024     stopped           -\n"
        )
    );
    assert_eq!(shell.ok(&["list", "-p", "-o", "alias,ram", "-s", "-ram"]).await.0, ":1024\nweb:256\n");
    assert_eq!(shell.ok(&["list", "-H", "-o", "uuid", "alias=web"]).await.0, format!("{other}\n"));
    for (words, text) in [
        (["list", "-o", "size"], "invalid order field: size"),
        (["list", "-s", "size"], "invalid sort field: size"),
        (["list", "-p", "size=1"], "Invalid filter key: \"size\""),
    ] {
        assert!(shell.fails(2, &words, "").await.1.contains(text));
    }
}

#[tokio::test]
async fn validate() {
    let shell = Shell::start().await;
    let output = shell.run(&["validate", "create"], EXAMPLE).await;
    let (_, stderr) = ok(&["validate"], output);
    assert_eq!(stderr, "VALID 'create' payload for kvm brand VMs.\n");
    let (stdout, stderr) =
        shell.fails(1, &["validate", "create"], r#"{"ram":"lots","colour":"red","disks":[{}]}"#).await;
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        report,
        serde_json::json!({"bad_values": ["ram"], "bad_properties": ["colour"], "missing_properties": ["brand", "disks.0.size"]})
    );
    assert!(stderr.contains("ram: \"lots\" is not a whole number"), "{stderr}");
    shell.fails(2, &["validate", "upgrade"], EXAMPLE).await;
    let (_, stderr) = shell.fails(1, &["create"], r#"{"brand":"xen","disks":[{"size":-1}]}"#).await;
    assert!(stderr.starts_with("Invalid value(s) for: brand,disks.0.size\n"), "{stderr}");
}

#[tokio::test]
async fn what_is_not_understood_ends_with_2() {
    let shell = Shell::start().await;
    let uuid = "00000000-0000-0000-0000-000000000001";
    for (words, text) in [
        (&["craete"][..], "Invalid command: \"craete\". Did you mean \"create\"?"),
        (&["get"], "Invalid or missing UUID for get"),
        (&["start", "x"], "Invalid or missing UUID for start"),
        (&["boot", uuid, "order=c", "order=d"], "You can only specify 'order' once when starting a VM."),
        (&["boot", uuid, "cdrom=/x.iso"], "Parameter to cdrom must be: path,model"),
        (&["boot", uuid, "oder=c"], "Invalid argument to start: oder; did you mean \"order\"?"),
        (&["stop", uuid, "-t", "soon"], "invalid value 'soon'"),
        (&["--endpoint", "http://localhost:1", "list"], "there is no plaintext TCP"),
        (&[], "Usage"),
    ] {
        let (stdout, stderr) = shell.fails(2, words, "").await;
        assert!(stderr.contains(text), "{words:?}: {stderr}");
        assert_eq!(stdout, "");
    }
    let (help, _) = shell.ok(&["help"]).await;
    assert!(help.contains("Usage: vmadm") && help.contains("put-file"), "{help}");
    assert!(shell.ok(&["completions", "bash"]).await.0.contains("_vmadm"));
}

#[tokio::test]
async fn what_fails_ends_with_1() {
    let shell = Shell::start().await;
    let uuid = "00000000-0000-0000-0000-000000000001";
    let large = format!("{{\"brand\":\"kvm\",\"alias\":\"{}\"}}", "x".repeat(1 << 20));
    for (words, input, text) in [
        (&["create"][..], "{", "Invalid JSON payload: "),
        (&["create"], "[]", "Invalid JSON payload: it must be an object"),
        (&["create"], &large, "over the limit of 1 MiB"),
        (&["create", "-f", "/nonexistent"], "", "File: /nonexistent does not exist."),
        (&["start", uuid], "", "Unable to start VM 00000000-0000-0000-0000-000000000001: VM"),
        (&["delete", uuid], "", "Failed to delete VM"),
        (&["events", uuid], "", "not found"),
        (&["--endpoint", "unix:/nonexistent", "list"], "", "is `zoneward serve` running"),
        (&["put-file", uuid, "/nonexistent"], "", "/nonexistent: "),
    ] {
        let (_, stderr) = shell.fails(1, words, input).await;
        assert!(stderr.contains(text), "{words:?}: {stderr}");
    }
    let stopped = shell.create().await;
    let (_, stderr) = shell.fails(1, &["console", &stopped], "").await;
    assert_eq!(stderr, "cannot connect to console when state is \"stopped\" must be \"running\".\n");
    let (_, stderr) = shell.fails(1, &["info", &stopped], "").await;
    assert!(stderr.contains("must be \"running\" or \"stopping\"."), "{stderr}");
}

#[tokio::test]
async fn files_info_console_and_screen() {
    let shell = Shell::start().await;
    let uuid = shell.create().await;
    let local = shell.agent.dir.path().join("tiny.iso");
    std::fs::write(&local, vec![1; 700_000]).unwrap();
    let name = local.to_str().unwrap();
    let (_, stderr) = shell.ok(&["put-file", &uuid, name]).await;
    assert_eq!(stderr, format!("Successfully put /tiny.iso into VM {uuid}\n"));
    shell.fails(1, &["put-file", &uuid, name], "").await;
    shell.ok(&["put-file", &uuid, name, "/tiny.iso", "--overwrite"]).await;
    assert!(shell.ok(&["list-files", &uuid]).await.0.contains("700000"));
    shell.ok(&["boot", &uuid, "order=cd,once=d", "cdrom=/tiny.iso,ide"]).await;

    let info: serde_json::Value =
        serde_json::from_str(&shell.ok(&["info", &uuid, "vnc,status"]).await.0).unwrap();
    assert_eq!(info["vnc"]["host"], "127.0.0.1");
    assert_eq!(info["vnc"]["display"], info["vnc"]["port"].as_i64().unwrap() - 5900, "a whole number");
    shell.agent.process(&uuid).print("login: ");
    assert_eq!(shell.ok(&["console", &uuid, "--log"]).await.0, "login: ");
    assert_eq!(shell.ok(&["console", &uuid]).await.0, "login: ", "ends with its input");
    let picture = shell.agent.dir.path().join("screen.png");
    shell.ok(&["screenshot", &uuid, picture.to_str().unwrap()]).await;
    assert!(std::fs::read(picture).unwrap().starts_with(b"\x89PNG"));
    shell.ok(&["delete-file", &uuid, "/tiny.iso"]).await;
    assert!(shell.ok(&["host"]).await.0.contains("\"accelerator\": \"tcg\""));
}

/// Reads lines of a command that goes on by itself, until one is as wanted.
#[tokio::test]
async fn events_are_printed_as_they_happen() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let shell = Shell::start().await;
    let watching = |words: &[&str]| {
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_vmadm"))
            .env("ZONEWARD_ENDPOINT", format!("unix:{}", shell.agent.socket().display()))
            .args(words)
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    };
    let (_short, mut short) = watching(&["events", "-r"]);
    let (_json, mut json) = watching(&["events", "--json", "--ready"]);
    assert!(short.next_line().await.unwrap().unwrap().ends_with("] ready"));
    let ready: serde_json::Value = serde_json::from_str(&json.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(ready["type"], "ready");
    let uuid = shell.create().await;
    let line = short.next_line().await.unwrap().unwrap();
    assert!(line.ends_with(&format!("] {} - create", &uuid[..8])), "{line}");
    assert_eq!(line.len(), "[HH:MM:SS.mmmZ] 12345678 - create".len());
    let event: serde_json::Value = serde_json::from_str(&json.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!((event["type"].as_str(), event["uuid"].as_str()), (Some("create"), Some(uuid.as_str())));
    let (_full, mut full) = watching(&["events", "--full", "--cursor", event["cursor"].as_str().unwrap()]);
    let line = full.next_line().await.unwrap().unwrap();
    assert!(line.ends_with(&format!("{uuid} - modify")), "after the cursor: {line}");
    assert_eq!(
        full.next_line().await.unwrap().unwrap(),
        "    state changed :: \"provisioning\" -> \"stopped\""
    );
    let (_all, mut all) = watching(&["events", "--from-start", &uuid]);
    assert!(all.next_line().await.unwrap().unwrap().ends_with("create"));
}
