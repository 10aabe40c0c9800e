//! `put-file`, `list-files`, `delete-file`.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use data_encoding::HEXLOWER;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::{Clients, error::CliError, machine, print};
use crate::{
    proto::v1::{self, put_file_request::Item},
    spec::disk::is_qcow2,
    text::escaped,
};

const CHUNK: usize = 256 << 10;

/// A bar on standard error, on a terminal only.
fn bar(what: &'static str, size: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{prefix:>9} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr())
        .with_style(style)
        .with_prefix(what)
}

fn at(path: &Path) -> impl Fn(io::Error) -> CliError + '_ {
    move |error| CliError::failed(format!("{}: {error}", path.display()))
}

/// Uploads a file, from where an earlier try of the same file ended.
pub(super) async fn put(
    clients: &mut Clients,
    uuid: &str,
    file: &Path,
    path: Option<&str>,
    overwrite: bool,
) -> Result<(), CliError> {
    let target = match path {
        Some(path) => path.to_owned(),
        None => match file.file_name().unwrap_or_default().to_str() {
            Some(name) => format!("/{name}"),
            None => {
                let why = "its name is not UTF-8; say behind it what it is to be called in the zone, like /image.iso";
                return Err(CliError::usage(format!("{}: {why}", file.display())));
            }
        },
    };
    let mut local = File::open(file).map_err(at(file))?;
    let meta = local.metadata().map_err(at(file))?;
    if !meta.is_file() {
        return Err(CliError::failed(format!("{}: not a regular file", file.display())));
    }
    let mut head = [0; 4];
    if local.read_exact_at(&mut head, 0).is_ok() && is_qcow2(&head) {
        say!(
            "    note: {} is a qcow2 image. Disks are attached raw, so the guest would see its container; convert it first: qemu-img convert -O raw",
            file.display()
        );
    }
    let (size, sha256) = digest(&mut local, meta.len()).map_err(at(file))?;
    let size = i64::try_from(size).map_err(|_| CliError::failed(format!("{}: too large", file.display())))?;
    let header = v1::PutFileHeader {
        uuid: uuid.to_owned(),
        path: target.clone(),
        size,
        sha256,
        offset: 0,
        overwrite,
        request_id: Uuid::new_v4().to_string(),
        etag: String::new(),
    };
    let header = v1::PutFileHeader { offset: committed(clients, &header).await?, ..header };
    if header.offset > 0 {
        say!("Going on after {} of {size} bytes", header.offset);
    }
    send(clients, local, header).await?;
    say!("Successfully put {target} into VM {uuid}");
    Ok(())
}

fn digest(file: &mut File, size: u64) -> io::Result<(u64, String)> {
    let bar = bar("Checking", size);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => {
                hash.update(&buffer[..count]);
                total += count as u64;
                bar.inc(count as u64);
            }
        }
    }
    bar.finish_and_clear();
    Ok((total, HEXLOWER.encode(&hash.finalize())))
}

/// What the agent has of the same file already.
async fn committed(clients: &mut Clients, header: &v1::PutFileHeader) -> Result<i64, CliError> {
    let request = v1::ListFilesRequest { uuid: header.uuid.clone(), page_size: 1, ..Default::default() };
    let uploads = clients.vms.list_files(request).await?.into_inner().uploads;
    let same = |upload: &&v1::Upload| {
        upload.path == header.path && upload.size == header.size && upload.sha256 == header.sha256
    };
    Ok(uploads.iter().find(same).map_or(0, |upload| upload.committed))
}

async fn send(clients: &mut Clients, mut local: File, header: v1::PutFileHeader) -> Result<(), CliError> {
    let offset = u64::try_from(header.offset).unwrap_or_default();
    local.seek(SeekFrom::Start(offset)).map_err(|error| CliError::failed(error.to_string()))?;
    let bar = bar("Uploading", u64::try_from(header.size).unwrap_or_default());
    bar.set_position(offset);
    let (sender, stream) = mpsc::channel(4);
    let trouble = Arc::new(Mutex::new(None));
    let reader = {
        let (bar, trouble) = (bar.clone(), trouble.clone());
        tokio::task::spawn_blocking(move || {
            let _ = sender.blocking_send(v1::PutFileRequest { item: Some(Item::Header(header)) });
            let mut buffer = vec![0; CHUNK];
            loop {
                match local.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(count) => {
                        let item = Some(Item::Chunk(buffer[..count].to_vec().into()));
                        if sender.blocking_send(v1::PutFileRequest { item }).is_err() {
                            return;
                        }
                        bar.inc(count as u64);
                    }
                    Err(error) => {
                        *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        return;
                    }
                }
            }
        })
    };
    let answer = clients.vms.put_file(ReceiverStream::new(stream)).await;
    bar.finish_and_clear();
    let _ = reader.await;
    if let Some(error) = trouble.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(CliError::failed(format!("reading the local file: {error}")));
    }
    answer?;
    Ok(())
}

pub(super) async fn list(clients: &mut Clients, uuid: &str, path: &str) -> Result<(), CliError> {
    let mut request =
        v1::ListFilesRequest { uuid: uuid.to_owned(), path: path.to_owned(), ..Default::default() };
    loop {
        let page = clients.vms.list_files(request.clone()).await?.into_inner();
        for file in &page.files {
            let kind = file.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase();
            let modified = file.modified.as_ref().map(machine::iso).unwrap_or_default();
            print(&format!("{kind:<6}  {:>14}  {modified}  {}", file.size, escaped(&file.path)))?;
        }
        for upload in &page.uploads {
            print(&format!(
                "upload  {:>14}  of {} bytes  {}",
                upload.committed,
                upload.size,
                escaped(&upload.path)
            ))?;
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}

pub(super) async fn delete(clients: &mut Clients, uuid: &str, path: &str) -> Result<(), CliError> {
    let request = v1::DeleteFileRequest {
        etag: String::new(),
        uuid: uuid.to_owned(),
        path: path.to_owned(),
        request_id: Uuid::new_v4().to_string(),
    };
    clients.vms.delete_file(request).await?;
    say!("Successfully deleted {path} from VM {uuid}");
    Ok(())
}
