//! Consoles over gRPC.

use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Status, Streaming};
use zoneward::{
    client::{self, Attached, ConsoleOutput, Printed, Reason},
    proto::v1::{self, attach_request, attach_response, read_log_response::Item},
};

use super::support::{Clients, fields, metadata, patience, reason, simulated::Simulated};

async fn running() -> (Simulated, Clients, String) {
    Simulated::start_with(|config| config.console.keep_kib = 64).await.with_a_guest().await
}

fn from(uuid: &str, offset: i64, follow: bool) -> v1::ReadLogRequest {
    v1::ReadLogRequest { uuid: uuid.to_owned(), offset, follow }
}

type Sender = mpsc::Sender<v1::AttachRequest>;

async fn attach(
    clients: &mut Clients,
    first: attach_request::Item,
) -> Result<(Sender, Streaming<v1::AttachResponse>), Status> {
    let (sender, input) = mpsc::channel(4);
    sender.send(v1::AttachRequest { item: Some(first) }).await.unwrap();
    let stream = clients.consoles.attach(ReceiverStream::new(input)).await?.into_inner();
    Ok((sender, stream))
}

fn start(uuid: &str, offset: Option<i64>) -> attach_request::Item {
    attach_request::Item::Attach(v1::AttachStart { uuid: uuid.to_owned(), offset, ..Default::default() })
}

fn looking(uuid: &str) -> attach_request::Item {
    let start = v1::AttachStart { uuid: uuid.to_owned(), read_only: true, ..Default::default() };
    attach_request::Item::Attach(start)
}

#[tokio::test]
async fn history_then_what_follows_by_offset() {
    let (agent, mut clients, uuid) = running().await;
    agent.process(&uuid).print("hello ");
    let (_sender, mut attached) = attach(&mut clients, start(&uuid, Some(2))).await.unwrap();
    let data = |message: v1::AttachResponse| match message.item.unwrap() {
        attach_response::Item::Data(data) => (data.offset, data.data),
        other => panic!("{other:?}"),
    };
    assert_eq!(data(attached.next().await.unwrap().unwrap()), (2, "llo ".into()));
    agent.process(&uuid).print("world");
    assert_eq!(data(attached.next().await.unwrap().unwrap()), (6, "world".into()));
    let (_sender, mut at_end) = attach(&mut clients, looking(&uuid)).await.unwrap();
    agent.process(&uuid).print("!");
    assert_eq!(data(at_end.next().await.unwrap().unwrap()), (11, "!".into()), "no offset: only what is new");
    assert_eq!(clients.console_log(&uuid).await, "hello world!");
}

#[tokio::test]
async fn the_log_outlives_stop_start_and_restart() {
    let (mut agent, mut clients, uuid) = running().await;
    agent.process(&uuid).print("one ");
    clients.stop(&uuid, true).await.unwrap();
    clients.start(&uuid).await.unwrap();
    agent.process(&uuid).print("two ");
    agent.stop().await;
    agent.process(&uuid).print("away ");
    agent.resume().await;
    let mut clients = agent.clients().await;
    agent.process(&uuid).print("back");
    assert_eq!(clients.console_until(&uuid, 0, "back").await.0, "one two away back");
}

#[tokio::test]
async fn what_is_not_kept_is_a_gap() {
    let (agent, mut clients, uuid) = running().await;
    let process = agent.process(&uuid);
    let block = "x".repeat(64 << 10);
    for _ in 0..32 {
        process.print(&block);
    }
    process.print("end");
    let end = 32 * (64 << 10) + 3;
    // Cutting happens as the log grows, behind the writer's back.
    let mut stream = super::support::eventually("a gap", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move {
            let mut stream = clients.consoles.read_log(from(&uuid, 0, false)).await.unwrap().into_inner();
            let first = stream.next().await.unwrap().unwrap().item.unwrap();
            matches!(first, Item::Gap(_)).then_some(stream)
        }
    })
    .await;
    let mut next = None;
    while let Some(message) = stream.next().await {
        match message.unwrap().item.unwrap() {
            Item::Data(data) => {
                assert_eq!(next.unwrap_or(data.offset), data.offset);
                next = Some(data.offset + i64::try_from(data.data.len()).unwrap());
            }
            Item::Gap(gap) => next = Some(gap.to),
        }
    }
    assert_eq!(next, Some(end));
    let status = clients.consoles.read_log(from(&uuid, end + 1, false)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::OutOfRange, "CONSOLE_OFFSET"));
    assert_eq!(metadata(&status, "end"), end.to_string());
    assert_ne!(metadata(&status, "oldest"), "0");
}

#[tokio::test]
async fn bad_requests() {
    let (_agent, mut clients, uuid) = running().await;
    let status = clients.consoles.read_log(from(&uuid, -1, false)).await.unwrap_err();
    assert_eq!(fields(&status), ["offset"]);
    let other = "00000000-0000-0000-0000-000000000001";
    assert_eq!(clients.consoles.read_log(from(other, 0, false)).await.unwrap_err().code(), Code::NotFound);
    let input = || attach_request::Item::Input(b"x".to_vec().into());
    let status = attach(&mut clients, input()).await.map(drop).unwrap_err();
    assert_eq!(fields(&status), ["attach"], "input before attach");
    let status = attach(&mut clients, start("x", None)).await.map(drop).unwrap_err();
    assert_eq!(fields(&status), ["attach.uuid"]);

    let (sender, mut stream) = attach(&mut clients, start(&uuid, None)).await.unwrap();
    sender.send(v1::AttachRequest { item: Some(start(&uuid, None)) }).await.unwrap();
    assert_eq!(fields(&stream.next().await.unwrap().unwrap_err()), ["attach"], "attach twice");
    let (sender, mut stream) = attach(&mut clients, start(&uuid, None)).await.unwrap();
    let huge = attach_request::Item::Input(vec![b'x'; (64 << 10) + 1].into());
    sender.send(v1::AttachRequest { item: Some(huge) }).await.unwrap();
    assert_eq!(fields(&stream.next().await.unwrap().unwrap_err()), ["input"], "too much at once");
}

/// Who closes the input is told once the VM has all of it, however slowly it reads; output goes on.
#[tokio::test]
async fn the_end_of_the_input_is_told() {
    let (agent, mut clients, uuid) = running().await;
    let process = agent.process(&uuid);
    let (sender, mut stream) = attach(&mut clients, start(&uuid, None)).await.unwrap();
    // Twice what waits in the FIFO of a guest that does not read.
    let pieces = 4;
    let piece = vec![b'x'; 32 << 10];
    let typing = tokio::spawn(async move {
        for _ in 0..pieces {
            let item = Some(attach_request::Item::Input(piece.clone().into()));
            sender.send(v1::AttachRequest { item }).await.unwrap();
        }
    });
    process.print("before");
    let first = stream.next().await.unwrap().unwrap().item.unwrap();
    assert!(matches!(first, attach_response::Item::Data(_)), "not before all is taken: {first:?}");
    let total = pieces * (32 << 10);
    assert_eq!(agent.typed(&uuid, total).await, vec![b'x'; total]);
    typing.await.unwrap();
    let end = stream.next().await.unwrap().unwrap().item.unwrap();
    let bytes = i64::try_from(total).unwrap();
    assert_eq!(end, attach_response::Item::InputEnd(v1::ConsoleInputEnd { bytes }));
    process.print("after");
    let last = stream.next().await.unwrap().unwrap().item.unwrap();
    assert!(matches!(last, attach_response::Item::Data(_)), "{last:?}");
    let (sender, mut stream) = attach(&mut clients, looking(&uuid)).await.unwrap();
    drop(sender);
    let end = stream.next().await.unwrap().unwrap().item.unwrap();
    assert_eq!(end, attach_response::Item::InputEnd(v1::ConsoleInputEnd { bytes: 0 }));
}

#[tokio::test]
async fn followers_end_when_the_vm_is_deleted() {
    let (_agent, mut clients, uuid) = running().await;
    let mut stream = clients.consoles.read_log(from(&uuid, 0, true)).await.unwrap().into_inner();
    let (_sender, mut attached) = attach(&mut clients, start(&uuid, None)).await.unwrap();
    clients.delete(&uuid).await.unwrap();
    assert!(stream.next().await.is_none());
    let end = tokio::time::timeout(patience(), attached.next()).await;
    assert!(end.expect("an end").is_none(), "also who could type");
}

/// Who takes over need not wait for a guest that does not read what the other typed.
#[tokio::test]
async fn a_writer_that_waits_is_taken_over_from() {
    let (agent, mut clients, uuid) = running().await;
    let (first, mut first_out) = attach(&mut clients, start(&uuid, None)).await.unwrap();
    for _ in 0..3 {
        let item = Some(attach_request::Item::Input(vec![b'x'; 64 << 10].into()));
        first.send(v1::AttachRequest { item }).await.unwrap();
    }
    let process = agent.process(&uuid);
    super::support::eventually("the FIFO is full", || async { (process.unread() >= 65_536).then_some(()) })
        .await;
    let over = v1::AttachStart { uuid: uuid.clone(), take_over: true, ..Default::default() };
    let (_second, _out) = attach(&mut clients, attach_request::Item::Attach(over)).await.unwrap();
    let told = tokio::time::timeout(patience(), first_out.next()).await.expect("an end");
    assert_eq!(reason(&told.unwrap().unwrap_err()), "CONSOLE_BUSY");
}

/// One writes; others look, or say that they take over, and the one who wrote is told by whom.
#[tokio::test]
async fn one_writer_at_a_time() {
    let (agent, mut clients, uuid) = running().await;
    let (first, mut first_out) = attach(&mut clients, start(&uuid, None)).await.unwrap();
    let status = attach(&mut clients, start(&uuid, None)).await.map(drop).unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "CONSOLE_BUSY"));
    assert!(
        status.message().contains("is writing to this console; attach read-only, or take it over"),
        "{status:?}"
    );
    let (looker, mut looker_out) = attach(&mut clients, looking(&uuid)).await.unwrap();
    let typed = || v1::AttachRequest { item: Some(attach_request::Item::Input(b"x".to_vec().into())) };
    looker.send(typed()).await.unwrap();
    assert_eq!(
        fields(&looker_out.next().await.unwrap().unwrap_err()),
        ["input"],
        "who only looks can't type"
    );

    let over = v1::AttachStart { uuid: uuid.clone(), take_over: true, ..Default::default() };
    let (second, _second_out) = attach(&mut clients, attach_request::Item::Attach(over)).await.unwrap();
    let status = first_out.next().await.unwrap().unwrap_err();
    assert_eq!(reason(&status), "CONSOLE_BUSY");
    assert!(status.message().contains("took this console over"), "{status:?}");
    drop(first);
    let pressed = v1::AttachRequest { item: Some(attach_request::Item::SendBreak(v1::ConsoleBreak {})) };
    second.send(pressed).await.unwrap();
    super::support::eventually("the break is sent", || {
        let done = agent.hypervisor.done(uuid.parse().unwrap());
        async move { (done == ["break"]).then_some(()) }
    })
    .await;
    // Who leaves gives the right back.
    drop(second);
    super::support::eventually("free again", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { attach(&mut clients, start(&uuid, None)).await.ok() }
    })
    .await;
}

/// The screen without a port: RFB in both directions, for as long as the VM runs.
#[tokio::test]
async fn a_screen_over_the_api() {
    let (_agent, mut clients, uuid) = running().await;
    let open = async |clients: &mut Clients, item: v1::connect_vnc_request::Item| {
        let (sender, input) = mpsc::channel(4);
        sender.send(v1::ConnectVncRequest { item: Some(item) }).await.unwrap();
        let stream = clients.consoles.connect_vnc(ReceiverStream::new(input)).await?.into_inner();
        Ok::<_, Status>((sender, stream))
    };
    use v1::connect_vnc_request::Item;
    let connect = |uuid: &str| Item::Connect(v1::ConnectVncStart { uuid: uuid.to_owned() });
    let (sender, mut screen) = open(&mut clients, connect(&uuid)).await.unwrap();
    assert_eq!(screen.next().await.unwrap().unwrap().data, "RFB 003.008\n");
    let huge = Item::Data(vec![0; (64 << 10) + 1].into());
    sender.send(v1::ConnectVncRequest { item: Some(huge) }).await.unwrap();
    loop {
        if let Err(status) = screen.next().await.unwrap() {
            break assert_eq!(fields(&status), ["data"]);
        }
    }
    let status = open(&mut clients, Item::Data(vec![1].into())).await.map(drop).unwrap_err();
    assert_eq!(fields(&status), ["connect"]);
    let status = open(&mut clients, connect("x")).await.map(drop).unwrap_err();
    assert_eq!(fields(&status), ["connect.uuid"]);
    clients.stop(&uuid, true).await.unwrap();
    let status = open(&mut clients, connect(&uuid)).await.map(drop).unwrap_err();
    assert_eq!(reason(&status), "VM_STATE");
}

/// Output until `end`, and whether the connection broke and came back meanwhile.
async fn read_until(output: &mut ConsoleOutput, end: &str) -> (String, Vec<&'static str>) {
    let (mut text, mut told) = (String::new(), Vec::new());
    while !text.ends_with(end) {
        match tokio::time::timeout(patience(), output.next()).await.expect("something").unwrap() {
            Attached::Printed(Printed::Bytes(bytes)) => text += std::str::from_utf8(&bytes).unwrap(),
            Attached::Printed(gap) => panic!("{gap:?}"),
            Attached::Broken(_) => told.push("broken"),
            Attached::Reconnected => told.push("reconnected"),
            Attached::InputEnd { bytes } => panic!("{bytes} bytes of input, which was not ended"),
        }
    }
    (text, told)
}

#[tokio::test]
async fn a_client_comes_back_at_its_byte_and_types_on() {
    let (mut agent, clients, uuid) = running().await;
    let start = v1::AttachStart { uuid: uuid.clone(), offset: Some(0), ..Default::default() };
    let (input, mut output) = client::attach(clients.consoles.clone(), start.clone()).await.unwrap();
    agent.process(&uuid).print("one ");
    assert_eq!(read_until(&mut output, "one ").await, ("one ".to_owned(), vec![]));
    let second = client::attach(clients.consoles.clone(), start).await.map(drop).unwrap_err();
    assert_eq!(client::reason(&second), Some(Reason::ConsoleBusy));
    agent.stop().await;
    agent.process(&uuid).print("two ");
    agent.resume().await;
    agent.process(&uuid).print("three");
    let back = read_until(&mut output, "three").await;
    assert_eq!(back, ("two three".to_owned(), vec!["broken", "reconnected"]));
    assert_eq!(output.offset(), Some(13));
    assert!(input.send("typed").await);
    assert_eq!(agent.typed(&uuid, 5).await, b"typed");
    input.end();
    let end = tokio::time::timeout(patience(), output.next()).await.expect("an end").unwrap();
    assert!(matches!(end, Attached::InputEnd { bytes: 5 }), "{end:?}");
}
