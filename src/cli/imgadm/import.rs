//! `import` and `install`.

use std::{
    fs::{self, File},
    path::Path,
};

use indicatif::ProgressBar;
use serde_json::Value;
use uuid::Uuid;

use super::{
    super::{Clients, error::CliError, files::bar, print},
    arguments, at, called, told,
};
use crate::{
    client::{ImageUpload, Reason, UploadError, reason},
    proto::{
        json_to_struct,
        v1::{self, fetch_image_response::Item},
    },
    spec::image::{Digest, Manifest},
};

fn progress(is_quiet: bool, what: &'static str, size: u64) -> ProgressBar {
    if is_quiet { ProgressBar::hidden() } else { bar(what, size) }
}

/// Imports images, one after another.
pub(super) async fn import(clients: &mut Clients, options: &arguments::Import) -> Result<(), CliError> {
    let is_one = options.images.len() == 1;
    if !is_one && (options.digest.is_some() || options.uuid.is_some() || options.name.is_some()) {
        return Err(CliError::usage("--digest, --uuid and --name are for one image"));
    }
    for name in &options.images {
        if let Ok(uuid) = Uuid::try_parse(name) {
            if options.uuid.is_some() || options.name.is_some() || options.raw {
                let message =
                    format!("--uuid, --name and --raw are for URLs and files; {uuid} has a manifest");
                return Err(CliError::usage(message));
            }
            let source = match &options.source {
                Some(server) => format!("imgapi+{}", server.trim_start_matches("imgapi+")),
                None => String::new(),
            };
            fetch(clients, options, source, Some(&uuid.to_string())).await?;
        } else if name.contains("://") {
            let uuid = options.uuid.as_deref().map(str::to_lowercase);
            fetch(clients, options, name.clone(), uuid.as_deref()).await?;
        } else {
            send_file(clients, options, Path::new(name)).await?;
        }
    }
    Ok(())
}

async fn fetch(
    clients: &mut Clients,
    options: &arguments::Import,
    source: String,
    uuid: Option<&str>,
) -> Result<(), CliError> {
    let request = v1::FetchImageRequest {
        source,
        uuid: uuid.unwrap_or_default().to_owned(),
        request_id: Uuid::new_v4().to_string(),
        digest: options.digest.clone().unwrap_or_default(),
        manifest: None,
        name: options.name.clone().unwrap_or_default(),
        raw: options.raw,
    };
    let failed = |status| told("import", status);
    let mut stream = clients.images.fetch_image(request).await.map_err(failed)?.into_inner();
    let bar = progress(options.quiet, "Importing", 0);
    let mut is_new = false;
    while let Some(message) = stream.message().await.map_err(|status| {
        bar.finish_and_clear();
        failed(status)
    })? {
        match message.item {
            Some(Item::Progress(step)) => {
                is_new = true;
                bar.set_length(u64::try_from(step.total).unwrap_or_default());
                bar.set_position(u64::try_from(step.received).unwrap_or_default());
            }
            Some(Item::Image(image)) => {
                bar.finish_and_clear();
                return print(&match is_new {
                    true => format!("Imported image {} ({})", image.uuid, called(&image)),
                    false => skipped(&image),
                });
            }
            None => {}
        }
    }
    bar.finish_and_clear();
    Err(CliError::failed(
        "imgadm import: the agent ended the import without a word; imgadm list shows whether it goes on",
    ))
}

fn skipped(image: &v1::Image) -> String {
    format!("Image {} ({}) is already installed, skipping", image.uuid, called(image))
}

/// Says so if the image is installed; another one under the UUID is an error.
async fn is_here(clients: &mut Clients, command: &str, uuid: &str, digest: &str) -> Result<bool, CliError> {
    match clients.images.get_image(v1::GetImageRequest { uuid: uuid.to_owned() }).await {
        Ok(found) => {
            let image = found.into_inner().image.unwrap_or_default();
            if image.state() != v1::ImageState::Active {
                return Ok(false);
            }
            if image.digest != digest {
                return Err(CliError::failed(format!(
                    "imgadm {command}: error (ImageAlreadyInstalled): image {uuid} ({}) is another: its file's digest is {}, and this file's {digest}",
                    called(&image),
                    image.digest
                )));
            }
            print(&skipped(&image)).map(|()| true)
        }
        Err(status) if reason(&status) == Some(Reason::ImageNotFound) => Ok(false),
        Err(status) => Err(told(command, status)),
    }
}

/// Uploads a local file.
async fn send_file(clients: &mut Clients, options: &arguments::Import, path: &Path) -> Result<(), CliError> {
    let name = options.name.clone();
    let name = name.unwrap_or_else(|| path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let uuid = options.uuid.as_deref().unwrap_or_default().to_lowercase();
    let wanted = options.digest.as_deref();
    send(clients, path, options.quiet, uuid, "import", |header| {
        (header.name, header.raw) = (name, options.raw);
        match wanted.map(str::parse::<Digest>) {
            Some(Ok(digest)) if digest.to_string() != header.digest => Err(CliError::failed(format!(
                "{}: its digest is {}, and not {digest}",
                path.display(),
                header.digest
            ))),
            Some(Err(why)) => Err(CliError::usage(format!("--digest: {why}"))),
            _ => Ok(()),
        }
    })
    .await
}

/// Installs an image from a manifest and a file.
pub(super) async fn install(clients: &mut Clients, options: &arguments::Install) -> Result<(), CliError> {
    let text = fs::read(&options.manifest).map_err(at(&options.manifest))?;
    let wrong = |why: String| CliError::failed(format!("{}: {why}", options.manifest.display()));
    let object = match serde_json::from_slice(&text) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Err(wrong("no JSON object".to_owned())),
        Err(error) => return Err(wrong(format!("no JSON: {error}"))),
    };
    if let Err(found) = Manifest::read(object.clone()) {
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        return Err(wrong(found.join("; ")));
    }
    let uuid = object.get("uuid").and_then(Value::as_str).unwrap_or_default().to_owned();
    let file = object.get("files").and_then(|files| files.get(0)).cloned().unwrap_or_default();
    let published = file.get("size").and_then(Value::as_i64);
    let is_raw = file.get("format").is_some_and(|format| format == "raw");
    send(clients, &options.file, options.quiet, uuid, "install", |header| {
        (header.manifest, header.raw) = (Some(json_to_struct(object)), is_raw);
        match published {
            Some(size) if size != header.size => Err(CliError::failed(format!(
                "{}: it has {} bytes, and the manifest says {size}",
                options.file.display(),
                header.size
            ))),
            _ => Ok(()),
        }
    })
    .await
}

async fn send(
    clients: &mut Clients,
    path: &Path,
    is_quiet: bool,
    uuid: String,
    command: &str,
    complete: impl FnOnce(&mut v1::ImportImageHeader) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut local = File::open(path).map_err(at(path))?;
    let meta = local.metadata().map_err(at(path))?;
    if !meta.is_file() {
        return Err(CliError::failed(format!("{}: not a regular file", path.display())));
    }
    let checking = progress(is_quiet, "Checking", meta.len());
    let mut upload =
        ImageUpload::of(&mut local, &uuid, |bytes| checking.set_position(bytes)).map_err(at(path))?;
    checking.finish_and_clear();
    if uuid.is_empty() {
        let uuid = named_after(upload.digest());
        upload.header().uuid = uuid;
    }
    complete(upload.header())?;
    let (uuid, digest) = (upload.header().uuid.clone(), upload.header().digest.clone());
    if is_here(clients, command, &uuid, &digest).await? {
        return Ok(());
    }
    let committed = upload.committed(clients).await?;
    if committed > 0 {
        say!("Going on after {committed} of {} bytes", upload.size());
    }
    let sending = progress(is_quiet, "Importing", u64::try_from(upload.size()).unwrap_or_default());
    let sent = upload.send(clients, sending.wrap_read(local)).await;
    sending.finish_and_clear();
    let image = sent.map_err(|error| match error {
        UploadError::Read(error) => at(path)(error),
        UploadError::Agent(status) => told(command, *status),
    })?;
    let verb = if command == "install" { "Installed" } else { "Imported" };
    print(&format!("{verb} image {} ({})", image.uuid, called(&image)))
}

/// One file has one UUID, as the agent makes them.
fn named_after(digest: &str) -> String {
    let digits = digest.rsplit(':').next().unwrap_or_default();
    let bytes = data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap_or_default();
    let mut first = [0; 16];
    first.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    uuid::Builder::from_custom_bytes(first).into_uuid().to_string()
}
