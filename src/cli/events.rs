//! `events`.

use serde_json::{Map, Value, json};
use tonic::Code;

use super::{
    Clients, error::CliError, lifecycle::phase_line, machine, options::EventOptions, payload::talks, print,
};
use crate::{
    client::{EventWatcher, Watched},
    proto::v1::{self, event::Kind, watch_events_request::Start},
    spec::filter,
    text::escaped,
};

pub(super) async fn events(
    clients: &mut Clients,
    uuid: Option<&str>,
    options: &EventOptions,
    verbose: bool,
) -> Result<(), CliError> {
    if let Some(uuid) = uuid {
        let found = clients.vms.get_vm(v1::GetVmRequest { uuid: uuid.to_owned() }).await;
        found.map_err(|status| match status.code() {
            Code::NotFound => CliError::failed(status.message()),
            _ => CliError::from(status),
        })?;
    }
    // The output for other programs begins with every VM as it is.
    let inventory = options.ready && options.json;
    let start = match (&options.cursor, &options.since) {
        (Some(cursor), _) => Start::Cursor(cursor.clone()),
        (None, Some(since)) => Start::Time(time(since, jiff::Timestamp::now())?),
        (None, None) if options.from_start => Start::Beginning(true),
        (None, None) if options.snapshot || inventory => Start::Snapshot(true),
        (None, None) => Start::Now(true),
    };
    let uuids = uuid.map(str::to_owned).into_iter().collect();
    let filters = options.filters.clone();
    let kinds = if options.json && !options.all { KINDS.map(Into::into).to_vec() } else { Vec::new() };
    let request = v1::WatchEventsRequest { start: Some(start), uuids, kinds, filters };
    let mut watcher = EventWatcher::start(clients.events.clone(), request).await?;
    // A program that reads events takes any word on standard error for a failure.
    let talks = talks(verbose);
    let mut ready = !options.ready;
    let mut vms = Map::new();
    loop {
        let item = watcher.next().await?;
        let cursor = watcher.cursor().unwrap_or_default();
        let text = match &item {
            Watched::Event(event) if options.json => json_line(event, cursor)?,
            Watched::Event(event) => lines(event, options.full),
            Watched::Bookmark | Watched::SnapshotEnd if !ready => {
                ready = true;
                ready_line(options, std::mem::take(&mut vms), cursor)
            }
            Watched::Snapshot(vm) if inventory && !ready => {
                vms.insert(vm.uuid.clone(), machine::machine(vm).into());
                if options.snapshot { snapshot_line(vm, options) } else { String::new() }
            }
            // It was already printed: a broken connection restarted the snapshot.
            Watched::Snapshot(_) if inventory && !options.snapshot => String::new(),
            Watched::Snapshot(vm) => snapshot_line(vm, options),
            Watched::Bookmark | Watched::SnapshotEnd => String::new(),
            Watched::Disconnected(why) => {
                if talks {
                    say!("The connection to the agent is lost ({why}); trying again.");
                }
                continue;
            }
            Watched::Reconnected { snapshot_restarts } => {
                if *snapshot_restarts {
                    vms.clear();
                }
                if talks {
                    let rest =
                        if *snapshot_restarts { "the snapshot restarts" } else { "no event was missed" };
                    say!("Connected again; {rest}.");
                }
                continue;
            }
        };
        if !text.is_empty() {
            print(&text)?;
        }
        if options.no_follow && item == Watched::Bookmark {
            return Ok(());
        }
    }
}

/// The kinds of events that vmadm's own readers know.
const KINDS: [v1::EventKind; 3] = [v1::EventKind::Created, v1::EventKind::Modified, v1::EventKind::Deleted];

/// Parses a time, a time of day (the last such in UTC), or how long ago it was.
fn time(text: &str, now: jiff::Timestamp) -> Result<prost_types::Timestamp, CliError> {
    let time =
        text.parse::<jiff::Timestamp>().ok().or_else(|| time_of_day(text, now)).or_else(|| ago(text, now));
    let time = time.ok_or_else(|| {
        CliError::usage(format!(
            "--since {text}: not a time like 2026-11-23T10:00:00Z or 10:00:00 (UTC), nor one like 10m, 2d or 1 hour ago"
        ))
    })?;
    Ok(prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() })
}

fn time_of_day(text: &str, now: jiff::Timestamp) -> Option<jiff::Timestamp> {
    // The parser would silently ignore a date or an offset.
    let text = text.trim_end_matches(['Z', 'z']);
    let forms = ["%H:%M", "%H:%M:%S", "%H:%M:%S%.f"];
    let time = forms.iter().find_map(|form| jiff::civil::Time::strptime(form, text).ok())?;
    let now = now.to_zoned(jiff::tz::TimeZone::UTC);
    let today = now.with().time(time).build().ok()?;
    let last = if today > now { today.checked_sub(jiff::Span::new().days(1)).ok()? } else { today };
    Some(last.timestamp())
}

/// "1 hour ago" parses as a negative hour.
fn ago(text: &str, now: jiff::Timestamp) -> Option<jiff::Timestamp> {
    if text.contains(':') {
        return None;
    }
    let span: jiff::Span = text.parse().ok()?;
    let day = jiff::SpanRelativeTo::days_are_24_hours();
    now.checked_sub(span.to_duration(day).ok()?.abs()).ok()
}

/// Formats a VM of the snapshot as if it had just been created.
fn snapshot_line(vm: &v1::Vm, options: &EventOptions) -> String {
    let machine = machine::machine(vm);
    if options.json {
        return json!({"type": "snapshot", "zonename": vm.uuid, "uuid": vm.uuid, "vm": machine}).to_string();
    }
    let uuid = if options.full { vm.uuid.as_str() } else { vm.uuid.get(..8).unwrap_or_default() };
    let text = |name: &str| machine.get(name).map(filter::text).unwrap_or_default();
    let alias: String = escaped(&text("alias")).chars().take(30).collect();
    let alias = if alias.is_empty() { "-" } else { &alias };
    format!("{uuid} {alias} is {}", text("state"))
}

fn ready_line(options: &EventOptions, vms: Map<String, Value>, cursor: &str) -> String {
    let now = format!("{:.3}", jiff::Timestamp::now());
    if options.json {
        return json!({"type": "ready", "date": now, "vms": vms, "cursor": cursor}).to_string();
    }
    format!("[{}] ready", stamp(&now, options.full))
}

/// The time of day, or all of it.
fn stamp(iso: &str, full: bool) -> &str {
    match iso.split_once('T') {
        Some((_, time)) if !full => time,
        _ => iso,
    }
}

/// vmadm's line, and one more for each change.
fn lines(event: &v1::Event, full: bool) -> String {
    let time = event.time.as_ref().map(machine::iso).unwrap_or_default();
    let uuid = if full { event.uuid.as_str() } else { event.uuid.get(..8).unwrap_or_default() };
    let alias: String = escaped(&alias(event)).chars().take(30).collect();
    let alias = if alias.is_empty() { "-" } else { &alias };
    let mut text = format!("[{}] {uuid} {alias} {}", stamp(&time, full), kind(event));
    match &event.kind {
        Some(Kind::Boot(phase)) => text.push_str(&format!(" {}", phase_line(phase))),
        Some(Kind::File(file)) => {
            let action = file.action().as_str_name().trim_start_matches("ACTION_").to_lowercase();
            text.push_str(&format!(" {action} {} ({} bytes)", escaped(&file.path), file.size));
        }
        Some(Kind::Call(call)) => {
            let by = if event.actor.is_empty() { "the agent" } else { &event.actor };
            let refused = if call.refused { " refused to" } else { " by" };
            let detail = if call.detail.is_empty() { String::new() } else { format!(" {}", call.detail) };
            text.push_str(&escaped(&format!(" {}{detail}{refused} {by}", call.rpc)));
        }
        Some(Kind::Image(image)) => {
            let step = image.step().as_str_name().trim_start_matches("STEP_").to_lowercase();
            text.push_str(&format!(" {step}"));
            match (image.received, image.total) {
                (0, _) => {}
                (received, 0) => text.push_str(&format!(" {received} bytes")),
                (received, total) => text.push_str(&format!(" {received} of {total} bytes")),
            }
            if !image.reason.is_empty() {
                text.push_str(&format!(": {}", escaped(&image.reason)));
            }
        }
        Some(Kind::Reclaimed(reclaimed)) => {
            text.push_str(&format!(" {} {}", escaped(&reclaimed.leak), escaped(&reclaimed.path)));
        }
        Some(Kind::Modified(modified)) => {
            for change in &modified.changes {
                text.push_str(&format!("\n    {}", escaped(&change_line(change))));
            }
        }
        _ => {}
    }
    text
}

fn alias(event: &v1::Event) -> String {
    let of =
        |vm: &Option<v1::Vm>| vm.as_ref().and_then(|vm| vm.spec.as_ref()?.alias.clone()).unwrap_or_default();
    match &event.kind {
        Some(Kind::Created(created)) => of(&created.vm),
        Some(Kind::Modified(modified)) => of(&modified.vm),
        Some(Kind::Deleted(deleted)) => deleted.alias.clone(),
        _ => String::new(),
    }
}

fn kind(event: &v1::Event) -> &'static str {
    match &event.kind {
        Some(Kind::Created(_)) => "create",
        Some(Kind::Modified(_)) => "modify",
        Some(Kind::Deleted(_)) => "delete",
        Some(Kind::Boot(_)) => "boot",
        Some(Kind::File(_)) => "file",
        Some(Kind::Reclaimed(_)) => "reclaim",
        Some(Kind::Call(_)) => "call",
        Some(Kind::Panicked(_)) => "panic",
        Some(Kind::Image(_)) => "image",
        None => "unknown",
    }
}

/// `disks.*.size changed :: 1 -> 2`
fn change_line(change: &v1::Change) -> String {
    let (path, action) = (pretty_path(&change.path), action(change));
    match action {
        "added" => format!("{path} {action} :: {}", change.new_value),
        "removed" => format!("{path} {action} :: {}", change.old_value),
        _ => format!("{path} {action} :: {} -> {}", change.old_value, change.new_value),
    }
}

fn action(change: &v1::Change) -> &'static str {
    match (change.old_value.is_empty(), change.new_value.is_empty()) {
        (true, _) => "added",
        (_, true) => "removed",
        _ => "changed",
    }
}

/// vmadm's path: an element of a list is `*`.
fn pretty_path(path: &str) -> String {
    path.split('.')
        .map(|name| if name.bytes().all(|b| b.is_ascii_digit()) { "*" } else { name })
        .collect::<Vec<_>>()
        .join(".")
}

/// vmadm's object, with the cursor to continue from.
fn json_line(event: &v1::Event, cursor: &str) -> Result<String, CliError> {
    let mut object = json!({
        "type": kind(event),
        "date": event.time.as_ref().map(machine::iso),
        "zonename": event.uuid,
        "uuid": event.uuid,
        "sequence": event.sequence,
        "cursor": cursor,
    });
    if !event.actor.is_empty() {
        object["actor"] = json!(event.actor);
    }
    if !event.request_id.is_empty() {
        object["request_id"] = json!(event.request_id);
    }
    match &event.kind {
        Some(Kind::Created(v1::VmCreated { vm: Some(vm) })) => object["vm"] = machine::machine(vm).into(),
        Some(Kind::Modified(modified)) => {
            let vm: Value = modified.vm.as_ref().map(machine::machine).unwrap_or_default().into();
            object["changes"] = modified.changes.iter().map(|change| change_json(change, &vm)).collect();
            object["vm"] = vm;
        }
        Some(Kind::Boot(phase)) => {
            object["phase"] = json!(phase.phase().as_str_name().trim_start_matches("PHASE_"));
            object["elapsed_us"] = json!(phase.elapsed_us);
            if !phase.reason.is_empty() {
                object["step"] = json!(phase.step);
                object["reason"] = json!(phase.reason);
            }
            if !phase.address.is_empty() {
                object["address"] = json!(phase.address);
                object["mac"] = json!(phase.mac);
            }
        }
        Some(Kind::File(file)) => {
            object["path"] = json!(file.path);
            object["action"] =
                json!(file.action().as_str_name().trim_start_matches("ACTION_").to_lowercase());
            object["size"] = json!(file.size);
        }
        Some(Kind::Call(call)) => {
            object["rpc"] = json!(call.rpc);
            object["detail"] = json!(call.detail);
            object["refused"] = json!(call.refused);
        }
        Some(Kind::Image(image)) => {
            let step = image.step().as_str_name().trim_start_matches("STEP_").to_lowercase();
            object["step"] = json!(step);
            if let Some(found) = &image.image {
                object["image"] = json!({"uuid": found.uuid, "digest": found.digest, "source": found.source, "size": found.size});
            }
            if image.received > 0 {
                object["received"] = json!(image.received);
                object["total"] = json!(image.total);
            }
            if !image.reason.is_empty() {
                object["reason"] = json!(image.reason);
            }
        }
        Some(Kind::Reclaimed(reclaimed)) => {
            object["leak"] = json!(reclaimed.leak);
            object["path"] = json!(reclaimed.path);
        }
        _ => {}
    }
    Ok(object.to_string())
}

/// A change of an item includes the name by which an update finds it.
fn change_json(change: &v1::Change, vm: &Value) -> Value {
    let path: Vec<Value> = change
        .path
        .split('.')
        .map(|name| if name.bytes().all(|b| b.is_ascii_digit()) { Value::Null } else { json!(name) })
        .collect();
    let mut object = json!({"path": path, "prettyPath": pretty_path(&change.path), "action": action(change)});
    for (key, text) in [("oldValue", &change.old_value), ("newValue", &change.new_value)] {
        if !text.is_empty() {
            object[key] = serde_json::from_str(text).unwrap_or(Value::Null);
        }
    }
    if let Some(ident) = ident(&change.path, &object, vm) {
        object["ident"] = ident;
    }
    object
}

fn ident(path: &str, change: &Value, vm: &Value) -> Option<Value> {
    let mut names = path.split('.');
    let (list, index) = (names.next()?, names.next()?.parse::<usize>().ok()?);
    let key = match list {
        "disks" | "pci_devices" => "path",
        "nics" => "mac",
        _ => return None,
    };
    // A removed item is no longer in the VM.
    let item = match names.next() {
        None => change.get("oldValue").or(change.get("newValue"))?,
        Some(_) => vm.get(list)?.get(index)?,
    };
    item.get(key).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_read_as_vmadms() {
        let change = |old: &str, new: &str| v1::Change {
            path: "disks.0.size".into(),
            old_value: old.into(),
            new_value: new.into(),
            cut: false,
        };
        assert_eq!(change_line(&change("1", "2")), "disks.*.size changed :: 1 -> 2");
        assert_eq!(change_line(&change("", "2")), "disks.*.size added :: 2");
        let vm = json!({"disks": [{"path": "/zones/u/disk0"}]});
        assert_eq!(
            change_json(&change("1", ""), &vm),
            json!({"path": ["disks", null, "size"], "prettyPath": "disks.*.size", "action": "removed", "oldValue": 1,
                "ident": "/zones/u/disk0"})
        );
        let gone = v1::Change {
            path: "nics.1".into(),
            old_value: r#"{"mac":"02:00:00:00:00:01"}"#.into(),
            ..Default::default()
        };
        assert_eq!(change_json(&gone, &vm)["ident"], "02:00:00:00:00:01");
    }

    #[test]
    fn time_stamps_are_short_unless_full() {
        assert_eq!(stamp("2026-01-02T03:04:05.678Z", false), "03:04:05.678Z");
        assert_eq!(stamp("2026-01-02T03:04:05.678Z", true), "2026-01-02T03:04:05.678Z");
    }
}
