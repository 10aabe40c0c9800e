//! Images from OCI registries.

use serde_json::json;
use zoneward::proto::v1;

use super::{
    super::support::{
        Clients, reason,
        web::{Answer, Web},
    },
    delete, digest, disk, fetch, local,
};

const CONFIG: &str = "application/vnd.ironcore.image.config.v1+json";
const ROOTFS: &str = "application/vnd.ironcore.image.rootfs";

fn manifest(config: &str, layers: &[(&str, &[u8])]) -> String {
    let layer = |(kind, content): &(&str, &[u8])| json!({"mediaType": kind, "digest": digest(content), "size": content.len()});
    json!({
        "schemaVersion": 2,
        "config": {"mediaType": config, "digest": digest(b"{}"), "size": 2},
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    })
    .to_string()
}

fn blob(web: &Web, repository: &str, content: &[u8]) {
    web.bytes(&format!("/v2/{repository}/blobs/{}", digest(content)), content.to_vec());
}

async fn pull(clients: &mut Clients, web: &Web, name: &str) -> Result<v1::Image, tonic::Status> {
    let source = format!("oci://{}/{name}", web.address);
    fetch(clients, v1::FetchImageRequest { source, ..Default::default() }).await
}

#[tokio::test]
async fn an_artifact_a_legacy_one_and_one_of_several_architectures() {
    let (agent, web) = (local().await, Web::start().await);
    let mut clients = agent.clients().await;
    let raw = disk();
    blob(&web, "os", &raw);
    let layers: [(&str, &[u8]); 2] = [("application/vnd.ironcore.image.kernel", b"kernel"), (ROOTFS, &raw)];
    let artifact = manifest(CONFIG, &layers);
    web.bytes("/v2/os/manifests/12", artifact.clone());
    let image = pull(&mut clients, &web, "os:12").await.unwrap();
    assert_eq!((image.digest.as_str(), image.size), (digest(&raw).as_str(), 3 << 20));
    assert!(image.source.ends_with("/os:12"), "{}", image.source);
    delete(&mut clients, &image.uuid).await.unwrap();

    let legacy = manifest(
        "application/vnd.ironcore.image.config.v1alpha1+json",
        &[("application/vnd.ironcore.image.rootfs.v1alpha1.rootfs", &raw)],
    );
    web.bytes("/v2/os/manifests/latest", legacy);
    let image = pull(&mut clients, &web, "os").await.unwrap();
    delete(&mut clients, &image.uuid).await.unwrap();

    let here = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let entry = |arch: &str, digest: &str| {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1,
               "platform": {"architecture": arch, "os": "linux"}})
    };
    let index = |arch: &str| json!({"schemaVersion": 2, "manifests": [entry("s390x", &digest(b"no")), entry(arch, &digest(artifact.as_bytes()))]});
    web.bytes(&format!("/v2/os/manifests/{}", digest(artifact.as_bytes())), artifact.clone());
    web.bytes("/v2/os/manifests/multi", index(here).to_string());
    let image = pull(&mut clients, &web, "os:multi").await.unwrap();
    delete(&mut clients, &image.uuid).await.unwrap();
    web.bytes("/v2/os/manifests/multi", index("riscv64").to_string());
    assert_eq!(reason(&pull(&mut clients, &web, "os:multi").await.unwrap_err()), "SOURCE_MISSING");
    let exact = format!("os@{}", digest(artifact.as_bytes()));
    let image = pull(&mut clients, &web, &exact).await.unwrap();
    delete(&mut clients, &image.uuid).await.unwrap();
    // A manifest that is not the one of its digest.
    web.bytes(&format!("/v2/os/manifests/{}", digest(artifact.as_bytes())), manifest(CONFIG, &layers[1..]));
    let status = pull(&mut clients, &web, &exact).await.unwrap_err();
    assert!(status.message().contains("instead"), "{status:?}");
}

#[tokio::test]
async fn a_container_disk_is_taken_out_of_its_layer() {
    let (agent, web) = (local().await, Web::start().await);
    let mut clients = agent.clients().await;
    let raw = disk();
    let layer = {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(raw.len() as u64);
        header.set_mode(0o440);
        header.set_cksum();
        archive.append_data(&mut header, "disk/disk.img", raw.as_slice()).unwrap();
        zstd::encode_all(archive.into_inner().unwrap().as_slice(), 1).unwrap()
    };
    blob(&web, "kubevirt/fedora", &layer);
    let kind = "application/vnd.oci.image.layer.v1.tar+zstd";
    web.bytes(
        "/v2/kubevirt/fedora/manifests/40",
        manifest("application/vnd.oci.image.config.v1+json", &[(kind, &layer)]),
    );
    let image = pull(&mut clients, &web, "kubevirt/fedora:40").await.unwrap();
    let file = agent.config.zones_dir.join("images").join(&image.uuid).join("disk");
    assert!(std::fs::read(file).unwrap() == raw);
}

#[tokio::test]
async fn a_registry_that_lies_or_wants_a_login() {
    let (agent, web) = (local().await, Web::start().await);
    let mut clients = agent.clients().await;
    let raw = disk();
    let artifact = manifest(CONFIG, &[(ROOTFS, &raw)]);
    web.bytes("/v2/os/manifests/1", artifact.clone());
    let path = format!("/v2/os/blobs/{}", digest(&raw));
    // Another length, other bytes, and less than it says.
    for (answer, wanted) in [
        (Answer::Bytes(raw[..raw.len() - 1].to_vec().into()), "SOURCE_FAILED"),
        (Answer::Bytes(vec![0; raw.len()].into()), "IMAGE_BROKEN"),
        (Answer::Stalls(raw.clone().into(), 10), "SOURCE_FAILED"),
        (Answer::Status(404), "SOURCE_MISSING"),
    ] {
        web.put(&path, answer);
        let status = pull(&mut clients, &web, "os:1").await.unwrap_err();
        assert_eq!(reason(&status), wanted, "{status:?}");
    }
    web.bytes("/v2/os/manifests/1", "no manifest");
    assert_eq!(reason(&pull(&mut clients, &web, "os:1").await.unwrap_err()), "SOURCE_FAILED");

    let elsewhere = "http://10.0.0.1/token".to_owned();
    web.put("/v2/os/manifests/1", Answer::Login(elsewhere, artifact.clone().into()));
    let status = pull(&mut clients, &web, "os:1").await.unwrap_err();
    assert!(reason(&status) == "SOURCE_REFUSED" && status.message().contains("without TLS"), "{status:?}");
    let realm = web.url("/token");
    web.put("/v2/os/manifests/1", Answer::Login(realm.clone(), artifact.into()));
    web.put(&path, Answer::Login(realm, raw.into()));
    web.bytes("/token", r#"{"token":"bad"}"#);
    assert_eq!(reason(&pull(&mut clients, &web, "os:1").await.unwrap_err()), "SOURCE_FAILED");
    web.bytes("/token", r#"{"token":"good"}"#);
    pull(&mut clients, &web, "os:1").await.unwrap();
    assert!(
        web.asked().iter().any(|line| line.starts_with("GET /token?scope=repository")),
        "{:?}",
        web.asked()
    );
}
