//! The operator's command against a simulated agent: texts, streams and exit codes.

use std::process::{Command, Output};

use serde_json::json;

use super::support::{
    eventually, machine,
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

/// Who looks at a terminal sees the phases of a boot without asking.
#[tokio::test]
async fn a_boot_is_shown_on_a_terminal() {
    use std::io::Read as _;
    let shell = Shell::start().await;
    let uuid = shell.create().await;
    let ours =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::unlockpt(&ours).unwrap();
    let name = rustix::pty::ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
    let theirs = std::fs::OpenOptions::new().read(true).write(true).open(name).unwrap();
    let socket = shell.agent.socket();
    let output = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmadm"));
        command.env("ZONEWARD_ENDPOINT", format!("unix:{}", socket.display())).env("TERM", "xterm");
        command.env_remove("NO_COLOR").args(["boot", &uuid]).stderr(theirs);
        assert!(command.status().unwrap().success());
        drop(command);
        let mut text = Vec::new();
        // The end of a terminal that nobody else has is an error.
        let _ = std::fs::File::from(ours).read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    })
    .await
    .unwrap();
    let at = |what: &str| output.find(what).unwrap_or_else(|| panic!("{what}: {output:?}"));
    assert!(at("ZONE_READY +") < at("HYPERVISOR_SPAWNED +"), "{output:?}");
    assert!(at("RUNNING +") < at("Successfully started"), "{output:?}");
    assert!(output.starts_with("\x1b[2mZONE_READY"), "colour on a terminal: {output:?}");
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
    assert_eq!(stderr, format!("zoneadm: {uuid}: No such zone configured\n"));
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
    ] {
        assert!(shell.fails(2, &words, "").await.1.contains(text));
    }
    assert!(shell.fails(1, &["list", "-p", "size=1"], "").await.1.contains("Invalid filter key: \"size\""));
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
        (&["start", uuid], "", "Unable to start VM 00000000-0000-0000-0000-000000000001: zoneadm:"),
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
    // More than waits for a guest that reads later: the command stays until the VM has it.
    let paste = "x".repeat(200_000);
    let words = ["console", &uuid];
    let later = async {
        let process = shell.agent.process(&uuid);
        eventually("typed", || async { (process.unread() >= 65_536).then_some(()) }).await;
        shell.ok(&["get", &uuid]).await;
        shell.agent.typed(&uuid, paste.len()).await
    };
    let (output, read) = tokio::join!(shell.run(&words, &paste), later);
    assert_eq!(ok(&words, output).0, "login: ");
    assert_eq!(read, paste.as_bytes());
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
    assert_eq!((&ready["type"], &ready["vms"]), (&json!("ready"), &json!({})));
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

/// What the journal has, and no waiting.
#[tokio::test]
async fn events_that_were() {
    let shell = Shell::start().await;
    assert_eq!(shell.ok(&["events", "--from-start", "--no-follow"]).await.0, "");
    let uuid = shell.create().await;
    let whole = shell.ok(&["events", "--from-start", "--no-follow", "--full"]).await.0;
    assert!(whole.contains(&format!("{uuid} - create\n")), "{whole}");
    assert_eq!(shell.ok(&["events", "--since", "1h", "--no-follow", "--full"]).await.0, whole);
    assert_eq!(
        shell.ok(&["events", "--since", "2020-01-01T00:00:00Z", "--no-follow", "--full"]).await.0,
        whole
    );
    assert_eq!(shell.ok(&["events", "--since", "2120-01-01T00:00:00Z", "--no-follow"]).await.0, "");
    let snapshot = shell.ok(&["events", "--snapshot", "--no-follow", "--full"]).await.0;
    assert_eq!(snapshot, format!("{uuid} - is stopped\n"));
    let (_, error) = shell.fails(2, &["events", "--since", "yesterday-ish"], "").await;
    assert!(error.contains("--since yesterday-ish: not a time"), "{error}");
}

/// The same machine under another name, as it was when it was asked for.
#[tokio::test]
async fn changing_machines() {
    let shell = Shell::start().await;
    let uuid = shell.create().await;
    let (stdout, stderr) =
        shell.ok(&["update", "-v", &uuid, "ram=2048", "alias=web 1", "cpu_cap=50", "quota=7"]).await;
    assert!(
        stdout.is_empty() && stderr.starts_with(&format!("Successfully updated VM {uuid}\n")),
        "{stderr}"
    );
    for line in [
        "    alias: - -> \"web 1\"\n",
        "    ram: 1024 -> 2048\n",
        "    note: quota: kept, but not effective on this host",
    ] {
        assert!(stderr.contains(line), "{line}: {stderr}");
    }
    shell.ok(&["boot", &uuid]).await;
    let payload =
        r#"{"ram": 512, "add_nics": [{"nic_tag": "b"}], "set_tags": {"a": true}, "resolvers": null}"#;
    let output = shell.run(&["update", "-v", &uuid], payload).await;
    let (_, stderr) = ok(&["update"], output);
    assert!(stderr.contains("    ram: 2048 -> 512 (at the next boot)\n"), "{stderr}");
    assert!(stderr.contains("    tags.a: - -> true\n"), "{stderr}");
    for (words, input, code, text) in [
        (vec!["update", &uuid, "rma=1"], "", 1, "did you mean \"ram\"?"),
        (vec!["update", &uuid, "uuid=x"], "", 1, "uuid: can't be changed"),
        (vec!["update", &uuid, "ram"], "", 2, "give key=value"),
        (vec!["update", &uuid, "disks=x"], "", 2, "give a JSON payload"),
        (vec!["update", &uuid], "{", 1, "Invalid JSON payload"),
        (vec!["update", "x"], "{}", 2, "Invalid or missing UUID for update"),
        (vec!["sysrq", &uuid, "reset"], "", 2, "Invalid sysrq type: reset"),
        (vec!["kill", "-FOO", &uuid], "", 1, "Unknown signal \"FOO\""),
        (vec!["resume", &uuid], "", 1, "must be \"paused\""),
        (vec!["change-media", &uuid, "/x.iso"], "", 1, "CD drive"),
    ] {
        let (_, stderr) = shell.fails(code, &words, input).await;
        assert!(stderr.contains(text), "{words:?}: {stderr}");
    }
    let done = |text: String| (String::new(), text + "\n");
    assert_eq!(shell.ok(&["sysrq", &uuid, "nmi"]).await, done(format!("Sent NMI to VM {uuid}")));
    let picture = done(format!("Sent screenshot sysrq to VM {uuid}"));
    assert_eq!(shell.ok(&["sysrq", &uuid, "screenshot"]).await, picture);
    assert_eq!(shell.ok(&["pause", &uuid]).await, done(format!("Successfully paused VM {uuid}")));
    assert_eq!(shell.ok(&["resume", &uuid]).await, done(format!("Successfully resumed VM {uuid}")));
    for words in
        [vec!["kill", "-USR1", &uuid], vec!["kill", "-s", "SIGUSR1", &uuid], vec!["kill", "-10", &uuid]]
    {
        let sent = done(format!("Sent signal \"SIGUSR1\" to init process for VM {uuid}"));
        assert_eq!(shell.ok(&words).await, sent);
    }
    shell.ok(&["stop", "-F", &uuid]).await;
    let (_, stderr) = shell.fails(1, &["kill", &uuid], "").await;
    assert_eq!(stderr, format!("Cannot find running init PID for VM {uuid}\n"));
    let (_, stderr) = shell.fails(1, &["reboot", &uuid], "").await;
    assert!(stderr.contains("Cannot reboot vm from state \"stopped\", must be \"running\""), "{stderr}");
}

#[tokio::test]
async fn lookups_and_lists() {
    let shell = Shell::start().await;
    let uuid = shell.create().await;
    let mut clients = shell.agent.clients().await;
    let web = clients.create(zoneward::proto::v1::VmSpec { alias: Some("web".into()), ..machine() }).await;
    shell.run(&["update", &web], r#"{"set_tags": {"bigbaddaboom": "multipass"}}"#).await;
    assert_eq!(shell.ok(&["lookup", "tags.bigbaddaboom=multipass"]).await.0, format!("{web}\n"), "I01");
    let (table, _) = shell.ok(&["list", "-p", "-o", "uuid,alias", "-s", "alias"]).await;
    assert_eq!(table, format!("{uuid}:\n{web}:web\n"), "I02");
    for (filter, found) in [
        ("nics.*.ip=10.88.88.51", &uuid),
        ("disks.0.size=40960", &uuid),
        ("ram=1024", &uuid),
        ("alias=~^WE", &web),
        ("tags.bigbaddaboom=~pass$", &web),
    ] {
        assert_eq!(shell.ok(&["lookup", "-1", filter]).await.0, format!("{found}\n"), "I04 {filter}");
        assert_eq!(
            shell.ok(&["list", "-H", "-o", "uuid", filter]).await.0,
            format!("{found}\n"),
            "I04 {filter}"
        );
    }
    assert_eq!(shell.ok(&["lookup", "brand=kvm", "state=stopped"]).await.0.lines().count(), 2);
    assert_eq!(shell.ok(&["list", "-p", "-o", "ram", "-s", "-ram,uuid"]).await.0, "1024\n256\n", "I05");
    assert_eq!(shell.ok(&["list", "-p", "-h", "-o", "ram"]).await.0.lines().next(), Some("RAM"));
    assert!(shell.ok(&["list", "-H"]).await.0.lines().all(|line| !line.starts_with("UUID")), "I07");
    assert_eq!(
        shell.ok(&["list", "-p", "-o", "nics.0.ip,disks.0.size,tags.bigbaddaboom", "-s", "ram"]).await.0,
        "::multipass\n10.88.88.51:40960:\n"
    );
    let (json, _) = shell.ok(&["lookup", "-j", "-o", "uuid,alias", "alias=web"]).await;
    let found: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(found, serde_json::json!([{"uuid": web, "alias": "web"}]));
    for (words, code, text) in [
        (vec!["lookup", "-1"], 1, "Requested unique lookup but found 2 results."),
        (vec!["lookup", "-o", "uuid"], 2, "Cannot specify -o without -j"),
        (vec!["lookup", "foo=1"], 1, "Invalid lookup key: \"foo\""),
        (vec!["lookup", "-j", "-o", "foo"], 2, "Invalid lookup key: \"foo\""),
        (vec!["list", "-o", "foo"], 2, "invalid order field: foo"),
        (vec!["list", "-s", "foo"], 2, "invalid sort field: foo"),
    ] {
        assert!(shell.fails(code, &words, "").await.1.contains(text), "I06 {words:?}");
    }
}

/// What `get` printed makes the same machine again.
#[tokio::test]
async fn get_is_a_payload() {
    let shell = Shell::start().await;
    let uuid = shell.create().await;
    shell
        .run(&["update", &uuid], r#"{"set_tags": {"a": 1}, "alias": "x", "add_disks": [{"size": 2}]}"#)
        .await;
    let (printed, _) = shell.ok(&["get", &uuid]).await;
    let mut machine: serde_json::Value = serde_json::from_str(&printed).unwrap();
    machine.as_object_mut().unwrap().shift_remove("uuid");
    shell.ok(&["delete", &uuid]).await;
    let output = shell.run(&["create", "-f", "-"], &machine.to_string()).await;
    let (_, stderr) = ok(&["create"], output);
    let second = stderr.lines().next().unwrap().strip_prefix("Successfully created VM ").unwrap().to_owned();
    let (printed, _) = shell.ok(&["get", &second]).await;
    let again: serde_json::Value = serde_json::from_str(&printed).unwrap();
    for (name, value) in machine.as_object().unwrap() {
        let differs =
            ["zonename", "zonepath", "create_timestamp", "last_modified", "etag", "hostname", "disks"];
        if !differs.contains(&name.as_str()) {
            assert_eq!(&again[name], value, "{name}");
        }
    }
    let disks = |vm: &serde_json::Value| {
        vm["disks"].as_array().unwrap().iter().map(|d| d["size"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(disks(&again), disks(&machine));
}

#[tokio::test]
async fn schema_manual_and_completions() {
    let shell = Shell::start().await;
    let schema: serde_json::Value = serde_json::from_str(&shell.ok(&["schema"]).await.0).unwrap();
    assert_eq!(schema["properties"]["ram"]["maximum"], 16 << 20);
    assert_eq!(schema["properties"]["disks"]["items"]["properties"]["size"]["minimum"], 1);
    assert_eq!(schema["required"], serde_json::json!(["brand"]));
    assert!(schema["$defs"]["update"]["properties"]["add_nics"].is_object());
    let dir = tempfile::tempdir().unwrap();
    shell.ok(&["man", dir.path().to_str().unwrap()]).await;
    let page = std::fs::read_to_string(dir.path().join("vmadm-update.1")).unwrap();
    assert!(page.contains("add_disks"), "{page}");
    for name in ["bash", "zsh", "fish"] {
        assert!(shell.ok(&["completions", name]).await.0.contains("ZONEWARD_COMPLETE"));
    }
    let (_, why) = shell.fails(2, &["completions", "csh"], "").await;
    assert!(why.contains("bash") && why.contains("zsh"), "{why}");
}

/// What vm-agent and its like read: three kinds of events, and first every VM.
#[tokio::test]
async fn events_as_programs_read_them() {
    let shell = Shell::start().await;
    let uuid = shell.create().await;
    shell.ok(&["boot", &uuid]).await;
    let payload = json!({"add_nics": [{"nic_tag": "admin", "model": "virtio", "mac": "02:00:00:00:00:09"}]});
    shell.run(&["update", &uuid], &payload.to_string()).await;
    let lines = |text: String| -> Vec<serde_json::Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let kinds = |events: &[serde_json::Value]| {
        let kinds = events.iter().map(|event| event["type"].as_str().unwrap().to_owned());
        kinds.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    let plain = lines(shell.ok(&["events", "-j", "--from-start", "--no-follow"]).await.0);
    assert_eq!(kinds(&plain), ["create", "modify"]);
    let all = lines(shell.ok(&["events", "-j", "--all", "--from-start", "--no-follow"]).await.0);
    assert_eq!(kinds(&all), ["boot", "create", "modify"]);
    let last = plain.last().unwrap()["changes"].as_array().unwrap();
    let nic = last.iter().find(|change| change["prettyPath"] == "nics.*").unwrap();
    assert_eq!((&nic["action"], &nic["ident"]), (&json!("added"), &json!("02:00:00:00:00:09")));
    let ready = lines(shell.ok(&["events", "-rj", "--no-follow"]).await.0);
    assert_eq!(kinds(&ready), ["ready"]);
    let got: serde_json::Value = serde_json::from_str(&shell.ok(&["get", &uuid]).await.0).unwrap();
    assert_eq!(ready[0]["vms"], json!({ uuid: got }), "the inventory, as get prints each");
}

/// Old tools send more than they know; whoever wants that says so.
#[tokio::test]
async fn unknown_properties_are_notes_on_request() {
    let shell = Shell::start().await;
    let machine = r#"{"brand":"kvm","autoboot":false,"name":"web","nowait":true,"dns_domain":"x","com1":"/dev/zconsole",
        "quota":10,"disks":[{"size":5,"colour":"red"}]}"#;
    let (_, stderr) = shell.fails(1, &["create"], machine).await;
    assert!(stderr.contains("name: there is no such property; did you mean \"alias\"?"), "{stderr}");
    assert!(!stderr.contains("nowait") && !stderr.contains("com1"), "{stderr}");
    let output = shell.run(&["--ignore-unknown", "create"], machine).await;
    let (_, stderr) = ok(&["create"], output);
    let uuid = stderr.strip_prefix("Successfully created VM ").unwrap().trim_end().to_owned();
    assert_eq!(uuid.len(), 36, "one line for programs: {stderr}");
    let output = shell.run(&["--ignore-unknown", "-v", "create"], machine).await;
    let (_, stderr) = ok(&["create"], output);
    for note in [
        "note: name: there is no such property; it is taken for the alias",
        "note: disks.0.colour: there is no such property",
        "note: dns_domain: no effect on brand kvm",
        "note: com1: no effect on brand kvm",
        "note: quota: kept, but not effective on this host",
    ] {
        assert!(stderr.contains(note), "{note}: {stderr}");
    }
    let (_, stderr) = shell.fails(1, &["update", &uuid], r#"{"colour":"red"}"#).await;
    assert!(stderr.contains("colour: there is no such property\n"), "{stderr}");
    let output = shell.run(&["--ignore-unknown", "update", &uuid], r#"{"colour":"red","alias":"a"}"#).await;
    ok(&["update"], output);
    // What the agent alone knows may be said, as long as it is true.
    let same = json!({"uuid": uuid, "state": "stopped", "zonename": uuid}).to_string();
    ok(&["update"], shell.run(&["update", &uuid], &same).await);
    let (_, stderr) = shell.fails(1, &["update", &uuid], r#"{"state":"running"}"#).await;
    assert!(stderr.contains("state: can't be changed"), "{stderr}");
}

/// The words and codes of vmadm's that programs match.
#[tokio::test]
async fn habits_of_smartos() {
    let shell = Shell::start().await;
    let uuid = shell.create().await;
    shell.ok(&["-d", "boot", &uuid]).await;
    shell.ok(&["stop", &uuid, "-f"]).await;
    shell.ok(&["boot", &uuid]).await;
    shell.ok(&["stop", &uuid, "--for"]).await;
    assert!(shell.ok(&["-?"]).await.0.contains("Usage: vmadm"));
    for (words, text) in [
        (&["create-snapshot", &uuid, "x"][..], "Snapshots do not exist yet"),
        (&["send", &uuid], "Moving VMs does not exist yet"),
        (&["reprovision", &uuid], "does not exist yet"),
        (&["lst"], "Did you mean \"list\"?"),
        (&["help", "lst"], "Invalid command: \"lst\". Did you mean \"list\"?"),
    ] {
        assert!(shell.fails(2, words, "").await.1.contains(text), "{words:?}");
    }
    assert!(shell.fails(1, &["lookup", "alias", "alias=x"], "").await.1.contains("give alias=value"));
    let (stdout, _) = shell.fails(1, &["validate", "create"], r#"{"brand":"foobar"}"#).await;
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["bad_brand"], "foobar");
    for (machine, text) in [
        (r#"{"brand":"bhyve","bhyve_extra_opts":"-w"}"#, "arguments of bhyve"),
        (
            r#"{"brand":"bhyve","disks":[{"size":5,"model":"ide"}]}"#,
            "for bhyve brand. Valid are: virtio,ahci,nvme",
        ),
        (
            r#"{"brand":"kvm","disk_driver":"ahci","disks":[{"size":5}]}"#,
            "for kvm brand. Valid are: virtio,scsi,ide",
        ),
        (
            r#"{"brand":"bhyve","disks":[{"size":5,"uuid":"b8ab5fc1-8576-45ef-bb51-9826b52a4651"},
            {"size":5,"uuid":"b8ab5fc1-8576-45ef-bb51-9826b52a4651"}]}"#,
            "duplicate disk uuid",
        ),
        (
            r#"{"brand":"bhyve","nics":[{"nic_tag":"admin","model":"e1000","ip":"dhcp"}]}"#,
            "virtio interfaces alone",
        ),
        (r#"{"brand":"kvm","max_swap":255}"#, "max_swap"),
    ] {
        let (_, stderr) = shell.fails(1, &["create"], machine).await;
        assert!(stderr.contains(text), "{machine}: {stderr}");
    }
    let cd = r#"{"brand":"kvm","autoboot":false,"disks":[{"path":"/a.iso","media":"cdrom","model":"ide","boot":true},{"size":5}]}"#;
    ok(&["create"], shell.run(&["create"], cd).await);
}

/// A machine as SmartOS's own `vmadm get` prints it is a payload here.
#[tokio::test]
async fn a_machine_of_smartos_is_a_payload() {
    let shell = Shell::start().await;
    let old = "b8ab5fc1-8576-45ef-bb51-9826b52a4651";
    let machine = include_str!("../payloads/smartos-get.json");
    ok(&["create"], shell.run(&["create"], machine).await);
    let got: serde_json::Value = serde_json::from_str(&shell.ok(&["get", old]).await.0).unwrap();
    assert_eq!((&got["disks"][0]["size"], &got["ram"]), (&json!(10240), &json!(512)));
    assert_ne!(got["server_uuid"], old, "this host's");
    // Ours without its uuid is another machine.
    let mut ours = got.clone();
    ours.as_object_mut().unwrap().shift_remove("uuid");
    let (_, stderr) = shell.fails(1, &["create"], &ours.to_string()).await;
    assert!(stderr.contains("leave out nics.*.mac"), "{stderr}");
    ours["nics"] = json!([]);
    let (_, stderr) = ok(&["create"], shell.run(&["create"], &ours.to_string()).await);
    let clone = stderr.trim().rsplit(' ').next().unwrap().to_owned();
    let got: serde_json::Value = serde_json::from_str(&shell.ok(&["get", &clone]).await.0).unwrap();
    assert_eq!(got["hostname"], json!(clone));
}
