//! Tables of images: those here, and those that servers offer.

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::{
    super::{Clients, error::CliError, look::pretty, print},
    all, arguments, object, told, with_defaults,
};
use crate::{
    proto::{struct_to_json, v1},
    spec::filter::text,
    text::escaped,
};

pub(super) async fn list(clients: &mut Clients, options: &arguments::List) -> Result<(), CliError> {
    let is_shown = |image: &&v1::Image| options.all || image.state() == v1::ImageState::Active;
    let images: Vec<Value> = all(clients).await?.iter().filter(is_shown).map(object).collect();
    show(images, options)
}

pub(super) async fn avail(clients: &mut Clients, options: &arguments::Avail) -> Result<(), CliError> {
    let request = v1::ListRemoteImagesRequest { source: options.source.clone(), uuid: String::new() };
    let found = remote(clients, "avail", request).await?;
    let images = found.into_iter().map(|(source, manifest)| json!({"manifest": manifest, "source": source}));
    show(images.collect(), &options.list)
}

/// The manifests that servers offer, each with its server. One that fails does not hide the others.
pub(super) async fn remote(
    clients: &mut Clients,
    command: &str,
    request: v1::ListRemoteImagesRequest,
) -> Result<Vec<(String, Value)>, CliError> {
    let failed = |status| told(command, status);
    let mut stream = clients.images.list_remote_images(request).await.map_err(failed)?.into_inner();
    let mut all = Vec::new();
    while let Some(part) = stream.message().await.map_err(failed)? {
        if !part.problem.is_empty() {
            say!("imgadm {command}: error (SourceError): {}", escaped(&part.problem));
        }
        let manifests =
            part.manifests.into_iter().map(|manifest| with_defaults(struct_to_json(manifest), ""));
        all.extend(manifests.map(|manifest| (part.source.clone(), manifest)));
    }
    Ok(all)
}

/// A field of an image, by imgadm's names.
fn field(image: &Value, name: &str) -> String {
    match name {
        "pub" => field(image, "published_at").chars().take(10).collect(),
        "published" => field(image, "published_at"),
        "size" | "used" if image.get(name).is_some() => {
            let bytes = image.get(name).and_then(Value::as_u64).unwrap_or_default();
            format!("{}", bytes.div_ceil(1 << 20))
        }
        name => {
            let of_host = image.get(name).filter(|_| name != "manifest");
            let value = of_host.or_else(|| image.get("manifest")?.get(name));
            value.map(text).unwrap_or_default()
        }
    }
}

/// Numbers by their value, texts behind them.
fn sort_key(image: &Value, name: &str) -> (u64, String) {
    let text = field(image, name);
    (text.parse().unwrap_or(u64::MAX), text)
}

fn show(mut images: Vec<Value>, options: &arguments::List) -> Result<(), CliError> {
    for filter in &options.filters {
        let wrong = || CliError::usage(format!("invalid filter: {filter}; give field=value"));
        let (name, wanted) = filter.split_once('=').ok_or_else(wrong)?;
        images.retain(|image| match wanted.strip_prefix('~') {
            Some(part) => field(image, name).contains(part),
            None => field(image, name) == wanted,
        });
    }
    // The last key first: sorting keeps the order of equals.
    for key in options.sort.split(',').rev() {
        let name = key.trim_start_matches(['+', '-']);
        match key.starts_with('-') {
            true => images.sort_by_cached_key(|image| Reverse(sort_key(image, name))),
            false => images.sort_by_cached_key(|image| sort_key(image, name)),
        }
    }
    if options.json {
        return print(&pretty(&images));
    }
    let columns: Vec<&str> = options.order.split(',').collect();
    let rows: Vec<Vec<String>> =
        images.iter().map(|image| columns.iter().map(|name| cell(&field(image, name))).collect()).collect();
    let width = |index: usize| {
        let header = columns.get(index).map_or(0, |name| name.len());
        rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count()).fold(header, usize::max)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    if !options.no_header {
        print(&line(&columns.iter().map(|name| name.to_uppercase()).collect::<Vec<_>>(), &widths))?;
    }
    rows.iter().try_for_each(|row| print(&line(row, &widths)))
}

/// An empty field would shift the others for programs that split at blanks.
fn cell(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { escaped(text).into_owned() }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let padded: Vec<String> =
        cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    padded.join("  ").trim_end().to_owned()
}
