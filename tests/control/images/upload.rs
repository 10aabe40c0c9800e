//! Images that a client sends.

use serde_json::json;
use tonic::Code;
use zoneward::proto::v1::{self, image_changed::Step, import_image_request::Item};

use super::{
    super::support::{eventually, metadata, reason, simulated::Simulated},
    delete, digest, disk, get, header, import, left, manifest, steps, stream, uuid,
};

#[tokio::test]
async fn an_image_appears_when_it_is_complete_and_right() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let raw = disk();
    let packed = zstd::encode_all(raw.as_slice(), 1).unwrap();
    let asked = v1::ImportImageHeader { name: "mine".into(), ..header(1, &packed) };
    let image = import(&mut clients, asked.clone(), &packed).await.unwrap();
    let manifest = &image.manifest.as_ref().unwrap().fields;
    let text = |key: &str| match manifest[key].kind.clone() {
        Some(prost_types::value::Kind::StringValue(text)) => text,
        other => format!("{other:?}"),
    };
    assert_eq!(
        (image.state(), image.size, image.format.as_str()),
        (v1::ImageState::Active, 3 << 20, "raw+zstd")
    );
    assert_eq!((text("name"), text("type"), image.source.as_str()), ("mine".into(), "zvol".into(), "upload"));
    assert_eq!((image.digest.as_str(), image.uuid.as_str()), (digest(&packed).as_str(), uuid(1).as_str()));
    assert!(image.used > 1 << 20 && image.create_time.is_some());
    let file = agent.config.zones_dir.join("images").join(uuid(1)).join("disk");
    assert!(std::fs::read(file).unwrap() == raw);
    assert_eq!(get(&mut clients, &uuid(1)).await.unwrap(), image);
    assert_eq!(get(&mut clients, &image.digest).await.unwrap(), image);
    assert_eq!(steps(&mut clients, &uuid(1)).await, [Step::Begun, Step::Imported]);
    // Once more, as if nobody had answered.
    assert_eq!(import(&mut clients, asked, &packed).await.unwrap(), image);
    let other = import(&mut clients, header(1, &raw), &raw).await.unwrap_err();
    assert_eq!((other.code(), reason(&other).as_str()), (Code::AlreadyExists, "IMAGE_EXISTS"));

    delete(&mut clients, &uuid(1)).await.unwrap();
    assert_eq!(reason(&get(&mut clients, &uuid(1)).await.unwrap_err()), "IMAGE_NOT_FOUND");
    assert_eq!(reason(&delete(&mut clients, &uuid(1)).await.unwrap_err()), "IMAGE_NOT_FOUND");
    assert_eq!((left(&agent), steps(&mut clients, &uuid(1)).await.last()), (vec![], Some(&Step::Deleted)));
}

#[tokio::test]
async fn what_is_wrong_leaves_nothing_and_a_retry_works() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let (good, flipped) = (stream("plain-8k-img.zsend.gz"), stream("flip-payload.zsend.gz"));
    let wrong = v1::ImportImageHeader { digest: digest(b"other"), ..header(1, &good) };
    for (header, content, fault) in [
        (wrong, &good[..], "digest"),
        (header(1, &flipped), &flipped, "checksum"),
        (header(1, &good[..good.len() - 9]), &good[..good.len() - 9], "bad-container"),
        (header(1, b"nothing that is known"), b"nothing that is known", "unknown-format"),
        (v1::ImportImageHeader { size: 1000, ..header(1, &good) }, &good, "length"),
    ] {
        let status = import(&mut clients, header, content).await.unwrap_err();
        let found = (status.code(), reason(&status), metadata(&status, "fault"));
        assert_eq!(
            found,
            (Code::DataLoss, "IMAGE_BROKEN".to_owned(), fault.to_owned()),
            "{}",
            status.message()
        );
        assert_eq!(reason(&get(&mut clients, &uuid(1)).await.unwrap_err()), "IMAGE_NOT_FOUND");
        assert_eq!(left(&agent), Vec::<std::path::PathBuf>::new());
    }
    assert_eq!(import(&mut clients, header(1, &good), &good).await.unwrap().format, "zfs+gzip");
    let told = steps(&mut clients, &uuid(1)).await;
    assert_eq!(told.iter().filter(|step| **step == Step::Failed).count(), 5);
    assert_eq!(told.last(), Some(&Step::Imported));
}

/// Cut at each 64 KiB, and begun again from the beginning.
#[tokio::test]
async fn an_upload_that_is_cut_everywhere_arrives() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let raw = disk();
    for end in (0..raw.len()).step_by(64 << 10) {
        let status = import(&mut clients, header(1, &raw), &raw[..end]).await.unwrap_err();
        assert_eq!(reason(&status), "UPLOAD_BROKEN", "{end}");
        let image = get(&mut clients, &uuid(1)).await.unwrap();
        assert_eq!(image.state(), v1::ImageState::Importing);
    }
    assert_eq!(import(&mut clients, header(1, &raw), &raw).await.unwrap().size, 3 << 20);
    assert_eq!(steps(&mut clients, &uuid(1)).await, [Step::Begun, Step::Imported]);
}

#[tokio::test]
async fn each_field_of_the_header_is_checked() {
    let agent = Simulated::start_with(|config| config.images.max_gib = 1).await;
    let mut clients = agent.clients().await;
    let raw = disk();
    let good = header(1, &raw);
    let of = |object| v1::ImportImageHeader { manifest: manifest(object), ..header(1, &raw) };
    for (wrong, field) in [
        (v1::ImportImageHeader { uuid: String::new(), ..good.clone() }, "header.uuid"),
        (v1::ImportImageHeader { uuid: "x".into(), ..good.clone() }, "header.uuid"),
        (v1::ImportImageHeader { digest: "sha256:1".into(), ..good.clone() }, "header.digest"),
        (v1::ImportImageHeader { size: 0, ..good.clone() }, "header.size"),
        (v1::ImportImageHeader { size: -1, ..good.clone() }, "header.size"),
        (v1::ImportImageHeader { offset: -1, ..good.clone() }, "header.offset"),
        (v1::ImportImageHeader { request_id: "x".into(), ..good.clone() }, "request_id"),
        (v1::ImportImageHeader { name: "a?".into(), ..good.clone() }, "header.name"),
        (v1::ImportImageHeader { name: "a".repeat(513), ..good.clone() }, "header.name"),
        (v1::ImportImageHeader { name: "a".into(), ..of(json!({"name": "b"})) }, "header.name"),
        (v1::ImportImageHeader { size: (1 << 30) + 1, ..good.clone() }, "header.size"),
        (of(json!({"name": "a", "files": [{"size": 5}]})), "header.size"),
        (of(json!({"name": "a", "type": "lx-dataset"})), "manifest.type"),
        (of(json!({"name": "a", "v": 1})), "manifest.v"),
    ] {
        let status = import(&mut clients, wrong, &raw).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}");
        assert_eq!(super::super::support::fields(&status), [field]);
    }
    let described = of(json!({"name": "a", "os": "linux", "owner": uuid(1)}));
    let image = import(&mut clients, described, &raw).await.unwrap();
    let os = &image.manifest.unwrap().fields["os"];
    assert_eq!(os.kind, Some(prost_types::value::Kind::StringValue("linux".into())));
    // What does not look like a disk, and is one.
    let odd = vec![7; 5000];
    let status = import(&mut clients, header(2, &odd), &odd).await.unwrap_err();
    assert_eq!(metadata(&status, "fault"), "unknown-format");
    let raw = v1::ImportImageHeader { raw: true, ..header(2, &odd) };
    assert_eq!(import(&mut clients, raw, &odd).await.unwrap().size, 5000);
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_cut() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let packed = zstd::encode_all(disk().as_slice(), 1).unwrap();
    let half = packed.len() / 2;
    let (sender, items) = tokio::sync::mpsc::channel(4);
    let send = |item| v1::ImportImageRequest { item: Some(item) };
    let mut first = clients.clone();
    let cut = tokio::spawn(async move {
        first.images.import_image(tokio_stream::wrappers::ReceiverStream::new(items)).await.map(drop)
    });
    sender.send(send(Item::Header(header(1, &packed)))).await.unwrap();
    for chunk in packed[..half].chunks(64 << 10) {
        sender.send(send(Item::Chunk(chunk.to_vec().into()))).await.unwrap();
    }
    let wanted = i64::try_from(half).unwrap();
    eventually("half of it came", || {
        let mut clients = clients.clone();
        async move { get(&mut clients, &uuid(1)).await.ok().filter(|image| image.received == wanted) }
    })
    .await;
    let busy =
        import(&mut clients, v1::ImportImageHeader { offset: wanted, ..header(1, &packed) }, &[]).await;
    assert_eq!(reason(&busy.unwrap_err()), "UPLOAD_BUSY");
    cut.abort();
    let _ = cut.await;
    eventually("the place is free", || {
        let mut clients = clients.clone();
        let beyond = v1::ImportImageHeader { offset: wanted + 1, ..header(1, &packed) };
        async move {
            let status = import(&mut clients, beyond, &[]).await.unwrap_err();
            (reason(&status) == "UPLOAD_OFFSET")
                .then(|| assert_eq!(metadata(&status, "committed"), wanted.to_string()))
        }
    })
    .await;
    let image = get(&mut clients, &uuid(1)).await.unwrap();
    let total = i64::try_from(packed.len()).unwrap();
    assert_eq!((image.state(), image.received, image.total), (v1::ImageState::Importing, wanted, total));
    let rest = v1::ImportImageHeader { offset: wanted, ..header(1, &packed) };
    assert_eq!(import(&mut clients, rest, &packed[half..]).await.unwrap().size, 3 << 20);
}

#[tokio::test]
async fn an_import_is_cancelled_by_its_deletion() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let raw = disk();
    let (sender, items) = tokio::sync::mpsc::channel(4);
    sender.send(v1::ImportImageRequest { item: Some(Item::Header(header(1, &raw))) }).await.unwrap();
    let mut uploading = clients.clone();
    let upload = tokio::spawn(async move {
        uploading.images.import_image(tokio_stream::wrappers::ReceiverStream::new(items)).await.map(drop)
    });
    eventually("it began", || {
        let mut clients = clients.clone();
        async move { get(&mut clients, &uuid(1)).await.ok() }
    })
    .await;
    delete(&mut clients, &uuid(1)).await.unwrap();
    let status = upload.await.unwrap().unwrap_err();
    assert_eq!(reason(&status), "IMAGE_CANCELLED");
    assert_eq!((left(&agent), steps(&mut clients, &uuid(1)).await.last()), (vec![], Some(&Step::Failed)));
}

#[tokio::test]
async fn a_difference_is_applied_to_its_origin() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let (base, difference) = (stream("image.zsend.gz"), stream("incremental-image.zsend.bz2"));
    let described = manifest(json!({"name": "difference", "origin": uuid(1)}));
    let asked = v1::ImportImageHeader { manifest: described, ..header(2, &difference) };
    let alone = import(&mut clients, asked.clone(), &difference).await.unwrap_err();
    assert_eq!(reason(&alone), "IMAGE_NOT_FOUND");
    let named = v1::ImportImageHeader { manifest: None, ..asked.clone() };
    let status = import(&mut clients, named, &difference).await.unwrap_err();
    assert_eq!(metadata(&status, "fault"), "needs-origin");

    let first = import(&mut clients, header(1, &base), &base).await.unwrap();
    assert_ne!(first.guid, "");
    let second = import(&mut clients, asked, &difference).await.unwrap();
    assert_eq!((second.size, second.format.as_str()), (4 << 20, "zfs+bzip2"));
    assert_eq!(get(&mut clients, &uuid(1)).await.unwrap().derived, [uuid(2)]);
    let used = delete(&mut clients, &uuid(1)).await.unwrap_err();
    assert_eq!((reason(&used).as_str(), metadata(&used, "images")), ("IMAGE_IN_USE", uuid(2)));
    delete(&mut clients, &uuid(2)).await.unwrap();
    delete(&mut clients, &uuid(1)).await.unwrap();
}

#[tokio::test]
async fn images_are_listed_page_by_page() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let raw = disk();
    for number in 1..=5 {
        import(&mut clients, header(number, &raw), &raw).await.unwrap();
    }
    let mut token = String::new();
    let mut seen = Vec::new();
    loop {
        let request = v1::ListImagesRequest { page_size: 2, page_token: token };
        let page = clients.images.list_images(request).await.unwrap().into_inner();
        assert!(page.images.len() <= 2);
        seen.extend(page.images.into_iter().map(|image| image.uuid));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (1..=5).map(uuid).collect::<Vec<_>>());
    let request = v1::ExportImageRequest { uuid: uuid(3) };
    let mut export = clients.images.export_image(request).await.unwrap().into_inner();
    let mut packed = Vec::new();
    while let Some(message) = export.message().await.unwrap() {
        match message.item.unwrap() {
            v1::export_image_response::Item::Image(image) => assert_eq!(image.uuid, uuid(3)),
            v1::export_image_response::Item::Chunk(chunk) => packed.extend_from_slice(&chunk),
        }
    }
    assert!(zstd::decode_all(packed.as_slice()).unwrap() == raw);
}
