//! `export`: a disk, and the manifest of the file that it becomes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use super::{
    super::{Clients, error::CliError, files::bar, look::pretty, print},
    at, called, image, manifest, told,
};
use crate::proto::v1::{self, export_image_response::Item};

/// Writes an image's disk into a file, with its manifest beside it; or to standard output.
pub(super) async fn export(clients: &mut Clients, name: &str, output: &Path) -> Result<(), CliError> {
    let image = image(clients, "export", name).await?;
    if output == Path::new("-") {
        return write(clients, &image.uuid, "standard output", &mut io::stdout()).await.map(drop);
    }
    let path = match output.is_dir() {
        true => output.join(format!("{}.raw.zst", image.uuid)),
        false => output.to_owned(),
    };
    let manifest_path = with_end(&path, ".imgmanifest");
    for path in [&path, &manifest_path] {
        if fs::symlink_metadata(path).is_ok() {
            let message =
                format!("imgadm export: error (FileExists): {} exists; nothing was written", path.display());
            return Err(CliError::failed(message));
        }
    }
    let draft = Draft::create(with_end(&path, ".partial"))?;
    let written = write(clients, &image.uuid, &draft.path.display().to_string(), &mut &draft.file).await?;
    draft.file.sync_all().map_err(at(&draft.path))?;
    fs::write(&manifest_path, pretty(&of_file(&image, &written))).map_err(at(&manifest_path))?;
    fs::rename(&draft.path, &path).map_err(at(&path))?;
    print(&format!("Exported image {} ({}) to {}", image.uuid, called(&image), path.display()))
}

/// A file under way, which goes unless it is renamed.
struct Draft {
    path: PathBuf,
    file: File,
}

impl Draft {
    fn create(path: PathBuf) -> Result<Self, CliError> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(at(&path))?;
        Ok(Self { path, file })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// What was written.
struct Written {
    bytes: u64,
    sha1: String,
}

async fn write(
    clients: &mut Clients,
    uuid: &str,
    name: &str,
    out: &mut impl Write,
) -> Result<Written, CliError> {
    let failed = |status| told("export", status);
    let wrong = |error: io::Error| CliError::failed(format!("{name}: {error}"));
    let request = v1::ExportImageRequest { uuid: uuid.to_owned() };
    let mut stream = clients.images.export_image(request).await.map_err(failed)?.into_inner();
    let (mut bytes, mut sha1) = (0, Sha1::new());
    let exporting = bar("Exporting", 0);
    while let Some(message) = stream.message().await.map_err(failed)? {
        if let Some(Item::Chunk(chunk)) = message.item {
            out.write_all(&chunk).map_err(wrong)?;
            sha1.update(&chunk);
            bytes += chunk.len() as u64;
            exporting.set_position(bytes);
        }
    }
    exporting.finish_and_clear();
    out.flush().map_err(wrong)?;
    Ok(Written { bytes, sha1: data_encoding::HEXLOWER.encode(&sha1.finalize()) })
}

/// The manifest of the file that was written: a whole raw disk, whatever the image came as.
fn of_file(image: &v1::Image, written: &Written) -> Value {
    let mut manifest = manifest(image);
    if let Value::Object(object) = &mut manifest {
        object.shift_remove("origin");
    }
    manifest["files"] = json!([{
        "size": written.bytes,
        "sha1": written.sha1,
        "compression": "zstd",
        // Nothing marks a raw disk: imgadm install reads this.
        "format": "raw",
    }]);
    manifest
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}
