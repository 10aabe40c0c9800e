//! What of a machine admins alone see: in answers, events, filters and files.

use serde_json::json;
use tonic::Code;
use zoneward::{internals::auth::Role, proto::v1};

use super::{
    auth::door,
    support::{Clients, machine, reason},
};

const SECRETS: [&str; 3] = ["hunter2", "hunter3", "#!/bin/secret"];

fn text(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}")
}

async fn seen_by(clients: &mut Clients, uuid: &str) -> Vec<String> {
    let get = clients.get(uuid).await.unwrap();
    let list = clients.vms.list_vms(v1::ListVmsRequest::default()).await.unwrap().into_inner();
    let journal = clients.journal().await;
    let page = v1::ListEventsRequest::default();
    let page = clients.events.list_events(page).await.unwrap().into_inner();
    let start = Some(v1::watch_events_request::Start::Snapshot(true));
    let request = v1::WatchEventsRequest { start, ..Default::default() };
    let mut watch = clients.events.watch_events(request).await.unwrap().into_inner();
    let snapshot = watch.message().await.unwrap();
    vec![text(&get), text(&list), text(&journal), text(&page), text(&snapshot)]
}

#[tokio::test]
async fn secrets_are_for_admins() {
    let door = door().await;
    for (role, name) in [(Role::Viewer, "v"), (Role::Operator, "o")] {
        door.pki.issue(role, name, 30).unwrap();
    }
    let mut admin = door.clients("admin").await.unwrap();
    let object = |value: serde_json::Value| {
        let serde_json::Value::Object(object) = value else { panic!() };
        let fields = object.into_iter().map(|(key, value)| {
            let kind = Some(prost_types::value::Kind::StringValue(value.as_str().unwrap().to_owned()));
            (key, prost_types::Value { kind })
        });
        Some(prost_types::Struct { fields: fields.collect() })
    };
    let spec = v1::VmSpec {
        customer_metadata: object(json!({"root_pw": "hunter2", "open": "everybody"})),
        internal_metadata: object(json!({"script": "#!/bin/secret"})),
        ..machine()
    };
    let uuid = admin.create(spec).await;
    let update = v1::UpdateVmRequest {
        uuid: uuid.clone(),
        set_internal_metadata: object(json!({"more_pw": "hunter3"})),
        ..Default::default()
    };
    admin.vms.update_vm(update).await.unwrap();

    let whole = seen_by(&mut admin, &uuid).await.concat();
    for secret in SECRETS {
        assert!(whole.contains(secret), "{secret} for admins");
    }
    for name in ["v", "o"] {
        let mut clients = door.clients(name).await.unwrap();
        for seen in seen_by(&mut clients, &uuid).await {
            assert!(!SECRETS.iter().any(|secret| seen.contains(secret)), "{name}: {seen}");
        }
        assert!(seen_by(&mut clients, &uuid).await[0].contains("everybody"), "what is none is shown");
        for filter in ["internal_metadata.script=~^#", "customer_metadata.root_pw=hunter2"] {
            let filters = vec![filter.to_owned()];
            let listed = v1::ListVmsRequest { filters: filters.clone(), ..Default::default() };
            let status = clients.vms.list_vms(listed).await.unwrap_err();
            assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "ROLE_REQUIRED"));
            let watched = v1::WatchEventsRequest { filters, ..Default::default() };
            assert_eq!(
                clients.events.watch_events(watched).await.unwrap_err().code(),
                Code::PermissionDenied
            );
        }
    }
    let file = std::fs::read_to_string(door.agent.zonepath(&uuid).join("vm.json")).unwrap();
    assert!(!SECRETS.iter().any(|secret| file.contains(secret)), "{file}");
}
