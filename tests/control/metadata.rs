//! What a guest is told over its second serial port, and may write.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
};
use zoneward::proto::v1;

use super::support::{machine, simulated::Simulated};

/// The guest's end of the port.
struct Port {
    listener: UnixListener,
    stream: BufReader<UnixStream>,
}

impl Port {
    async fn open(agent: &Simulated, uuid: &str) -> Self {
        let port = agent.hypervisor.metadata_port(Simulated::uuid(uuid)).expect("a port");
        let listener = std::os::unix::net::UnixListener::from(port);
        listener.set_nonblocking(true).unwrap();
        let listener = UnixListener::from_std(listener).unwrap();
        let stream = BufReader::new(listener.accept().await.unwrap().0);
        Self { listener, stream }
    }

    /// The next agent has come.
    async fn again(&mut self) {
        self.stream = BufReader::new(self.listener.accept().await.unwrap().0);
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    async fn send(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).await.unwrap();
    }

    /// A request in version 2; the code, and the payload.
    async fn ask(&mut self, command: &str, payload: &str) -> (String, String) {
        let mut body = format!("0badcafe {command}");
        if !payload.is_empty() {
            body.push_str(&format!(" {}", STANDARD.encode(payload)));
        }
        let frame = format!("V2 {} {:08x} {body}\n", body.len(), crc32fast::hash(body.as_bytes()));
        self.send(&frame).await;
        let line = self.line().await;
        let (head, body) = line.split_at(line.match_indices(' ').nth(2).expect("a frame").0 + 1);
        let words: Vec<&str> = head.split(' ').collect();
        assert_eq!((words[0], words[1].parse()), ("V2", Ok(body.len())), "{line}");
        assert_eq!(words[2], format!("{:08x}", crc32fast::hash(body.as_bytes())), "{line}");
        let mut words = body.split(' ');
        assert_eq!(words.next(), Some("0badcafe"), "{line}");
        let code = words.next().expect("a code").to_owned();
        let payload = words.next().map(|text| STANDARD.decode(text).expect("base64")).unwrap_or_default();
        (code, String::from_utf8(payload).expect("text"))
    }

    async fn get(&mut self, key: &str) -> Option<String> {
        match self.ask("GET", key).await {
            (code, value) if code == "SUCCESS" => Some(value),
            (code, words) => {
                assert!(["NOTFOUND", "FAILURE"].contains(&code.as_str()), "{code} {words}");
                None
            }
        }
    }

    async fn put(&mut self, key: &str, value: &str) -> (String, String) {
        self.ask("PUT", &format!("{} {}", STANDARD.encode(key), STANDARD.encode(value))).await
    }
}

fn spec() -> v1::VmSpec {
    let text = serde_json::json!({
        "brand": "kvm", "autoboot": false, "alias": "web1", "ram": 512, "hostname": "web1.example",
        "resolvers": ["8.8.8.8"], "vnc_password": "hunter2",
        "nics": [{"nic_tag": "admin", "model": "virtio", "mac": "02:00:00:00:00:07", "ip": "10.88.88.51",
                  "netmask": "255.255.255.0", "gateway": "10.88.88.1"}],
        "customer_metadata": {"user-script": "#!/bin/sh\n.\nexit", "n": 7, "yes": true, "empty": "", "a_pw": "x"},
        "internal_metadata": {"root_pw": "secret", "cm:note": "read me", "hidden": "no", "operator-script": "ops"},
        "internal_metadata_namespaces": ["cm"], "tags": {"role": "web"},
        "routes": {"10.2.0.0/16": "10.88.88.2", "10.3.0.0/16": "nics[0]"},
    });
    let parsed = zoneward::spec::machine_json::parse(text.to_string().as_bytes()).unwrap();
    zoneward::proto::spec_to_proto(&parsed.spec)
}

#[tokio::test]
async fn a_guest_reads_what_is_its_own() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(spec()).await;
    clients.start(&uuid).await.unwrap();
    let mut port = Port::open(&agent, &uuid).await;
    port.send("\n").await;
    assert_eq!(port.line().await, "invalid command");
    port.send("NEGOTIATE V2\n").await;
    assert_eq!(port.line().await, "V2_OK");
    for (key, value) in [
        ("sdc:uuid", Some(uuid.as_str())),
        ("sdc:alias", Some("web1")),
        ("sdc:hostname", Some("web1.example")),
        ("sdc:ram", Some("512")),
        ("sdc:zonename", Some(uuid.as_str())),
        ("sdc:resolvers", Some(r#"["8.8.8.8"]"#)),
        ("sdc:operator-script", Some("ops")),
        ("sdc:tags.role", Some("web")),
        ("sdc:tags", None),
        ("sdc:vnc_password", None),
        ("sdc:internal_metadata", None),
        ("sdc:nothing", None),
        ("user-script", Some("#!/bin/sh\n.\nexit")),
        ("n", Some("7")),
        ("yes", Some("true")),
        ("empty", Some("")),
        ("root_pw", Some("secret")),
        ("a_pw", None),
        ("cm:note", Some("read me")),
        ("hidden", None),
        ("nothing", None),
    ] {
        assert_eq!(port.get(key).await.as_deref(), value, "{key}");
    }
    let json = |text: Option<String>| -> serde_json::Value { serde_json::from_str(&text.unwrap()).unwrap() };
    let nic = json(port.get("sdc:nics").await)[0].clone();
    assert_eq!(nic["mac"], "02:00:00:00:00:07");
    assert_eq!(
        (&nic["ips"], &nic["gateways"]),
        (&serde_json::json!(["10.88.88.51/24"]), &serde_json::json!(["10.88.88.1"]))
    );
    assert_eq!(nic["primary"], true);
    assert_eq!(
        json(port.get("sdc:routes").await),
        serde_json::json!([
            {"linklocal": false, "dst": "10.2.0.0/16", "gateway": "10.88.88.2"},
            {"linklocal": true, "dst": "10.3.0.0/16", "gateway": "10.88.88.51"},
        ])
    );
    let (_, keys) = port.ask("KEYS", "").await;
    let mut keys: Vec<&str> = keys.lines().collect();
    keys.sort_unstable();
    assert_eq!(keys, ["cm:note", "empty", "n", "root_pw", "user-script", "yes"]);
    // Version 1 of the same.
    port.send("GET user-script\nGET nothing\n").await;
    for line in ["SUCCESS", "#!/bin/sh", "..", "exit", ".", "NOTFOUND"] {
        assert_eq!(port.line().await, line);
    }
    // What is written down behind it has it written down.
    clients.stop(&uuid, true).await.unwrap();
    let boots = clients.journal().await.into_iter().filter_map(|event| match event.kind {
        Some(v1::event::Kind::Boot(phase)) => Some(phase.phase()),
        _ => None,
    });
    let asked = boots.filter(|phase| *phase == v1::boot_phase::Phase::GuestMetadata).count();
    assert_eq!(asked, 1, "told once");
}

#[tokio::test]
async fn what_a_guest_writes_is_an_update_of_its_vm() {
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(spec()).await;
    clients.start(&uuid).await.unwrap();
    let mut port = Port::open(&agent, &uuid).await;
    let ok = ("SUCCESS".to_owned(), "OK".to_owned());
    assert_eq!(port.put("state", "ready é").await, ok);
    assert_eq!(port.put("root_pw", "other").await, ok);
    let refused =
        |namespace: &str| ("FAILURE".to_owned(), format!("Cannot update the \"{namespace}\" Namespace."));
    assert_eq!(port.put("sdc:alias", "mine").await, refused("sdc"));
    assert_eq!(port.put("cm:note", "mine").await, refused("cm"));
    assert_eq!(port.ask("DELETE", "sdc:alias").await, refused("sdc"));
    let vm = clients.get(&uuid).await.unwrap().spec.unwrap();
    let text =
        |object: &prost_types::Struct, key: &str| match object.fields.get(key).and_then(|v| v.kind.clone()) {
            Some(prost_types::value::Kind::StringValue(text)) => text,
            _ => String::new(),
        };
    assert_eq!(text(vm.customer_metadata.as_ref().unwrap(), "state"), "ready é");
    assert_eq!(text(vm.internal_metadata.as_ref().unwrap(), "root_pw"), "other");
    assert_eq!(vm.alias.as_deref(), Some("web1"));
    let event = clients.journal().await.pop().unwrap();
    assert_eq!(event.actor, format!("guest:{uuid}"), "nobody takes it for an operator's");

    // Another agent, and the guest goes on.
    agent.stop().await;
    agent.resume().await;
    port.again().await;
    assert_eq!(port.get("state").await.as_deref(), Some("ready é"));
    assert_eq!(port.put("state", "").await, ok, "an empty value takes it away");
    assert_eq!(port.get("state").await, None);
    assert_eq!(port.ask("DELETE", "n").await, ok);
    assert_eq!(port.ask("DELETE", "n").await, ok, "and again is fine");
    assert_eq!(port.get("n").await, None);
    // What a machine can't hold is refused; the next request is answered.
    let (code, words) = port.put("big", &"x".repeat(1_100_000)).await;
    assert_eq!(code, "FAILURE", "{words}");
    assert_eq!(port.get("big").await, None);
    assert_eq!(port.get("sdc:uuid").await.as_deref(), Some(uuid.as_str()));
}

/// The guest's side as Debian ships it: cloud-init's data source, on a terminal that is the second serial port.
#[tokio::test]
async fn cloud_inits_own_data_source() {
    let tools = super::support::real::target().join("foreign");
    assert!(tools.join("cloud-init").exists(), "cloud-init is missing: run `make test`, which unpacks it");
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let mut vm = spec();
    let metadata = serde_json::json!({
        "brand": "kvm",
        "customer_metadata": {
            "root_authorized_keys": "ssh-ed25519 AAAA me\nssh-rsa BBBB you\n",
            "user-script": "#!/bin/sh\necho hello\n.\n",
            "cloud-init:user-data": "#cloud-config\npackages: [nginx]\n",
        },
    });
    let parsed = zoneward::spec::machine_json::parse(metadata.to_string().as_bytes()).unwrap();
    vm.customer_metadata = zoneward::proto::spec_to_proto(&parsed.spec).customer_metadata;
    let uuid = clients.create(vm).await;
    clients.start(&uuid).await.unwrap();

    let port = Port::open(&agent, &uuid).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ttyS1");
    let line = UnixListener::bind(&path).unwrap();
    let guest = tokio::process::Command::new(tools.join("venv/bin/python"))
        .arg("-B")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/cloud_init.py"))
        .arg(&path)
        .arg(folder.path())
        .env("PYTHONPATH", tools.join("cloud-init/usr/lib/python3/dist-packages"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let carry = async {
        let mut line = line.accept().await.unwrap().0;
        let mut stream = port.stream.into_inner();
        let _ = tokio::io::copy_bidirectional(&mut line, &mut stream).await;
        std::future::pending::<()>().await
    };
    let output = tokio::select! {
        output = guest.wait_with_output() => output.unwrap(),
        () = carry => unreachable!(),
        () = tokio::time::sleep(super::support::GUEST) => panic!("cloud-init is stuck"),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["instance_id"], uuid.as_str());
    assert_eq!(found["hostname"], "web1.example");
    assert_eq!(found["keys"], serde_json::json!(["ssh-ed25519 AAAA me", "ssh-rsa BBBB you"]));
    assert_eq!(found["user_data"], "#cloud-config\npackages: [nginx]\n");
    assert_eq!(found["user_script"], "#!/bin/sh\necho hello\n.\n");
    let network = &found["network"]["config"][0];
    assert_eq!(
        (&network["type"], &network["mac_address"]),
        (&"physical".into(), &"02:00:00:00:00:07".into())
    );
    assert_eq!(network["subnets"][0]["address"], "10.88.88.51/24");
    assert_eq!(network["subnets"][0]["gateway"], "10.88.88.1");
    let dns = found["network"].to_string();
    assert!(dns.contains("8.8.8.8"), "{dns}");
    let vm = clients.get(&uuid).await.unwrap().spec.unwrap();
    assert!(vm.customer_metadata.unwrap().fields.contains_key("from-the-guest"), "and it wrote");
}

/// The same without a channel: the disk that a VM asks for, as cloud-init's NoCloud data source reads it.
#[tokio::test]
async fn cloud_inits_seed_disk() {
    let tools = super::support::real::target().join("foreign");
    assert!(tools.join("cloud-init").exists(), "cloud-init is missing: run `make test`, which unpacks it");
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let machine = serde_json::json!({
        "brand": "kvm", "autoboot": false, "hostname": "web1", "resolvers": ["10.0.0.2"],
        "internal_metadata": {"cloudinit_datasource": "nocloud"},
        "customer_metadata": {"root_authorized_keys": "ssh-ed25519 AAAA me", "cloud-init:user-data": "#cloud-config\n{}\n"},
        "nics": [{"nic_tag": "lan", "model": "virtio", "mac": "02:00:00:00:00:07", "ips": ["10.0.0.5/24", "fd00::5/64"],
            "gateways": ["10.0.0.1"], "primary": true}, {"nic_tag": "lan", "model": "virtio", "ips": ["dhcp"]}],
    });
    let parsed = zoneward::spec::machine_json::parse(machine.to_string().as_bytes()).unwrap();
    let uuid = clients.create(zoneward::proto::spec_to_proto(&parsed.spec)).await;
    let disk = agent.zonepath(&uuid).join("cidata.img");
    assert!(!disk.exists(), "it is made at a start");
    clients.start(&uuid).await.unwrap();
    let (seed, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let run = |command: &mut std::process::Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    run(std::process::Command::new("mcopy").args([
        "-i".as_ref(),
        disk.as_os_str(),
        "::*".as_ref(),
        seed.path().as_os_str(),
    ]));
    let found = run(std::process::Command::new(tools.join("venv/bin/python"))
        .arg("-B")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/cloud_init_seed.py"))
        .args([seed.path(), folder.path()])
        .env("PYTHONPATH", tools.join("cloud-init/usr/lib/python3/dist-packages")));
    let found: serde_json::Value = serde_json::from_slice(&found).unwrap();
    assert_eq!((&found["instance_id"], &found["hostname"]), (&uuid.as_str().into(), &"web1".into()));
    assert_eq!(found["keys"], serde_json::json!(["ssh-ed25519 AAAA me"]));
    assert_eq!(found["user_data"], "#cloud-config\n{}\n");
    let first = &found["interfaces"][0];
    assert_eq!(first["mac_address"], "02:00:00:00:00:07");
    let text = first["subnets"].to_string();
    for word in [r#""10.0.0.5""#, r#""prefix":24"#, r#""fd00::5""#, r#""prefix":64"#, r#""10.0.0.1""#] {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert_eq!(found["interfaces"][1]["subnets"][0]["type"], "dhcp4");
    // Each start makes it again.
    clients.stop(&uuid, true).await.unwrap();
    super::update::update(
        &mut clients,
        &uuid,
        serde_json::json!({"set_customer_metadata": {"cloud-init:user-data": "new"}}),
    )
    .await
    .unwrap();
    clients.start(&uuid).await.unwrap();
    let read = run(std::process::Command::new("mtype").args([
        "-i".as_ref(),
        disk.as_os_str(),
        "::user-data".as_ref(),
    ]));
    assert_eq!(read, b"new");
    clients.stop(&uuid, true).await.unwrap();
    let change = serde_json::json!({"remove_internal_metadata": ["cloudinit_datasource"]});
    super::update::update(&mut clients, &uuid, change).await.unwrap();
    clients.start(&uuid).await.unwrap();
    assert!(!disk.exists(), "it is no longer asked for");
}

/// Nothing that a guest says harms another, or costs more than its own time.
#[tokio::test]
async fn garbage_and_floods() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(spec()).await;
    let other = clients.create(machine()).await;
    clients.start(&uuid).await.unwrap();
    clients.start(&other).await.unwrap();
    let mut port = Port::open(&agent, &uuid).await;
    let mut quiet = Port::open(&agent, &other).await;
    for _ in 0..64 {
        port.stream.get_mut().write_all(&vec![b'x'; 1 << 20]).await.unwrap();
    }
    port.send("\nV2 99999999999999999999 00000000 a GET\nV2 13 f29aef38 00000001 KEYS\n").await;
    let line = port.line().await;
    assert!(line.contains(" 00000001 SUCCESS"), "the one that is whole: {line}");
    // Thousands of requests, whose answers nobody takes.
    let flood = tokio::spawn(async move {
        loop {
            port.stream.get_mut().write_all(b"GET sdc:uuid\n").await.unwrap();
        }
    });
    for _ in 0..20 {
        assert_eq!(quiet.get("sdc:uuid").await.as_deref(), Some(other.as_str()));
    }
    flood.abort();
    let _ = flood.await;
    clients.stop(&uuid, true).await.unwrap();
    assert_eq!(quiet.get("sdc:uuid").await.as_deref(), Some(other.as_str()));
}
