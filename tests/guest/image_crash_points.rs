//! The agent is killed at every point of what is done to an image: the next one finishes or undoes it, and leaks nothing.

use std::{fs, path::PathBuf, time::Duration};

use tonic::Status;
use uuid::Uuid;
use zoneward::proto::v1::{self, import_image_request::Item};

use super::{
    crash_points::{arm, disarm},
    support::{Clients, eventually, ignored::ignore, machine, real::Real, sha256, web::Web},
    truth::{check_journal, files},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Upload,
    Fetch,
    Clone,
    Remove,
}

use Operation::*;

const IMAGE: &str = "00000000-0000-4000-8000-000000000001";
const VM: &str = "00000000-0000-4000-8000-000000000002";

fn disk() -> Vec<u8> {
    let mut raw: Vec<u8> = (0..500_000_u64).map(|n| u8::try_from(n * n % 247).unwrap()).collect();
    raw[510..512].copy_from_slice(&[0x55, 0xaa]);
    raw.resize(1 << 20, 0);
    raw
}

/// Packed, so that the converter has something to do.
fn content() -> Vec<u8> {
    zstd::encode_all(disk().as_slice(), 1).unwrap()
}

struct Host {
    agent: Real,
    web: Web,
}

impl Host {
    async fn act(&self, operation: Operation, call: &str, clients: &mut Clients) -> Result<(), Status> {
        let (uuid, request_id) = (IMAGE.to_owned(), call.to_owned());
        let digest = format!("sha256:{}", sha256(&content()));
        match operation {
            Upload => {
                let size = i64::try_from(content().len()).unwrap();
                let header = v1::ImportImageHeader { uuid, request_id, digest, size, ..Default::default() };
                let items = [Item::Header(header), Item::Chunk(content().into())];
                let items = items.map(|item| v1::ImportImageRequest { item: Some(item) });
                clients.images.import_image(tokio_stream::iter(items)).await.map(drop)
            }
            Fetch => {
                let source = self.web.url("/disk.zst");
                let request =
                    v1::FetchImageRequest { source, uuid, request_id, digest, ..Default::default() };
                let mut stream = clients.images.fetch_image(request).await?.into_inner();
                while stream.message().await?.is_some() {}
                Ok(())
            }
            Clone => {
                let disk = v1::DiskSpec { image_uuid: Some(uuid), ..Default::default() };
                let vm = v1::VmSpec { uuid: Some(VM.into()), disks: vec![disk], ram: Some(32), ..machine() };
                let request = v1::CreateVmRequest { vm: Some(vm), request_id, ..Default::default() };
                clients.vms.create_vm(request).await.map(drop)
            }
            Remove => {
                let request = v1::DeleteImageRequest { uuid, request_id };
                clients.images.delete_image(request).await.map(drop)
            }
        }
    }

    async fn prepare(&self, operation: Operation, clients: &mut Clients) {
        if let Clone | Remove = operation {
            self.act(Upload, "", clients).await.unwrap();
        }
    }

    async fn image(clients: &mut Clients) -> Option<v1::Image> {
        let request = v1::GetImageRequest { uuid: IMAGE.to_owned() };
        clients.images.get_image(request).await.ok()?.into_inner().image
    }

    /// Everything is as if nobody had been killed.
    async fn check(&self, operation: Operation, what: &str, clients: &mut Clients) {
        let folder = self.agent.dir.path().join("zones/images");
        if operation == Remove {
            assert!(Self::image(clients).await.is_none(), "{what}: the image is there");
            assert_eq!(files(&folder), Vec::<PathBuf>::new(), "{what}");
        } else {
            let image = eventually(&format!("{what}: the image is active"), || {
                let mut clients = clients.clone();
                async move {
                    Self::image(&mut clients).await.filter(|image| image.state() == v1::ImageState::Active)
                }
            })
            .await;
            assert_eq!(image.size, 1 << 20);
            assert_eq!(files(&folder), [folder.join(IMAGE)], "{what}");
            assert_eq!(files(&folder.join(IMAGE)), [folder.join(IMAGE).join("disk")], "{what}");
            assert!(fs::read(folder.join(IMAGE).join("disk")).unwrap() == disk(), "{what}");
            assert_eq!(image.vms.len(), usize::from(operation == Clone), "{what}");
        }
        if operation == Clone {
            let vm = clients.get(VM).await.unwrap();
            assert_eq!(vm.status.unwrap().disks.len(), 1, "{what}: the form of the disk");
            assert!(self.agent.dir.path().join("zones").join(VM).join("disk0").exists(), "{what}");
        }
        let run = self.agent.dir.path().join("run");
        eventually(&format!("{what}: no zone of a converter is left"), || {
            let left = files(&run).into_iter().filter(|path| path.to_string_lossy().contains("trial-"));
            let none = left.count() == 0;
            async move { none.then_some(()) }
        })
        .await;
        check_journal(what, clients).await;
    }

    async fn clean_up(&self, clients: &mut Clients) {
        if clients.get(VM).await.is_ok() {
            clients.delete(VM).await.unwrap();
        }
        if Self::image(clients).await.is_some() {
            let request = v1::DeleteImageRequest { uuid: IMAGE.to_owned(), ..Default::default() };
            clients.images.delete_image(request).await.unwrap();
        }
    }

    async fn kill_everywhere(&mut self, operation: Operation) {
        let mut clients = self.agent.clients().await;
        self.prepare(operation, &mut clients).await;
        arm(&self.agent, "nowhere");
        self.act(operation, "", &mut clients).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let points = disarm(&self.agent);
        self.check(operation, "nobody was killed", &mut clients).await;
        self.clean_up(&mut clients).await;
        assert!(points.len() >= 6, "{operation:?} has hardly any points: {points:?}");
        let mut killed = 0;
        for point in &points {
            let what = format!("{operation:?} at {point}");
            let call = Uuid::new_v4().to_string();
            let mut clients = self.agent.clients().await;
            self.prepare(operation, &mut clients).await;
            arm(&self.agent, point);
            let answered = self.act(operation, &call, &mut clients).await.is_ok();
            let patience = Duration::from_secs(if answered { 1 } else { 30 });
            killed += usize::from(self.agent.has_died(patience).await);
            disarm(&self.agent);
            self.agent.kill();
            self.agent.resume().await;
            let mut clients = self.agent.clients().await;
            // An upload that the next agent is about to end has to be sent once more.
            eventually(&what, || {
                let (this, call, mut clients) = (&*self, call.clone(), clients.clone());
                async move {
                    match this.act(operation, &call, &mut clients).await {
                        Ok(()) => Some(()),
                        Err(status) if operation == Remove && status.code() == tonic::Code::NotFound => {
                            Some(())
                        }
                        Err(_) => None,
                    }
                }
            })
            .await;
            self.check(operation, &what, &mut clients).await;
            self.clean_up(&mut clients).await;
        }
        eprintln!("{operation:?}: killed at {killed} of {} points", points.len());
        assert!(killed * 10 >= points.len() * 8, "{operation:?}: {killed} of {points:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_clones_and_removals() {
    if !cfg!(debug_assertions) {
        return ignore("a release build has no points");
    }
    let web = Web::start().await;
    web.bytes("/disk.zst", content());
    let agent = Real::start_with(&["images.allow=[\"127.0.0.1\"]"]).await;
    agent.tolerate(&["an import that was interrupted failed"]);
    let mut host = Host { agent, web };
    for operation in [Upload, Fetch, Clone, Remove] {
        host.kill_everywhere(operation).await;
    }
}
