//! `list` and `lookup`.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::{
    Clients,
    error::CliError,
    machine,
    options::{ListOptions, LookupOptions},
    print,
};
use crate::{
    client::pages,
    proto::v1,
    spec::{
        filter::{self, Filter},
        property::{VM, find},
    },
    text::escaped,
};

/// A column of the table.
#[derive(Debug)]
struct Column {
    path: String,
    header: String,
    width: usize,
}

impl Column {
    /// A property, an item of a list like `nics.0.ip`, or a tag.
    fn parse(name: &str) -> Option<Self> {
        let property = find(VM, name).filter(|property| property.is_shown());
        if let Some((header, width)) = property.and_then(|property| property.column) {
            return Some(Self { path: name.to_owned(), header: header.to_owned(), width });
        }
        let nested = name.contains('.') && !name.contains('*') && filter::is_path(name);
        let is_column = property.is_some() || nested;
        is_column.then(|| Self { path: name.to_owned(), header: name.to_uppercase(), width: name.len() })
    }
}

/// A parsed list query.
#[derive(Debug)]
pub(super) struct Query<'o> {
    options: &'o ListOptions,
    columns: Vec<Column>,
    sort: Vec<(Column, bool)>,
}

impl<'o> Query<'o> {
    pub(super) fn new(options: &'o ListOptions) -> Result<Self, CliError> {
        let columns = options
            .order
            .split(',')
            .map(|name| {
                Column::parse(name).ok_or_else(|| CliError::usage(format!("invalid order field: {name}")))
            })
            .collect::<Result<_, _>>()?;
        let sort = options
            .sort
            .split(',')
            .map(|given| {
                let name = given.trim_start_matches(['-', '+']);
                let column = Column::parse(name)
                    .ok_or_else(|| CliError::usage(format!("invalid sort field: {name}")))?;
                Ok((column, given.starts_with('-')))
            })
            .collect::<Result<_, CliError>>()?;
        check(&options.filters, "filter")?;
        Ok(Self { options, columns, sort })
    }

    fn compare(&self, a: &Map<String, Value>, b: &Map<String, Value>) -> Ordering {
        for (column, reverse) in &self.sort {
            let of = |vm| filter::get(vm, &column.path);
            let number = |vm| of(vm).and_then(Value::as_i64);
            let text = |vm| of(vm).map(filter::text);
            let ordering = number(a).cmp(&number(b)).then_with(|| text(a).cmp(&text(b)));
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
        let padded = cells.zip(&self.columns).map(|(cell, column)| {
            let cell = if cell.is_empty() { "-".to_owned() } else { cell };
            format!("{cell:<width$}", width = column.width)
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

/// Checks filters here, too, so that a mistake is reported in vmadm's words, and with its exit code.
fn check(filters: &[String], what: &str) -> Result<(), CliError> {
    for text in filters {
        Filter::parse(text).map_err(|why| {
            CliError::failed(why.replace("Invalid filter key", &format!("Invalid {what} key")))
        })?;
    }
    Ok(())
}

/// Every VM that meets the filters.
async fn vms(clients: &mut Clients, filters: &[String]) -> Result<Vec<Map<String, Value>>, CliError> {
    let vms = pages::all(|page_token| {
        let (mut vms, filters) = (clients.vms.clone(), filters.to_vec());
        async move { vms.list_vms(v1::ListVmsRequest { filters, page_token, page_size: 0 }).await }
    });
    Ok(vms.await?.iter().map(machine::machine).collect())
}

pub(super) async fn list(clients: &mut Clients, query: &Query<'_>) -> Result<(), CliError> {
    let mut vms = vms(clients, &query.options.filters).await?;
    vms.sort_by(|a, b| query.compare(a, b));
    let options = query.options;
    if options.header || !(options.parsable || options.no_header) {
        print(&query.line(query.columns.iter().map(|column| column.header.clone())))?;
    }
    for vm in &vms {
        let cell = |column: &Column| filter::get(vm, &column.path).map(filter::text).unwrap_or_default();
        let cell = |column: &Column| escaped(&cell(column)).into_owned();
        print(&query.line(query.columns.iter().map(cell)))?;
    }
    Ok(())
}

pub(super) fn check_lookup(options: &LookupOptions) -> Result<(), CliError> {
    if options.order.is_some() && !options.json {
        return Err(CliError::usage("Cannot specify -o without -j"));
    }
    let fields = options.order.iter().flat_map(|order| order.split(','));
    for name in fields {
        if find(VM, name).is_none() && !filter::is_path(name) {
            return Err(CliError::usage(format!("Invalid lookup key: \"{name}\"")));
        }
    }
    check(&options.filters, "lookup")
}

pub(super) async fn lookup(clients: &mut Clients, options: &LookupOptions) -> Result<(), CliError> {
    let mut vms = vms(clients, &options.filters).await?;
    if options.unique && vms.len() != 1 {
        let count = vms.len();
        return Err(CliError::failed(format!("Requested unique lookup but found {count} results.")));
    }
    if !options.json {
        for vm in &vms {
            print(&filter::text(vm.get("uuid").unwrap_or(&Value::Null)))?;
        }
        return Ok(());
    }
    if let Some(order) = &options.order {
        let only = |vm: &Map<String, Value>| -> Map<String, Value> {
            let fields = order.split(',').filter_map(|name| Some((name, filter::get(vm, name)?)));
            fields.map(|(name, value)| (name.to_owned(), value.clone())).collect()
        };
        vms = vms.iter().map(only).collect();
    }
    print(&serde_json::to_string_pretty(&vms).unwrap_or_default())
}
