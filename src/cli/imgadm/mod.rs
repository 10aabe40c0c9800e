//! The operator's command for images. Names, texts, streams and exit codes are those of SmartOS's imgadm: 0 done, 1
//! refused or failed, 2 not understood, 3 no such image on this host.

mod arguments;
mod export;
mod import;
mod remove;
mod table;

use std::{ffi::OsString, io, path::Path, process::ExitCode};

use arguments::{Arguments, Command};
use clap::{CommandFactory as _, Parser as _};
use serde_json::{Map, Value, json};
use tonic::{Code, Status};

use super::{Clients, connect, error::CliError, look::pretty, machine::iso, print, usage};
use crate::{
    client::{Reason, pages, reason},
    proto::{struct_to_json, v1},
};

/// Runs the command line; returns the exit code.
pub async fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    match Box::pin(obey(&arguments)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = error.to_string();
            if !text.is_empty() {
                say!("{text}");
            }
            error.code()
        }
    }
}

async fn obey(arguments: &Arguments) -> Result<(), CliError> {
    match &arguments.command {
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Arguments::command(), "imgadm", &mut std::io::stdout());
            return Ok(());
        }
        Command::Man { dir } => {
            return clap_mangen::generate_to(Arguments::command(), dir)
                .map_err(|error| CliError::failed(format!("{}: {error}", dir.display())));
        }
        _ => {}
    }
    let mut clients = connect::connect(&arguments.connection).await?;
    let clients = &mut clients;
    match &arguments.command {
        Command::List(options) => table::list(clients, options).await,
        Command::Avail(options) => table::avail(clients, options).await,
        Command::Get { uuid } => get(clients, uuid).await,
        Command::Show { uuid, source } => show(clients, uuid, source).await,
        Command::Sources(options) => sources(clients, options).await,
        Command::Import(options) => import::import(clients, options).await,
        Command::Install(options) => import::install(clients, options).await,
        Command::Export { uuid, output } => export::export(clients, uuid, output).await,
        Command::Delete { uuids, .. } => remove::delete(clients, uuids).await,
        Command::Vacuum { dry_run, force } => remove::vacuum(clients, *dry_run, *force).await,
        // Done above, without an agent.
        Command::Completions { .. } | Command::Man { .. } => Ok(()),
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> CliError + '_ {
    move |error| CliError::failed(format!("{}: {error}", path.display()))
}

/// An error in imgadm's form, by which programs know its kind.
fn told(command: &str, status: Status) -> CliError {
    let (code, exit) = match reason(&status) {
        Some(Reason::ImageNotFound) => ("ImageNotInstalled", 3),
        Some(Reason::ImageInUse) => ("ImageHasDependentClones", 1),
        Some(Reason::ImageExists) => ("ImageAlreadyInstalled", 1),
        Some(Reason::ImageBroken) => ("InvalidImage", 1),
        Some(Reason::ImageCancelled) => ("ImportCancelled", 1),
        Some(Reason::SourceMissing) => ("ActiveImageNotFound", 1),
        Some(Reason::SourceRefused) => ("SourceRefused", 1),
        Some(Reason::SourceFailed) => ("SourceError", 1),
        Some(Reason::InvalidMachine) => ("InvalidArgument", 1),
        Some(Reason::UploadBusy | Reason::UploadOffset | Reason::UploadBroken) => ("UploadError", 1),
        _ if status.code() == Code::Unavailable => return CliError::from(status),
        _ => ("Error", 1),
    };
    CliError::from(status).with_prefix(&format!("imgadm {command}: error ({code})")).with_code(exit)
}

/// Every image of the host.
async fn all(clients: &Clients) -> Result<Vec<v1::Image>, CliError> {
    let list = |page_token| {
        let mut images = clients.images.clone();
        async move { images.list_images(v1::ListImagesRequest { page_size: 0, page_token }).await }
    };
    Ok(pages::all(list).await?)
}

async fn image(clients: &mut Clients, command: &str, uuid: &str) -> Result<v1::Image, CliError> {
    let answer = clients.images.get_image(v1::GetImageRequest { uuid: uuid.to_lowercase() }).await;
    Ok(answer.map_err(|status| told(command, status))?.into_inner().image.unwrap_or_default())
}

/// An image as imgadm prints it: the manifest, and what this host knows of it.
fn object(image: &v1::Image) -> Value {
    let mut object = json!({
        "manifest": manifest(image),
        // Programs look for a pool; there is one place for images here.
        "zpool": "zones",
        "clones": image.vms.len() + image.derived.len(),
        "source": image.source,
        "state": image.state().as_str_name().trim_start_matches("IMAGE_STATE_").to_lowercase(),
        "digest": image.digest,
        "size": image.size,
        "used": image.used,
        "format": image.format,
        "imported": image.create_time.as_ref().map(iso),
        "vms": image.vms,
        "derived": image.derived,
    });
    if image.state() == v1::ImageState::Importing {
        object["received"] = json!(image.received);
        object["total"] = json!(image.total);
    }
    object
}

/// The manifest, with the keys that programs read whatever the source.
fn manifest(image: &v1::Image) -> Value {
    let manifest = struct_to_json(image.manifest.clone().unwrap_or_default());
    with_defaults(manifest, &image.create_time.as_ref().map(iso).unwrap_or_default())
}

fn with_defaults(mut manifest: Map<String, Value>, published_at: &str) -> Value {
    for (key, value) in [("description", ""), ("published_at", published_at)] {
        manifest.entry(key).or_insert_with(|| json!(value));
    }
    Value::Object(manifest)
}

/// `name@version`, as imgadm calls an image.
fn called(image: &v1::Image) -> String {
    let manifest = manifest(image);
    let text = |key: &str| manifest.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    format!("{}@{}", text("name"), text("version"))
}

async fn get(clients: &mut Clients, uuid: &str) -> Result<(), CliError> {
    let image = image(clients, "get", uuid).await?;
    print(&pretty(&object(&image)))
}

/// The manifest at the source, or of an image that is here.
async fn show(clients: &mut Clients, uuid: &str, source: &str) -> Result<(), CliError> {
    let request = v1::ListRemoteImagesRequest { source: source.to_owned(), uuid: uuid.to_lowercase() };
    let found = table::remote(clients, "show", request).await?;
    match found.into_iter().next() {
        Some((_, manifest)) => print(&pretty(&manifest)),
        None => {
            let message =
                format!("imgadm show: error (ActiveImageNotFound): no image server has image {uuid}");
            Err(CliError::failed(message))
        }
    }
}

async fn sources(clients: &mut Clients, options: &arguments::Sources) -> Result<(), CliError> {
    if options.kind != "imgapi" {
        let message = format!("-t {}: image servers of the type imgapi are known here", options.kind);
        return Err(CliError::usage(message));
    }
    let answer = clients.images.list_image_sources(v1::ListImageSourcesRequest {}).await?.into_inner();
    let has = |url: &str| {
        answer.sources.iter().any(|known| known.trim_end_matches('/') == url.trim_end_matches('/'))
    };
    let in_the_configuration = |what: &str| {
        let message = format!(
            "imgadm sources: error (Configured): {what}: images.servers in the agent's configuration"
        );
        Err(CliError::failed(message))
    };
    match (&options.add, &options.delete) {
        (Some(url), _) if has(url) => {
            print(&format!("Already have \"{}\" image source \"{url}\", no change", options.kind))
        }
        (Some(url), _) => in_the_configuration(&format!("add {url} there")),
        (None, Some(url)) if !has(url) => print(&format!("Do not have image source \"{url}\", no change")),
        (None, Some(url)) => in_the_configuration(&format!("remove {url} there")),
        (None, None) if options.json => {
            let all: Vec<Value> =
                answer.sources.iter().map(|url| json!({"url": url, "type": "imgapi"})).collect();
            print(&pretty(&all))
        }
        (None, None) => answer.sources.iter().try_for_each(|url| print(url)),
    }
}
