//! Images from web servers, image servers and folders.

use std::sync::Arc;

use serde_json::json;
use tonic::Code;
use zoneward::proto::v1;

use super::{
    super::support::{
        Clients, fields, reason,
        simulated::Simulated,
        web::{Answer, Web},
    },
    delete, digest, disk, fetch, get, local, manifest, stream, uuid,
};

fn of(source: String) -> v1::FetchImageRequest {
    v1::FetchImageRequest { source, ..Default::default() }
}

#[tokio::test]
async fn a_url_with_a_digest_or_a_list_of_them_beside_it() {
    let (agent, web) = (local().await, Web::start().await);
    let mut clients = agent.clients().await;
    let packed = zstd::encode_all(disk().as_slice(), 1).unwrap();
    web.bytes("/a/debian.raw.zst", packed.clone());
    let url = web.url("/a/debian.raw.zst");
    let unknown = fetch(&mut clients, of(url.clone())).await.unwrap_err();
    assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::PermissionDenied, "SOURCE_REFUSED"));

    let known = v1::FetchImageRequest { digest: digest(&packed), ..of(url.clone()) };
    let image = fetch(&mut clients, known.clone()).await.unwrap();
    assert_eq!((image.source.as_str(), image.size), (url.as_str(), 3 << 20));
    assert_eq!(fetch(&mut clients, known).await.unwrap(), image, "it is here");
    delete(&mut clients, &image.uuid).await.unwrap();

    web.bytes(
        "/a/SHA256SUMS",
        format!("{}  debian.raw.zst\n", digest(&packed).trim_start_matches("sha256:")),
    );
    let again = fetch(&mut clients, of(url.clone())).await.unwrap();
    assert_eq!(again.uuid, image.uuid, "one file has one UUID");
    delete(&mut clients, &again.uuid).await.unwrap();
    web.bytes("/a/SHA256SUMS", format!("{}  debian.raw.zst\n", "00".repeat(32)));
    assert_eq!(reason(&fetch(&mut clients, of(url)).await.unwrap_err()), "IMAGE_BROKEN");
}

#[tokio::test]
async fn addresses_that_are_not_allowed_are_not_reached() {
    let (agent, web) = (Simulated::start().await, Web::start().await);
    let mut clients = agent.clients().await;
    web.bytes("/disk", disk());
    let asked = |source: String| v1::FetchImageRequest { digest: digest(&disk()), ..of(source) };
    let port = web.address.rsplit_once(':').unwrap().1.to_owned();
    for source in [
        web.url("/disk"),
        format!("http://localhost:{port}/disk"),
        format!("http://[::ffff:127.0.0.1]:{port}/disk"),
        format!("http://2130706433:{port}/disk"),
        format!("http://0x7f.1:{port}/disk"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        format!("imgapi+http://127.0.0.1:{port}/{}", uuid(1)),
        format!("oci://127.0.0.1:{port}/a:b"),
        "file:///etc/passwd".to_owned(),
    ] {
        let status = fetch(&mut clients, asked(source.clone())).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::PermissionDenied, "SOURCE_REFUSED"),
            "{source}: {status:?}"
        );
    }
    assert_eq!(web.asked(), Vec::<String>::new());
    // The list is for redirects, too.
    let agent =
        Simulated::start_with(|config| config.images.allow = vec!["127.0.0.1".parse().unwrap()]).await;
    let mut clients = agent.clients().await;
    web.put("/away", Answer::Redirect("http://127.0.0.2:1/disk".to_owned()));
    let status = fetch(&mut clients, asked(web.url("/away"))).await.unwrap_err();
    assert_eq!(reason(&status), "SOURCE_REFUSED", "{status:?}");
    web.put("/near", Answer::Redirect(web.url("/disk")));
    fetch(&mut clients, asked(web.url("/near"))).await.unwrap();
    web.put("/round", Answer::Redirect(web.url("/round")));
    let status = fetch(&mut clients, v1::FetchImageRequest { uuid: uuid(2), ..asked(web.url("/round")) })
        .await
        .unwrap_err();
    assert!(reason(&status) == "SOURCE_FAILED" && status.message().contains("redirects"), "{status:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_goes_on_where_it_broke() {
    let (agent, web) = (local().await, Web::start().await);
    let mut clients = agent.clients().await;
    let raw = disk();
    let asked = |path: &str, number| v1::FetchImageRequest {
        digest: digest(&raw),
        uuid: uuid(number),
        ..of(web.url(path))
    };
    web.put("/breaks", Answer::Breaks(raw.clone().into(), 1_000_000));
    fetch(&mut clients, asked("/breaks", 1)).await.unwrap();
    assert!(web.asked().iter().any(|line| line.ends_with("bytes=1000000-")), "{:?}", web.asked());
    // One that stalls is given up, again and again.
    web.put("/stalls", Answer::Stalls(raw.clone().into(), 5000));
    let status = fetch(&mut clients, asked("/stalls", 2)).await.unwrap_err();
    assert_eq!(reason(&status), "SOURCE_FAILED", "{status:?}");
    web.put("/gone", Answer::Status(503));
    let status = fetch(&mut clients, asked("/gone", 3)).await.unwrap_err();
    assert!(status.message().contains("503"), "{status:?}");
    let missing = fetch(&mut clients, asked("/missing", 3)).await.unwrap_err();
    assert!(missing.message().contains("404"), "{missing:?}");
    assert_eq!(reason(&get(&mut clients, &uuid(2)).await.unwrap_err()), "IMAGE_NOT_FOUND");
}

#[tokio::test]
async fn an_image_server_gives_an_image_with_its_origin() {
    let (agent, web) = (local().await, Web::start().await);
    let mut clients = agent.clients().await;
    let mut manifests = Vec::new();
    for (name, file) in [("image", "image.zsend.gz"), ("incremental-image", "incremental-image.zsend.bz2")] {
        let manifest = String::from_utf8(stream(&format!("{name}.imgmanifest"))).unwrap();
        let object: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        let uuid = object["uuid"].as_str().unwrap().to_owned();
        web.bytes(&format!("/images/{uuid}"), manifest);
        web.bytes(&format!("/images/{uuid}/file"), stream(file));
        manifests.push(object);
    }
    web.bytes("/images", serde_json::to_string(&manifests).unwrap());
    let named = |index: usize| manifests[index]["uuid"].as_str().unwrap().to_owned();
    let server = format!("imgapi+{}", web.url(""));
    let request = v1::FetchImageRequest { uuid: named(1), ..of(server.clone()) };
    let image = fetch(&mut clients, request).await.unwrap();
    assert_eq!((image.uuid.as_str(), image.size), (named(1).as_str(), 4 << 20));
    let origin = get(&mut clients, &named(0)).await.unwrap();
    assert_eq!((origin.state(), origin.derived), (v1::ImageState::Active, vec![named(1)]));

    let request = v1::ListRemoteImagesRequest { source: web.url(""), uuid: String::new() };
    let mut offered = clients.images.list_remote_images(request).await.unwrap().into_inner();
    assert_eq!(offered.message().await.unwrap().unwrap().manifests.len(), 2);
    let missing =
        fetch(&mut clients, v1::FetchImageRequest { uuid: uuid(7), ..of(server.clone()) }).await.unwrap_err();
    assert!(reason(&missing) == "SOURCE_MISSING" && missing.message().contains(&uuid(7)), "{missing:?}");

    // A server that lies.
    for (key, value) in [
        ("state", json!("disabled")),
        ("type", json!("lx-dataset")),
        ("uuid", json!(uuid(9))),
        ("files", json!([{"size": 5, "sha1": "00".repeat(20), "compression": "gzip"}])),
        ("files", json!([])),
        ("v", json!(1)),
    ] {
        let mut manifest = manifests[0].clone();
        manifest["uuid"] = json!(uuid(8));
        manifest[key] = value;
        web.bytes(&format!("/images/{}", uuid(8)), manifest.to_string());
        web.bytes(&format!("/images/{}/file", uuid(8)), stream("image.zsend.gz"));
        let status = fetch(&mut clients, v1::FetchImageRequest { uuid: uuid(8), ..of(server.clone()) })
            .await
            .unwrap_err();
        let told = reason(&status);
        assert!(
            ["SOURCE_FAILED", "SOURCE_REFUSED", "IMAGE_BROKEN"].contains(&told.as_str()),
            "{key}: {status:?}"
        );
    }
    assert_eq!(reason(&get(&mut clients, &uuid(8)).await.unwrap_err()), "IMAGE_NOT_FOUND");
}

#[tokio::test]
async fn two_requests_for_one_uuid_make_one_image() {
    let (agent, web) = (local().await, Web::start().await);
    let (mut one, mut two) = (agent.clients().await, agent.clients().await);
    let (first, mut second) = (disk(), disk());
    second[2000] ^= 1;
    web.bytes("/first", first.clone());
    web.bytes("/second", second.clone());
    let request = |path: &str, content: &[u8], number| v1::FetchImageRequest {
        uuid: uuid(number),
        digest: digest(content),
        ..of(web.url(path))
    };
    for number in 1..10 {
        let (a, b) = tokio::join!(
            fetch(&mut one, request("/first", &first, number)),
            fetch(&mut two, request("/second", &second, number))
        );
        let (won, lost) = match (a, b) {
            (Ok(image), Err(error)) | (Err(error), Ok(image)) => (image, error),
            both => panic!("{both:?}"),
        };
        assert_eq!(reason(&lost), "IMAGE_EXISTS", "{lost:?}");
        let kept = get(&mut one, &uuid(number)).await.unwrap();
        assert_eq!((kept.state(), kept.digest), (v1::ImageState::Active, won.digest));
    }
}

#[tokio::test]
async fn a_file_is_not_taken_for_its_own_origin() {
    let (agent, web) = (local().await, Web::start().await);
    let mut clients = agent.clients().await;
    web.bytes("/difference", stream("incremental-image.zsend.bz2"));
    let origin = uuid(9);
    let request = v1::FetchImageRequest {
        manifest: manifest(json!({"uuid": uuid(1), "name": "a", "origin": origin})),
        digest: digest(&stream("incremental-image.zsend.bz2")),
        ..of(web.url("/difference"))
    };
    let status = fetch(&mut clients, request).await.unwrap_err();
    assert!(reason(&status) == "IMAGE_NOT_FOUND" && status.message().contains(&origin), "{status:?}");
    assert_eq!(reason(&get(&mut clients, &origin).await.unwrap_err()), "IMAGE_NOT_FOUND");
}

#[tokio::test]
async fn a_server_with_too_much_is_left() {
    let (agent, web) = (local().await, Web::start().await);
    let mut clients = agent.clients().await;
    let ask = |clients: &mut Clients| {
        let request = v1::ListRemoteImagesRequest { source: web.url(""), uuid: String::new() };
        let mut images = clients.images.clone();
        async move { images.list_remote_images(request).await.unwrap_err() }
    };
    // Pages without a disk that never end, and large ones.
    let page = |number: usize, image: serde_json::Value| {
        let first = u32::try_from(number).unwrap() * 1000;
        let named = |index| {
            let mut image = image.clone();
            image["uuid"] = json!(uuid(first + index));
            image
        };
        serde_json::to_vec(&(0..1000).map(named).collect::<Vec<_>>()).unwrap().into()
    };
    web.put("/images", Answer::Each(Arc::new(move |number| page(number, json!({"type": "other"})))));
    let status = ask(&mut clients).await;
    assert!(reason(&status) == "SOURCE_FAILED" && status.message().contains("ask for one"), "{status:?}");
    assert_eq!(web.asked().len(), 21);
    let large = json!({"type": "zvol", "description": "x".repeat(15_000)});
    web.put("/images", Answer::Each(Arc::new(move |number| page(number, large.clone()))));
    let status = ask(&mut clients).await;
    assert!(reason(&status) == "SOURCE_FAILED" && status.message().contains("ask for one"), "{status:?}");
    assert_eq!(web.asked().len(), 21 + 3);
}

#[tokio::test]
async fn a_signed_address_is_in_no_event() {
    let (agent, web) = (local().await, Web::start().await);
    let mut clients = agent.clients().await;
    web.bytes("/signed", disk());
    let request =
        v1::FetchImageRequest { digest: digest(&disk()), ..of(web.url("/signed?signature=s3cret")) };
    let image = fetch(&mut clients, request).await.unwrap();
    assert!(image.source.ends_with("/signed?…"), "{}", image.source);
    let state = rusqlite::Connection::open(agent.config.state_dir.join("state.db")).unwrap();
    for table in ["event", "image"] {
        let mut all = state.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = all.column_count();
        let mut rows = all.query([]).unwrap();
        let mut count = 0;
        while let Some(row) = rows.next().unwrap() {
            count += 1;
            let shown: Vec<_> =
                (0..columns).map(|index| format!("{:?}", row.get_ref(index).unwrap())).collect();
            let bytes = format!("{:?}", b"s3cret");
            let hidden = bytes.trim_matches(['[', ']']);
            assert!(
                !shown.iter().any(|cell| cell.contains("s3cret") || cell.contains(hidden)),
                "{table}: {shown:?}"
            );
        }
        assert!(count > 0, "{table}");
    }
}

#[tokio::test]
async fn servers_of_the_configuration_are_asked_in_turn() {
    let web = Web::start().await;
    let servers = vec![web.url("/one"), web.url("/two")];
    let agent = Simulated::start_with(|config| {
        config.images.allow = vec!["127.0.0.0/8".parse().unwrap()];
        config.images.servers.clone_from(&servers);
    })
    .await;
    let mut clients = agent.clients().await;
    let manifest = String::from_utf8(stream("image.imgmanifest")).unwrap();
    let object: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let named = object["uuid"].as_str().unwrap().to_owned();
    web.bytes(&format!("/two/images/{named}"), manifest);
    web.bytes(&format!("/two/images/{named}/file"), stream("image.zsend.gz"));
    let image = fetch(&mut clients, v1::FetchImageRequest { uuid: named.clone(), ..Default::default() })
        .await
        .unwrap();
    assert_eq!(image.uuid, named);
    let sources =
        clients.images.list_image_sources(v1::ListImageSourcesRequest {}).await.unwrap().into_inner();
    assert_eq!(sources.sources, servers);
}

#[tokio::test]
async fn files_of_the_host_come_from_named_folders() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    std::fs::write(&path, disk()).unwrap();
    let agent = Simulated::start_with(|config| config.images.folders = vec![folder.path().to_owned()]).await;
    let mut clients = agent.clients().await;
    let named =
        |name: &str| v1::FetchImageRequest { name: name.into(), ..of(format!("file://{}", path.display())) };
    let status = fetch(&mut clients, named("what?")).await.unwrap_err();
    assert_eq!(fields(&status), ["name"], "{status:?}");
    let request = named("of the host");
    let image = fetch(&mut clients, request).await.unwrap();
    assert_eq!((image.size, image.digest), (3 << 20, digest(&disk())));
    let name = &image.manifest.unwrap().fields["name"];
    assert_eq!(name.kind, Some(prost_types::value::Kind::StringValue("of the host".into())));
}
