//! The example, as it stands, against an agent.

use zoneward::proto::v1::{self, event::Kind};

use super::support::{eventually, simulated::Simulated};

#[allow(dead_code, reason = "its main is not called here")]
#[path = "../../examples/controller.rs"]
mod controller;

#[tokio::test]
async fn the_controller_places_boots_follows_and_removes() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let endpoint = format!("unix:{}", agent.socket().display());
    let controller = tokio::spawn(controller::run([endpoint].into_iter()));
    let uuid = eventually("it runs", || {
        let mut clients = clients.clone();
        async move {
            let vms = clients.vms.list_vms(v1::ListVmsRequest::default()).await.unwrap().into_inner().vms;
            let runs =
                |vm: &v1::Vm| vm.status.as_ref().is_some_and(|status| status.state() == v1::VmState::Running);
            vms.into_iter().find(runs).map(|vm| vm.uuid)
        }
    })
    .await;
    agent.process(&uuid).print("hello from the guest\n");
    controller.await.unwrap().unwrap();
    assert!(clients.get(&uuid).await.is_err());
    let journal = clients.journal().await;
    assert!(matches!(journal.last().unwrap().kind, Some(Kind::Deleted(_))), "{journal:?}");
    assert!(
        journal
            .iter()
            .any(|event| matches!(event.kind, Some(Kind::Created(_))) && !event.request_id.is_empty())
    );
}
