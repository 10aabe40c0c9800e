//! What bash proposes, with the script that vmadm prints, while a line is typed.

use std::process::Command;

use zoneward::{
    internals::{
        config::Config,
        network::{Tag, TagKind},
    },
    proto::v1,
};

use super::support::{machine, simulated::Simulated};

/// Presses Tab at the end of a line; gives the proposals.
async fn tab(agent: &Simulated, line: &str, environment: bool) -> Vec<String> {
    const PRESS: &str = r#"
        eval "$(vmadm completions bash)"
        COMP_WORDS=($LINE); case $LINE in *" ") COMP_WORDS+=("");; esac
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_TYPE=9
        _clap_complete_vmadm vmadm "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let (endpoint, line) = (format!("unix:{}", agent.socket().display()), line.to_owned());
    let programs = std::path::Path::new(env!("CARGO_BIN_EXE_vmadm")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["--norc", "--noprofile", "-c", PRESS]).env("PATH", path);
    bash.env("LINE", line.replace("ENDPOINT", &endpoint)).env_remove("ZONEWARD_ENDPOINT");
    if environment {
        bash.env("ZONEWARD_ENDPOINT", endpoint);
    }
    let output = tokio::task::spawn_blocking(move || bash.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{line}: {said}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).filter(|l| !l.is_empty()).collect()
}

#[tokio::test]
async fn bash_completes_what_the_agent_knows() {
    let admin = |config: &mut Config| {
        let tag = Tag { kind: TagKind::Etherstub, link: String::new(), mtu: 1500 };
        config.network.tags.insert("admin".to_owned(), tag);
    };
    let agent = Simulated::start_with(admin).await;
    let mut clients = agent.clients().await;
    let web = clients.create(v1::VmSpec { alias: Some("web1".to_owned()), ..machine() }).await;
    let db = clients.create(v1::VmSpec { alias: Some("db1".to_owned()), ..machine() }).await;

    let mut all = vec![web.clone(), db.clone()];
    all.sort();
    let mut proposed = tab(&agent, "vmadm get ", true).await;
    proposed.retain(|word| !word.starts_with('-'));
    proposed.sort();
    assert_eq!(proposed, all);
    for (line, wanted) in [
        (format!("vmadm console {}", &web[..8]), &*web),
        ("vmadm stop db".to_owned(), &*db),
        ("vmadm --endpoint ENDPOINT delete-file web".to_owned(), &*web),
        ("vmadm list -o uuid,ali".to_owned(), "uuid,alias"),
        ("vmadm list -s -quo".to_owned(), "-quota"),
        ("vmadm lookup -j -o max_sw".to_owned(), "max_swap"),
        ("vmadm list cpu_ca".to_owned(), "cpu_cap="),
        (format!("vmadm update {db} cpu_c"), "cpu_cap="),
        (format!("vmadm boot {db} cd"), "cdrom="),
        (format!("vmadm info {web} blocks"), "blockstats"),
        ("vmadm nictagadm exists adm".to_owned(), "admin"),
        ("vmadm change-".to_owned(), "change-media"),
        ("vmadm validate upd".to_owned(), "update"),
    ] {
        let environment = !line.contains("ENDPOINT");
        assert_eq!(tab(&agent, &line, environment).await, [wanted], "{line}");
    }
}

#[tokio::test]
async fn every_type_of_info_is_proposed() {
    let (agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
    let request = v1::GetVmInfoRequest { uuid: uuid.clone(), types: vec!["all".to_owned()] };
    let info = clients.vms.get_vm_info(request).await.unwrap().into_inner().info.unwrap();
    let mut types: Vec<&str> = info.fields.keys().map(String::as_str).collect();
    types.push("all");
    types.sort_unstable();
    let mut proposed = tab(&agent, &format!("vmadm info {uuid} "), true).await;
    proposed.retain(|word| !word.starts_with('-'));
    assert_eq!(proposed, types);
}

/// A line that is being typed is no place for errors.
#[tokio::test]
async fn no_agent_means_no_proposals() {
    let agent = Simulated::start().await;
    let uuid = agent.clients().await.create(machine()).await;
    let line = |endpoint: &str| format!("vmadm --endpoint {endpoint} get {}", &uuid[..8]);
    assert_eq!(tab(&agent, &line("ENDPOINT"), false).await, [uuid.as_str()]);
    for endpoint in ["unix:/nowhere", "nonsense"] {
        let words = tab(&agent, &line(endpoint), true).await;
        assert!(words.is_empty(), "{words:?}");
    }
}
