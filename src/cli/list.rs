//! `list`.

use std::{cmp::Ordering, collections::BTreeMap};

use serde_json::{Map, Value};

use super::{Clients, arguments::ListOptions, error::CliError, machine, print};
use crate::proto::v1;

/// Column, header and width; vmadm's own.
const COLUMNS: &[(&str, &str, usize)] = &[
    ("alias", "ALIAS", 10),
    ("autoboot", "AUTOBOOT", 8),
    ("boot_timestamp", "BOOT_TIMESTAMP", 24),
    ("bootrom", "BOOTROM", 7),
    ("brand", "BRAND", 14),
    ("create_timestamp", "CREATE_TIMESTAMP", 24),
    ("exit_status", "EXIT", 4),
    ("exit_timestamp", "EXIT_TIMESTAMP", 24),
    ("hostname", "HOSTNAME", 32),
    ("last_modified", "LAST_MODIFIED", 24),
    ("pid", "PID", 6),
    ("ram", "RAM", 7),
    ("state", "STATE", 16),
    ("type", "TYPE", 4),
    ("uuid", "UUID", 36),
    ("vcpus", "VCPUS", 5),
    ("vnc_port", "VNC_PORT", 8),
    ("zone_state", "ZONE_STATE", 10),
    ("zonename", "ZONENAME", 12),
    ("zonepath", "ZONEPATH", 40),
];

/// What to list, understood.
#[derive(Debug)]
pub(super) struct Query<'o> {
    options: &'o ListOptions,
    columns: Vec<&'static (&'static str, &'static str, usize)>,
    sort: Vec<(&'static str, bool)>,
    filters: BTreeMap<&'static str, &'o str>,
}

fn column(name: &str) -> Option<&'static (&'static str, &'static str, usize)> {
    COLUMNS.iter().find(|(known, ..)| *known == name)
}

impl<'o> Query<'o> {
    pub(super) fn new(options: &'o ListOptions) -> Result<Self, CliError> {
        let columns = options
            .order
            .split(',')
            .map(|name| column(name).ok_or_else(|| CliError::usage(format!("invalid order field: {name}"))))
            .collect::<Result<_, _>>()?;
        let sort = options
            .sort
            .split(',')
            .map(|given| {
                let name = given.trim_start_matches(['-', '+']);
                let known =
                    column(name).ok_or_else(|| CliError::usage(format!("invalid sort field: {name}")))?;
                Ok((known.0, given.starts_with('-')))
            })
            .collect::<Result<_, CliError>>()?;
        let filters = options
            .filters
            .iter()
            .map(|word| {
                let (key, value) = word.split_once('=').unwrap_or((word, ""));
                let known =
                    column(key).ok_or_else(|| CliError::usage(format!("Invalid filter key: \"{key}\"")))?;
                Ok((known.0, value))
            })
            .collect::<Result<_, CliError>>()?;
        Ok(Self { options, columns, sort, filters })
    }

    fn matches(&self, vm: &Map<String, Value>) -> bool {
        self.filters.iter().all(|(key, wanted)| text(vm, key) == *wanted)
    }

    fn compare(&self, a: &Map<String, Value>, b: &Map<String, Value>) -> Ordering {
        for (key, reverse) in &self.sort {
            let by_number = a.get(*key).and_then(Value::as_i64).cmp(&b.get(*key).and_then(Value::as_i64));
            let ordering = by_number.then_with(|| text(a, key).cmp(&text(b, key)));
            if ordering != Ordering::Equal {
                return if *reverse { ordering.reverse() } else { ordering };
            }
        }
        Ordering::Equal
    }

    fn line(&self, cells: impl Iterator<Item = String>) -> String {
        if self.options.parsable {
            return cells.collect::<Vec<_>>().join(":");
        }
        let padded = cells.zip(&self.columns).map(|(cell, (_, _, width))| {
            let cell = if cell.is_empty() { "-".to_owned() } else { cell };
            format!("{cell:<width$}")
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

fn text(vm: &Map<String, Value>, key: &str) -> String {
    match vm.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

pub(super) async fn list(clients: &mut Clients, query: &Query<'_>) -> Result<(), CliError> {
    let mut vms = Vec::new();
    let mut request = v1::ListVmsRequest::default();
    loop {
        let page = clients.vms.list_vms(request.clone()).await?.into_inner();
        for vm in &page.vms {
            vms.push(machine::machine(vm)?);
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    vms.retain(|vm| query.matches(vm));
    vms.sort_by(|a, b| query.compare(a, b));
    if !query.options.parsable && !query.options.no_header {
        print(&query.line(query.columns.iter().map(|(_, header, _)| (*header).to_owned())))?;
    }
    for vm in &vms {
        print(&query.line(query.columns.iter().map(|(key, ..)| text(vm, key))))?;
    }
    Ok(())
}
