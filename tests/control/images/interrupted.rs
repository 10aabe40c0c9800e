//! Imports that an agent did not finish.

use zoneward::proto::v1::{self, image_changed::Step, import_image_request::Item};

use super::{
    super::support::{
        eventually, reason,
        web::{Answer, Web},
    },
    digest, disk, get, header, left, local, steps, uuid,
};

#[tokio::test]
async fn the_next_agent_fetches_again_and_ends_uploads() {
    let (mut agent, web) = (local().await, Web::start().await);
    let clients = agent.clients().await;
    let raw = disk();
    web.put("/disk", Answer::Stalls(raw.clone().into(), 100_000));
    let request = v1::FetchImageRequest {
        source: web.url("/disk"),
        digest: digest(&raw),
        uuid: uuid(1),
        request_id: uuid(77),
        ..Default::default()
    };
    let mut fetching = clients.clone();
    let asked = request.clone();
    let fetch = tokio::spawn(async move { super::fetch(&mut fetching, asked).await });
    let (_sender, items) = tokio::sync::mpsc::channel(4);
    _sender.send(v1::ImportImageRequest { item: Some(Item::Header(header(2, &raw))) }).await.unwrap();
    let mut uploading = clients.clone();
    let upload = tokio::spawn(async move {
        uploading.images.import_image(tokio_stream::wrappers::ReceiverStream::new(items)).await.map(drop)
    });
    for number in [1, 2] {
        eventually("it began", || {
            let mut clients = clients.clone();
            async move { get(&mut clients, &uuid(number)).await.ok() }
        })
        .await;
    }
    agent.stop().await;
    fetch.abort();
    upload.abort();
    web.bytes("/disk", raw.clone());
    agent.resume().await;
    let mut clients = agent.clients().await;
    eventually("it is here", || {
        let mut clients = clients.clone();
        async move {
            get(&mut clients, &uuid(1)).await.ok().filter(|image| image.state() == v1::ImageState::Active)
        }
    })
    .await;
    assert_eq!(super::fetch(&mut clients, request).await.unwrap().uuid, uuid(1), "the call is answered");
    eventually("the upload is gone", || {
        let mut clients = clients.clone();
        async move { get(&mut clients, &uuid(2)).await.err().filter(|status| reason(status) == "IMAGE_NOT_FOUND") }
    })
    .await;
    assert_eq!(steps(&mut clients, &uuid(2)).await, [Step::Begun, Step::Failed]);
    assert_eq!(steps(&mut clients, &uuid(1)).await.last(), Some(&Step::Imported));
    assert_eq!(left(&agent).len(), 1);
}

#[tokio::test]
async fn a_deletion_that_was_cut_is_finished_or_undone() {
    let mut agent = local().await;
    let mut clients = agent.clients().await;
    let raw = disk();
    super::import(&mut clients, header(1, &raw), &raw).await.unwrap();
    agent.stop().await;
    let images = agent.config.zones_dir.join("images");
    // Set aside, and not committed; and committed, and not removed.
    std::fs::rename(images.join(uuid(1)), images.join(format!("{}.deleted", uuid(1)))).unwrap();
    std::fs::create_dir(images.join(format!("{}.deleted", uuid(2)))).unwrap();
    agent.resume().await;
    assert_eq!(left(&agent), [images.join(uuid(1))]);
    let mut clients = agent.clients().await;
    assert_eq!(get(&mut clients, &uuid(1)).await.unwrap().state(), v1::ImageState::Active);
}
