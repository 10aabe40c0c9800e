//! Shell completions: the shell asks this program, and this program asks the agent.
//!
//! The script of `vmadm completions SHELL` runs `vmadm` with [`VARIABLE`] set and the words of the line so
//! far. Whatever fails on the way means no proposals: a line that is being typed is no place for errors.

use std::{
    ffi::{OsStr, OsString},
    time::Duration,
};

use clap::{Command, CommandFactory as _, FromArgMatches as _};
use clap_complete::{
    ArgValueCompleter, CompleteEnv, CompletionCandidate as Candidate, PathCompleter, env::Shells,
};
use tokio::{runtime, time};

use super::{
    Clients,
    arguments::Arguments,
    connect::{self, Connection},
    error::CliError,
    machine,
};
use crate::{
    client::pages,
    proto::v1,
    spec::{
        Brand, filter,
        property::{Given, Kind, Property, VM},
    },
};

/// Says that a shell asks, and which.
const VARIABLE: &str = "ZONEWARD_COMPLETE";

/// Nobody waits longer for proposals.
const PATIENCE: Duration = Duration::from_secs(2);

/// What `info` knows.
const INFO_TYPES: &[&str] =
    &["all", "block", "blockstats", "chardev", "cpus", "kvm", "pci", "status", "version", "vnc"];

/// Common signals; `kill` takes every name and number.
const SIGNALS: &[&str] = &["TERM", "KILL", "INT", "HUP", "STOP", "CONT"];

/// Answers a shell, if it is one that asks.
pub(super) fn answer() -> bool {
    let environment = CompleteEnv::with_factory(command).var(VARIABLE);
    // An unknown shell gets nothing.
    std::env::var_os(VARIABLE).is_some_and(|shell| !shell.is_empty() && shell != "0")
        && environment
            .try_complete(std::env::args_os(), std::env::current_dir().ok().as_deref())
            .unwrap_or(true)
}

/// The script for a shell to source.
pub(super) fn script(shell: &str) -> Result<String, CliError> {
    let known = Shells::builtins();
    let completer = known.completer(shell).ok_or_else(|| {
        let names: Vec<&str> = known.names().collect();
        CliError::usage(format!("No completions for \"{shell}\"; there are: {}", names.join(", ")))
    })?;
    let mut script = Vec::new();
    completer
        .write_registration(VARIABLE, "vmadm", "vmadm", "vmadm", &mut script)
        .map_err(|error| CliError::failed(error.to_string()))?;
    Ok(String::from_utf8_lossy(&script).trim().to_owned())
}

/// The command line, and what each word of it can be.
fn command() -> Command {
    Arguments::command().mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        let command = command.mut_subcommands(|action| {
            let action_name = action.get_name().to_owned();
            action.mut_args(|arg| match (action_name.as_str(), arg.get_id().as_str()) {
                ("exists", "names") => arg.add(ArgValueCompleter::new(nic_tags)),
                _ => arg,
            })
        });
        command.mut_args(|arg| match (name.as_str(), arg.get_id().as_str()) {
            (_, "uuid") => arg.add(ArgValueCompleter::new(vms)),
            (_, "order") => arg.add(ArgValueCompleter::new(columns)),
            (_, "sort") => arg.add(ArgValueCompleter::new(sort_columns)),
            (_, "filters") => arg.add(ArgValueCompleter::new(filter_keys)),
            ("update", "changes") => arg.add(ArgValueCompleter::new(changeable)),
            ("info", "types") => arg.add(one_of(INFO_TYPES.iter().copied())),
            ("kill", "signal") => arg.add(one_of(SIGNALS.iter().copied())),
            ("sysrq", "kind") => arg.add(one_of(["nmi", "screenshot"])),
            ("validate", "action") => arg.add(one_of(["create", "update"])),
            ("validate", "brand") => arg.add(one_of(Brand::NAMES.iter().map(|(name, _)| *name))),
            ("completions", "shell") => arg.add(one_of(Shells::builtins().names())),
            ("start", "options") => arg.add(one_of(["order=", "cdrom=", "disk="])),
            (_, "file" | "dir") => arg.add(ArgValueCompleter::new(PathCompleter::any())),
            _ => arg,
        })
    })
}

fn one_of(words: impl IntoIterator<Item = &'static str>) -> ArgValueCompleter {
    let words: Vec<_> = words.into_iter().collect();
    ArgValueCompleter::new(move |typed: &OsStr| listed(typed, &words))
}

fn listed(typed: &OsStr, all: &[&str]) -> Vec<Candidate> {
    let typed = typed.to_string_lossy();
    all.iter().filter(|word| word.starts_with(&*typed)).map(|word| Candidate::new(*word)).collect()
}

/// Words for the last place of a list with commas.
fn last_of_list<'n>(typed: &OsStr, names: impl Iterator<Item = (&'n str, &'n str)>) -> Vec<Candidate> {
    let typed = typed.to_string_lossy();
    let (before, last) =
        typed.rsplit_once(',').map_or(("", &*typed), |(_, last)| typed.split_at(typed.len() - last.len()));
    let near = names.filter(|(name, _)| name.starts_with(last));
    near.map(|(name, about)| Candidate::new(format!("{before}{name}")).help(about_text(about))).collect()
}

fn about_text(about: &str) -> Option<clap::builder::StyledStr> {
    let first = about.split_inclusive(". ").next().unwrap_or_default().trim();
    (!first.is_empty()).then(|| first.to_owned().into())
}

fn shown() -> impl Iterator<Item = &'static Property> {
    VM.iter().filter(|property| property.is_shown())
}

fn columns(typed: &OsStr) -> Vec<Candidate> {
    last_of_list(typed, shown().map(|property| (property.name, property.about)))
}

fn sort_columns(typed: &OsStr) -> Vec<Candidate> {
    let reversed: Vec<String> = shown().map(|property| format!("-{}", property.name)).collect();
    let mut all = columns(typed);
    all.extend(last_of_list(typed, reversed.iter().map(|name| (name.as_str(), ""))));
    all
}

fn filter_keys(typed: &OsStr) -> Vec<Candidate> {
    keys(typed, shown())
}

fn changeable(typed: &OsStr) -> Vec<Candidate> {
    let changeable = |property: &&Property| {
        property.given == Given::Always && !matches!(property.kind, Kind::Objects(_) | Kind::FlatObject)
    };
    keys(typed, VM.iter().filter(changeable))
}

/// `name=`, for a value to follow.
fn keys<'p>(typed: &OsStr, properties: impl Iterator<Item = &'p Property>) -> Vec<Candidate> {
    let typed = typed.to_string_lossy();
    let near = properties.filter(|property| property.name.starts_with(&*typed));
    near.map(|property| Candidate::new(format!("{}=", property.name)).help(about_text(property.about)))
        .collect()
}

/// VMs by UUID; an alias completes to the UUID behind it.
fn vms(typed: &OsStr) -> Vec<Candidate> {
    let typed = typed.to_string_lossy();
    let vms = ask(async |clients| {
        let vms = pages::all(|page_token| {
            let mut vms = clients.vms.clone();
            async move { vms.list_vms(v1::ListVmsRequest { page_token, ..Default::default() }).await }
        });
        Some(vms.await.ok()?.iter().map(machine::machine).collect::<Vec<_>>())
    });
    let vms = vms.unwrap_or_default();
    let text = |vm, name| filter::get(vm, name).map(filter::text).unwrap_or_default();
    vms.iter()
        .map(|vm| (text(vm, "uuid"), text(vm, "alias"), text(vm, "state")))
        .filter(|(uuid, alias, _)| uuid.starts_with(&*typed) || alias.starts_with(&*typed))
        .map(|(uuid, alias, state)| {
            let about = format!("{} {state}", if alias.is_empty() { "-" } else { &alias });
            Candidate::new(uuid).help(Some(crate::text::escaped(&about).into_owned().into()))
        })
        .collect()
}

fn nic_tags(typed: &OsStr) -> Vec<Candidate> {
    let tags = ask(async |clients| {
        let answer = clients.host.list_nic_tags(v1::ListNicTagsRequest::default()).await.ok()?;
        Some(answer.into_inner().nic_tags.into_iter().map(|tag| tag.name).collect::<Vec<_>>())
    });
    let tags = tags.unwrap_or_default();
    listed(typed, &tags.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Asks the agent that the line so far names.
fn ask<T>(question: impl AsyncFnOnce(&mut Clients) -> Option<T>) -> Option<T> {
    let words: Vec<OsString> = std::env::args_os().skip_while(|word| word != "--").skip(1).collect();
    let matches = Arguments::command().ignore_errors(true).try_get_matches_from(words).ok()?;
    let connection = Connection::from_arg_matches(&matches).ok()?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        let asked = async { question(&mut connect::connect(&connection).await.ok()?).await };
        time::timeout(PATIENCE, asked).await.ok()?
    })
}
