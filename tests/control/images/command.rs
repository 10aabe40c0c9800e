//! The operator's command, `imgadm`: texts, streams and exit codes.

use std::process::{Command, Output};

use super::{
    super::support::{machine, simulated::Simulated, web::Web},
    digest, disk, local, stream, uuid,
};

async fn imgadm(agent: &Simulated, words: &[&str]) -> (i32, String, String) {
    let (socket, words) = (agent.socket(), words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    let run = move || -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imgadm"));
        command.env("ZONEWARD_ENDPOINT", format!("unix:{}", socket.display())).args(words).output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn a_file_is_imported_listed_exported_and_deleted() {
    let agent = Simulated::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("debian.raw");
    std::fs::write(&path, disk()).unwrap();
    let path = path.to_str().unwrap();
    let (code, out, err) = imgadm(&agent, &["import", path]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let image = out.strip_prefix("Imported image ").unwrap().split(' ').next().unwrap().to_owned();
    assert!(out.trim_end().ends_with("(debian.raw@0)"), "{out}");
    let again = imgadm(&agent, &["import", path]).await;
    assert_eq!(
        again,
        (0, format!("Image {image} (debian.raw@0) is already installed, skipping\n"), String::new())
    );

    let (_, table, _) = imgadm(&agent, &["list"]).await;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["UUID", "NAME", "VERSION", "OS", "TYPE", "PUB"]);
    assert_eq!(lines[1][..5], [image.as_str(), "debian.raw", "0", "other", "zvol"]);
    let (_, json, _) = imgadm(&agent, &["list", "-j", "name=~debian"]).await;
    let list: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&list[0]["manifest"]["uuid"], &list[0]["source"]), (&image.clone().into(), &"upload".into()));
    assert_eq!(imgadm(&agent, &["list", "-H", "-o", "name", "os=linux"]).await.1, "");
    let (_, got, _) = imgadm(&agent, &["get", &digest(&disk())]).await;
    assert!(got.contains(&image), "by digest: {got}");

    let out = dir.path().join("out.zst");
    let (code, _, err) = imgadm(&agent, &["export", "-o", out.to_str().unwrap(), &image]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(zstd::decode_all(std::fs::File::open(&out).unwrap()).unwrap() == disk());
    let again = imgadm(&agent, &["export", "-o", out.to_str().unwrap(), &image]).await;
    assert!(again.0 == 1 && again.2.contains("FileExists"), "{again:?}");
    let manifest = dir.path().join("out.zst.imgmanifest");
    assert_eq!(imgadm(&agent, &["delete", &image]).await.0, 0);
    let install = ["install", "-m", manifest.to_str().unwrap(), "-f", out.to_str().unwrap()];
    let (code, text, err) = imgadm(&agent, &install).await;
    assert_eq!(
        (code, text.as_str()),
        (0, format!("Installed image {image} (debian.raw@0)\n").as_str()),
        "{err}"
    );
    let other = ["import", "--uuid", &image.to_uppercase(), manifest.to_str().unwrap()];
    let (code, _, err) = imgadm(&agent, &other).await;
    assert!(code == 1 && err.contains("(ImageAlreadyInstalled)"), "{err}");
    std::fs::write(&manifest, "{\"v\":2}").unwrap();
    let (code, _, err) = imgadm(&agent, &install).await;
    assert!(code == 1 && err.contains("manifest.uuid: required"), "{err}");
    assert_eq!(
        imgadm(&agent, &["delete", "-P", "zones", &image]).await,
        (0, format!("Deleted image {image}\n"), String::new())
    );
    let (code, out, err) = imgadm(&agent, &["delete", &image]).await;
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.starts_with("imgadm delete: error (ImageNotInstalled): "), "{err}");
}

#[tokio::test]
async fn a_manifest_and_a_file_are_installed_and_unused_ones_vacuumed() {
    let agent = Simulated::start().await;
    let folder = "tests/zfs-streams";
    let install =
        ["install", "-m", &format!("{folder}/image.imgmanifest"), "-f", &format!("{folder}/image.zsend.gz")];
    let (code, out, err) = imgadm(&agent, &install).await;
    assert!(code == 0 && out.starts_with("Installed image "), "{out}{err}");
    let first = out.split(' ').nth(2).unwrap().to_owned();
    let second = format!("{folder}/incremental-image.imgmanifest");
    let wrong = imgadm(&agent, &["install", "-m", &second, "-f", &format!("{folder}/image.zsend.gz")]).await;
    assert!(wrong.0 == 1 && wrong.2.contains("bytes, and the manifest says"), "{wrong:?}");
    let difference = ["install", "-m", &second, "-f", &format!("{folder}/incremental-image.zsend.bz2")];
    let right = imgadm(&agent, &difference).await;
    assert_eq!(right.0, 0, "{right:?}");

    let mut clients = agent.clients().await;
    let disks = vec![zoneward::proto::v1::DiskSpec { image_uuid: Some(first.clone()), ..Default::default() }];
    let vm = clients.create(zoneward::proto::v1::VmSpec { disks, ram: Some(1024), ..machine() }).await;
    let (_, listed, _) = imgadm(&agent, &["list", "-Ho", "uuid,clones"]).await;
    assert!(listed.contains(&format!("{first}  2")), "a VM and an image: {listed}");
    let (code, _, err) = imgadm(&agent, &["delete", &first]).await;
    assert!(code == 1 && err.contains("ImageHasDependentClones") && err.contains(&vm), "{err}");
    let dry = imgadm(&agent, &["vacuum", "-n"]).await.1;
    assert!(dry.starts_with("Would delete image ") && !dry.contains(&first), "{dry}");
    let unasked = imgadm(&agent, &["vacuum"]).await;
    assert!(
        unasked.0 == 2 && unasked.1 == dry && unasked.2.contains("-f"),
        "no terminal to ask on: {unasked:?}"
    );
    assert_eq!(imgadm(&agent, &["vacuum", "-f"]).await.1.lines().count(), 1);
    assert_eq!(imgadm(&agent, &["vacuum", "-f"]).await.1, "");
    clients.delete(&vm).await.unwrap();
    assert_eq!(imgadm(&agent, &install).await.0, 0, "it is there");
    assert_eq!(imgadm(&agent, &difference).await.0, 0);
    let dry = imgadm(&agent, &["vacuum", "-n"]).await.1;
    let real = imgadm(&agent, &["vacuum", "-f"]).await.1;
    assert_eq!(
        (dry.lines().count(), dry.replace("Would delete", "Deleted")),
        (2, real),
        "the difference first"
    );
    assert!(dry.lines().nth(1).unwrap().contains(&first), "{dry}");
}

#[tokio::test]
async fn what_a_server_offers_is_shown_and_fetched() {
    let (agent, web) = (local().await, Web::start().await);
    let manifest = String::from_utf8(stream("image.imgmanifest")).unwrap();
    let object: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let named = object["uuid"].as_str().unwrap().to_owned();
    web.bytes("/images", format!("[{manifest}]"));
    web.bytes(&format!("/images/{named}"), manifest);
    web.bytes(&format!("/images/{named}/file"), stream("image.zsend.gz"));
    let server = web.url("");
    assert!(imgadm(&agent, &["avail", "-S", &server]).await.1.contains(&named));
    assert!(imgadm(&agent, &["show", "-S", &server, &named]).await.1.contains("\"v\": 2"));
    let (code, _, err) = imgadm(&agent, &["show", "-S", &server, &uuid(9)]).await;
    assert!(code == 1 && err.contains("ActiveImageNotFound"), "{err}");
    let (code, out, err) = imgadm(&agent, &["import", "-q", "-P", "zones", "-S", &server, &named]).await;
    assert!(code == 0 && out.starts_with(&format!("Imported image {named}")), "{out}{err}");
    let sources = imgadm(&agent, &["sources", "-a", "https://a", "-t", "imgapi"]).await;
    assert!(sources.0 == 1 && sources.2.contains("images.servers"), "{sources:?}");
    assert_eq!(
        imgadm(&agent, &["sources", "-d", "https://a"]).await.1,
        "Do not have image source \"https://a\", no change\n"
    );
    assert_eq!(imgadm(&agent, &["sources", "-j"]).await.1, "[]\n");
    assert_eq!(imgadm(&agent, &["frobnicate"]).await.0, 2);
    let (code, _, err) = imgadm(&agent, &["import", "http://127.0.0.2:1/x"]).await;
    assert!(code == 1 && err.contains("error (SourceRefused)"), "{err}");
}
