//! Images from servers that nobody here wrote: a registry that skopeo filled, and a web server.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use zoneward::proto::v1;

use super::support::{
    eventually,
    ignored::ignore,
    machine,
    real::{Real, ok, run_with},
    sha256,
};

/// A server of a test; it ends with it.
struct Server {
    child: Child,
    address: String,
    dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a program with a configuration, in which `PORT` and `DIR` are replaced. `None` if it is not installed.
    async fn start(program: &str, words: &[&str], configuration: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = dir.path().to_str().unwrap();
        let fill = |text: &str| text.replace("PORT", &port.to_string()).replace("DIR", path);
        fs::write(dir.path().join("configuration"), fill(configuration)).unwrap();
        let words: Vec<String> = words.iter().map(|word| fill(word)).collect();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let started =
            Command::new(program).args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let Ok(child) = started else {
            ignore(&format!("{program} is not installed; dist/install-packages.sh test installs it"));
            return None;
        };
        let address = format!("127.0.0.1:{port}");
        eventually("the server answers", || {
            let address = address.clone();
            async move { tokio::net::TcpStream::connect(address).await.ok() }
        })
        .await;
        Some(Self { child, address, dir })
    }
}

/// A disk as qcow2, by QEMU's own tool.
fn qcow2(folder: &Path) -> Vec<u8> {
    let mut raw: Vec<u8> = (0..3_000_000_u64).map(|n| u8::try_from(n * n % 249).unwrap()).collect();
    raw[510..512].copy_from_slice(&[0x55, 0xaa]);
    raw.resize(8 << 20, 0);
    fs::write(folder.join("raw"), raw).unwrap();
    let made = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2", "-c"])
        .args([folder.join("raw"), folder.join("qcow2")])
        .status();
    assert!(made.unwrap().success());
    fs::read(folder.join("qcow2")).unwrap()
}

/// Writes an image in the layout that skopeo reads.
fn layout(folder: &Path, config: (&str, &[u8]), layers: &[(&str, &[u8])]) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |kind: &str, content: &[u8]| {
        let digest = sha256(content);
        fs::write(blobs.join(&digest), content).unwrap();
        json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": content.len()})
    };
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let layers: Vec<Value> = layers.iter().map(|(kind, content)| put(kind, content)).collect();
    let manifest =
        json!({"schemaVersion": 2, "mediaType": kind, "config": put(config.0, config.1), "layers": layers});
    let mut entry = put(kind, manifest.to_string().as_bytes());
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "it"});
    fs::write(folder.join("index.json"), json!({"schemaVersion": 2, "manifests": [entry]}).to_string())
        .unwrap();
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

fn push(folder: &Path, address: &str, name: &str) {
    let from = format!("oci:{}:it", folder.display());
    let to = format!("docker://{address}/{name}");
    let words = ["copy", "--insecure-policy", "--dest-tls-verify=false", "--preserve-digests", &from, &to];
    ok(&words, run_with(Command::new("skopeo").args(words), ""));
}

/// The image of what `imgadm import` says.
fn imported(said: &str) -> String {
    said.lines()
        .last()
        .unwrap()
        .strip_prefix("Imported image ")
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn docker_registry_filled_by_skopeo() {
    let configuration =
        "version: 0.1\nstorage: {filesystem: {rootdirectory: DIR/data}}\nhttp: {addr: \"127.0.0.1:PORT\"}\n";
    let Some(registry) =
        Server::start("docker-registry", &["serve", "DIR/configuration"], configuration).await
    else {
        return;
    };
    let dir = registry.dir.path();
    let disk = qcow2(dir);
    // A container disk of KubeVirt.
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(disk.len() as u64);
    header.set_mode(0o440);
    header.set_cksum();
    archive.append_data(&mut header, "disk/disk.qcow2", disk.as_slice()).unwrap();
    let archive = archive.into_inner().unwrap();
    let diff = json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&archive))]}});
    let container = dir.join("container");
    let (kind, config) =
        ("application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.config.v1+json");
    layout(&container, (config, diff.to_string().as_bytes()), &[(kind, &archive)]);
    push(&container, &registry.address, "kubevirt/disk:1");

    let agent = Real::start_with(&["images.allow=[\"127.0.0.1\"]"]).await;
    let mut clients = agent.clients().await;
    let source = format!("oci://{}/kubevirt/disk:1", registry.address);
    let image = imported(&agent.imgadm_ok(&["import", &source]).0);
    let of_image = v1::DiskSpec { image_uuid: Some(image.clone()), ..Default::default() };
    let vm = clients.create(v1::VmSpec { disks: vec![of_image], ..machine() }).await;
    let file = agent.dir.path().join("zones/images").join(&image).join("disk");
    assert!(fs::read(file).unwrap() == fs::read(dir.join("raw")).unwrap());
    agent.vmadm_ok(&["delete", &vm]);
    agent.imgadm_ok(&["delete", &image]);
    let missing = agent.imgadm(&["import", &format!("oci://{}/kubevirt/disk:2", registry.address)]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("404"));
}

#[tokio::test]
async fn nginx_with_sums_and_a_redirect() {
    let configuration = "daemon off; pid DIR/pid; error_log DIR/error.log; events {}\n\
        http { access_log off; client_body_temp_path DIR/b; proxy_temp_path DIR/p; fastcgi_temp_path DIR/f;\n\
        uwsgi_temp_path DIR/u; scgi_temp_path DIR/s; server { listen 127.0.0.1:PORT; root DIR;\n\
        location /latest/ { rewrite ^/latest/(.*)$ /images/$1 redirect; } } }\n";
    let words = ["-p", "DIR", "-c", "DIR/configuration", "-e", "DIR/error.log"];
    let Some(nginx) = Server::start("nginx", &words, configuration).await else { return };
    // Its workers are another user.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(nginx.dir.path(), open).unwrap();
    let images = nginx.dir.path().join("images");
    fs::create_dir(&images).unwrap();
    let disk = qcow2(nginx.dir.path());
    fs::write(images.join("disk.qcow2"), &disk).unwrap();
    fs::write(images.join("SHA256SUMS"), format!("{}  disk.qcow2\n", sha256(&disk))).unwrap();
    let agent = Real::start_with(&["images.allow=[\"127.0.0.1\"]"]).await;
    let image =
        imported(&agent.imgadm_ok(&["import", &format!("http://{}/latest/disk.qcow2", nginx.address)]).0);
    let file = agent.dir.path().join("zones/images").join(&image).join("disk");
    assert!(fs::read(file).unwrap() == fs::read(nginx.dir.path().join("raw")).unwrap());
    let (listed, _) = agent.imgadm_ok(&["list", "-H", "-o", "name,size,state"]);
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), ["disk.qcow2", "8", "active"]);
}
