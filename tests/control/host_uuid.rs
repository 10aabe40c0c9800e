//! The host's UUID: configured, or made once and kept.

use zoneward::{internals::agent::Agent, proto::v1};

use super::support::{Clients, machine, simulated::Simulated};

async fn shown(clients: &mut Clients) -> String {
    clients.host.get_host(v1::GetHostRequest {}).await.unwrap().into_inner().server_uuid
}

#[tokio::test]
async fn a_configured_one_is_shown_by_the_host_and_each_vm() {
    let configured = "0f57e0e1-4a3c-4f6e-9a31-3d5fd9b2f001";
    let agent = Simulated::start_with(|config| config.server_uuid = configured.to_owned()).await;
    let mut clients = agent.clients().await;
    assert_eq!(shown(&mut clients).await, configured);
    let uuid = clients.create(machine()).await;
    assert_eq!(clients.get(&uuid).await.unwrap().status.unwrap().server_uuid, configured);
}

#[tokio::test]
async fn a_made_one_is_the_next_agents_too() {
    let mut agent = Simulated::start().await;
    let first = shown(&mut agent.clients().await).await;
    assert!(uuid::Uuid::parse_str(&first).is_ok(), "{first}");
    agent.stop().await;
    agent.resume().await;
    assert_eq!(shown(&mut agent.clients().await).await, first);
}

/// A host that silently becomes another would lose its VMs in a controller.
#[tokio::test]
async fn a_file_that_is_not_one_is_refused_and_kept() {
    let mut agent = Simulated::start().await;
    agent.stop().await;
    let path = agent.config.state_dir.join("server_uuid");
    std::fs::write(&path, "web-host-1\n").unwrap();
    let refused = Agent::start(agent.config.clone(), agent.platform()).await.err().unwrap().to_string();
    assert!(refused.contains("server_uuid: not a UUID"), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "web-host-1\n");
}

/// As on a full disk.
#[tokio::test]
async fn an_agent_that_cannot_keep_it_still_serves() {
    let mut agent = Simulated::start().await;
    agent.stop().await;
    let path = agent.config.state_dir.join("server_uuid");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(path.with_extension("draft")).unwrap();
    agent.resume().await;
    let shown = shown(&mut agent.clients().await).await;
    assert!(uuid::Uuid::parse_str(&shown).is_ok(), "{shown}");
    assert!(!path.exists());
}
