//! `put-file`, `list-files`, `delete-file`.

use std::{
    fs::File,
    io::{self, IsTerminal as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use uuid::Uuid;

use super::{Clients, error::CliError, machine, print};
use crate::{
    client::{Upload, UploadError},
    proto::v1::{self},
    spec::disk::is_qcow2,
    text::escaped,
};

/// A bar on standard error, on a terminal only.
pub(super) fn bar(what: &'static str, size: u64) -> ProgressBar {
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

/// Uploads a file, continuing where an earlier try ended.
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
                let why = "its name is not UTF-8; add its path in the zone, like /image.iso";
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
    let checking = bar("Checking", meta.len());
    let upload =
        Upload::of(&mut local, uuid, &target, |bytes| checking.set_position(bytes)).map_err(at(file))?;
    checking.finish_and_clear();
    let upload = upload.overwrite(overwrite);
    let committed = upload.committed(clients).await?;
    if committed > 0 {
        say!("Going on after {committed} of {} bytes", upload.size());
    }
    let sending = bar("Uploading", u64::try_from(upload.size()).unwrap_or_default());
    let sent = upload.send(clients, sending.wrap_read(local)).await;
    sending.finish_and_clear();
    sent.map_err(|error| match error {
        UploadError::Read(error) => CliError::failed(format!("reading the local file: {error}")),
        UploadError::Agent(status) => CliError::from(*status),
    })?;
    say!("Successfully put {target} into VM {uuid}");
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
