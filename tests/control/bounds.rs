//! A change is bounded in the form in which it is sent: what was done is told, and nobody is held up at its place.

use serde_json::{Map, Value, json};
use zoneward::proto::v1;

use super::support::{Clients, fields, machine, reason, simulated::Simulated};

fn flat(object: Map<String, Value>) -> Option<prost_types::Struct> {
    let fields = object.into_iter().map(|(key, value)| {
        let kind = Some(prost_types::value::Kind::StringValue(value.as_str().unwrap().to_owned()));
        (key, prost_types::Value { kind })
    });
    Some(prost_types::Struct { fields: fields.collect() })
}

/// As many keys as a machine can have.
fn many(count: usize, value: &str) -> Map<String, Value> {
    (0..count)
        .map(|n| (format!("{}{}{}", letter(n / 1600), letter(n / 40 % 40), letter(n % 40)), json!(value)))
        .collect()
}

fn letter(n: usize) -> char {
    char::from_u32(0x30 + u32::try_from(n).unwrap()).unwrap()
}

async fn watched(clients: &mut Clients) -> usize {
    let journal = clients.journal().await.len();
    let (mut paged, mut token) = (0, String::new());
    loop {
        let request = v1::ListEventsRequest { page_token: token, ..Default::default() };
        let page = clients.events.list_events(request).await.unwrap().into_inner();
        paged += page.events.len();
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, journal);
    journal
}

#[tokio::test]
async fn a_change_of_everything_is_told_and_passed() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let keys = many(60_000, "a");
    let spec = v1::VmSpec { customer_metadata: flat(keys.clone()), ..machine() };
    let uuid = clients.create(spec).await;
    let changed = flat(keys.iter().map(|(key, _)| (key.clone(), json!("b"))).collect());
    let update =
        v1::UpdateVmRequest { uuid: uuid.clone(), set_customer_metadata: changed, ..Default::default() };
    let answer = clients.vms.update_vm(update).await.unwrap().into_inner();
    let metadata = answer.vm.unwrap().spec.unwrap().customer_metadata.unwrap();
    assert!(metadata.fields.values().all(|value| {
        matches!(&value.kind, Some(prost_types::value::Kind::StringValue(text)) if text == "b")
    }));
    watched(&mut clients).await;
    let other = clients.create(machine()).await;
    let last = clients.journal().await.pop().unwrap();
    assert_eq!(last.uuid, other, "what comes behind it is told");
}

#[tokio::test]
async fn one_long_value_is_cut_in_the_event_and_whole_in_the_machine() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let set = async |clients: &mut Clients, value: String| {
        let set = flat([("k".to_owned(), json!(value))].into_iter().collect());
        let update =
            v1::UpdateVmRequest { uuid: uuid.clone(), set_customer_metadata: set, ..Default::default() };
        Ok::<_, tonic::Status>(clients.vms.update_vm(update).await?.into_inner())
    };
    let answer = set(&mut clients, "x".repeat(900 << 10)).await.unwrap();
    let change = &answer.changes[0];
    assert!(change.cut && change.new_value.len() < 64 << 10, "{}", change.new_value.len());
    let short = set(&mut clients, "short".to_owned()).await.unwrap();
    assert_eq!((short.changes[0].new_value.as_str(), short.changes[0].cut), ("\"short\"", true));
    watched(&mut clients).await;
}

/// What a create takes, an update takes; and what one refuses, all refuse.
#[tokio::test]
async fn create_validate_and_update_measure_alike() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    // Each quote is two bytes as JSON.
    for (bytes, fits) in [(500 << 10, true), (900 << 10, false)] {
        let value = || flat([("k".to_owned(), json!("\"".repeat(bytes)))].into_iter().collect());
        let spec = v1::VmSpec { customer_metadata: value(), ..machine() };
        let validate = v1::ValidateVmRequest { vm: Some(Box::new(spec.clone())), ..Default::default() };
        let validated = clients.vms.validate_vm(validate).await.unwrap().into_inner();
        assert_eq!(validated.violations.is_empty(), fits, "{bytes}");
        let create = v1::CreateVmRequest { vm: Some(spec), ..Default::default() };
        let created = clients.vms.create_vm(create).await;
        let update =
            v1::UpdateVmRequest { uuid: uuid.clone(), set_customer_metadata: value(), ..Default::default() };
        let updated = clients.vms.update_vm(update).await;
        assert_eq!((created.is_ok(), updated.is_ok()), (fits, fits), "{bytes}");
        for status in [created.err(), updated.err()].into_iter().flatten() {
            assert_eq!(
                (reason(&status).as_str(), fields(&status)),
                ("INVALID_MACHINE", vec!["customer_metadata".to_owned()])
            );
        }
    }
    watched(&mut clients).await;
}
