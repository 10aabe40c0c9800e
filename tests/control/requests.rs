//! A request id makes a repeat harmless.

use tonic::Code;
use zoneward::proto::v1;

use super::support::{fields, machine, reason, sha256, simulated::Simulated};

const ID: &str = "7d444840-9dc0-11d1-b245-5ffdce74fad2";

fn create(vm: v1::VmSpec, id: &str) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        vm: Some(vm),
        request_id: id.to_owned(),
        validate_only: false,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_even_after_a_restart() {
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let first = clients.vms.create_vm(create(machine(), ID)).await.unwrap().into_inner();
    let again = clients.vms.create_vm(create(machine(), ID)).await.unwrap().into_inner();
    assert_eq!(first, again);
    agent.stop().await;
    agent.resume().await;
    let mut clients = agent.clients().await;
    let later = clients.vms.create_vm(create(machine(), ID)).await.unwrap().into_inner();
    assert_eq!(first, later);
    assert_eq!(clients.vms.list_vms(v1::ListVmsRequest::default()).await.unwrap().into_inner().vms.len(), 1);
}

/// An id has many spellings and is one.
#[tokio::test]
async fn a_repeat_in_capitals_is_a_repeat() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let first = clients.vms.create_vm(create(machine(), ID)).await.unwrap().into_inner();
    for same in [ID.to_uppercase(), ID.replace('-', ""), format!("{{{ID}}}"), format!("urn:uuid:{ID}")] {
        let again = clients.vms.create_vm(create(machine(), &same)).await.unwrap().into_inner();
        assert_eq!(first, again, "{same}");
    }
    // Wherever else the same text stands.
    let text = "B8AB5FC1-8576-45EF-BB51-9826B52A4651";
    let named = || v1::VmSpec { alias: Some(text.into()), ..machine() };
    let first = clients.vms.create_vm(create(named(), text)).await.unwrap().into_inner();
    let again = clients.vms.create_vm(create(named(), &text.to_lowercase())).await.unwrap().into_inner();
    assert_eq!(first, again);
}

#[tokio::test]
async fn another_content_under_the_same_id_is_refused() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    clients.vms.create_vm(create(machine(), ID)).await.unwrap();
    let other = v1::VmSpec { ram: Some(512), ..machine() };
    let status = clients.vms.create_vm(create(other, ID)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "REQUEST_ID_REUSED"));
    let status = clients.vms.create_vm(create(machine(), "nonsense")).await.unwrap_err();
    assert_eq!(fields(&status), ["request_id"]);
}

#[tokio::test]
async fn repeats_at_the_same_time_do_the_work_once() {
    let agent = Simulated::start().await;
    let clients = agent.clients().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let mut clients = clients.clone();
        tasks.spawn(async move { clients.vms.create_vm(create(machine(), ID)).await.unwrap().into_inner() });
    }
    let answers = tasks.join_all().await;
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    let mut clients = clients;
    assert_eq!(clients.vms.list_vms(v1::ListVmsRequest::default()).await.unwrap().into_inner().vms.len(), 1);
}

#[tokio::test]
async fn each_mutation_takes_an_id() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let id = |n: u8| format!("7d444840-9dc0-11d1-b245-5ffdce74fa{n:02x}");

    let start = v1::StartVmRequest { uuid: uuid.clone(), request_id: id(1), ..Default::default() };
    let phases = clients.start_with(start.clone()).await.unwrap();
    let pid = clients.get(&uuid).await.unwrap().status.unwrap().pid;

    let reboot = v1::RebootVmRequest { uuid: uuid.clone(), request_id: id(2), ..Default::default() };
    clients.vms.reboot_vm(reboot.clone()).await.unwrap();
    let rebooted = clients.get(&uuid).await.unwrap().status.unwrap().pid;
    assert_ne!(pid, rebooted);
    clients.vms.reboot_vm(reboot).await.unwrap();
    assert_eq!(clients.get(&uuid).await.unwrap().status.unwrap().pid, rebooted, "not once more");

    let reset =
        v1::RebootVmRequest { uuid: uuid.clone(), request_id: id(3), force: true, ..Default::default() };
    clients.vms.reboot_vm(reset).await.unwrap();

    let stop = v1::StopVmRequest { uuid: uuid.clone(), request_id: id(4), ..Default::default() };
    clients.vms.stop_vm(stop.clone()).await.unwrap();
    clients.start(&uuid).await.unwrap();
    let answer = clients.vms.stop_vm(stop).await.unwrap().into_inner();
    assert_eq!(answer.vm.unwrap().status.unwrap().state(), v1::VmState::Stopped, "the first answer");
    assert_eq!(clients.state(&uuid).await, v1::VmState::Running, "and no second stop");
    assert_eq!(clients.start_with(start).await.unwrap(), phases, "with the phases of the first run");

    let header = v1::PutFileHeader {
        uuid: uuid.clone(),
        path: "/a".into(),
        size: 1,
        sha256: sha256(b"a"),
        request_id: id(5),
        ..Default::default()
    };
    clients.put(header.clone(), vec![b"a".to_vec()]).await.unwrap();
    clients.put(header, vec![b"a".to_vec()]).await.unwrap();
    let remove = v1::DeleteFileRequest {
        uuid: uuid.clone(),
        path: "/a".into(),
        request_id: id(6),
        etag: String::new(),
    };
    clients.vms.delete_file(remove.clone()).await.unwrap();
    clients.vms.delete_file(remove).await.unwrap();

    let delete = v1::DeleteVmRequest { uuid: uuid.clone(), request_id: id(7), ..Default::default() };
    clients.vms.delete_vm(delete.clone()).await.unwrap();
    clients.vms.delete_vm(delete).await.unwrap();
    assert_eq!(clients.delete(&uuid).await.unwrap_err().code(), Code::NotFound);

    let events = clients.journal().await;
    for n in 1..=7 {
        assert!(events.iter().any(|event| event.request_id == id(n)), "request {n} is in the journal");
    }
    assert!(events.iter().all(|event| event.actor.is_empty() || event.actor == "unix:uid=0"));
}

/// Answers outlive the agent that gave them: those of every kind, as an agent wrote that knew no versions. One that this
/// agent can't read is said to be lost, and nothing is done again.
#[tokio::test]
async fn answers_of_another_version_of_the_agent() {
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let id = |n: u8| format!("7d444840-9dc0-11d1-b245-5ffdce74fb{n:02x}");
    let uuid = clients.create(machine()).await;
    let gone = clients.create(machine()).await;
    let start = v1::StartVmRequest { uuid: uuid.clone(), request_id: id(1), ..Default::default() };
    let update = v1::UpdateVmRequest {
        uuid: uuid.clone(),
        request_id: id(2),
        vm: Some(Box::new(v1::VmSpec { alias: Some("b".into()), ..Default::default() })),
        ..Default::default()
    };
    let delete = v1::DeleteVmRequest { uuid: gone.clone(), request_id: id(3), ..Default::default() };
    let header = v1::PutFileHeader {
        uuid: uuid.clone(),
        path: "/a".into(),
        size: 1,
        sha256: sha256(b"a"),
        request_id: id(4),
        ..Default::default()
    };
    let reclaim =
        v1::ReclaimLeaksRequest { ids: vec!["none".into()], request_id: id(5), ..Default::default() };
    let wrong = v1::PauseVmRequest { uuid: gone, request_id: id(6), ..Default::default() };
    let ask = async |mut clients: super::support::Clients| {
        let phases = clients.start_with(start.clone()).await.map_err(|status| reason(&status));
        let updated = clients.vms.update_vm(update.clone()).await.map(tonic::Response::into_inner);
        let deleted = clients.vms.delete_vm(delete.clone()).await.map(tonic::Response::into_inner);
        let put = clients.put(header.clone(), vec![b"a".to_vec()]).await;
        let reclaimed = clients.host.reclaim_leaks(reclaim.clone()).await.map(tonic::Response::into_inner);
        let paused = clients.vms.pause_vm(wrong.clone()).await.map(tonic::Response::into_inner);
        (
            phases,
            updated.map_err(|status| reason(&status)),
            deleted.map_err(|status| reason(&status)),
            put.map_err(|status| reason(&status)),
            reclaimed.map_err(|status| reason(&status)),
            paused.map_err(|status| reason(&status)),
        )
    };
    let first = ask(clients).await;
    assert!(first.0.is_ok() && first.1.is_ok() && first.2.is_ok() && first.3.is_ok() && first.4.is_ok());
    let edit = async |agent: &mut Simulated, change: &str| {
        agent.stop().await;
        let file = rusqlite::Connection::open(agent.config.state_dir.join("state.db")).unwrap();
        assert!(file.execute(change, []).unwrap() >= 5);
        drop(file);
        agent.resume().await;
        agent.clients().await
    };
    let clients = edit(&mut agent, "UPDATE request SET answer = json_extract(answer, '$.answer')").await;
    assert_eq!(ask(clients).await, first);
    let clients = edit(&mut agent, r#"UPDATE request SET answer = '{"v":2,"answer":{}}'"#).await;
    let lost = ask(clients.clone()).await;
    for found in [
        lost.0.unwrap_err(),
        lost.1.unwrap_err(),
        lost.2.unwrap_err(),
        lost.3.unwrap_err(),
        lost.4.unwrap_err(),
    ] {
        assert_eq!(found, "ANSWER_LOST");
    }
    let mut clients = clients;
    assert_eq!(clients.get(&uuid).await.unwrap().spec.unwrap().alias.as_deref(), Some("b"));
}
