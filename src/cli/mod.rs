//! The operator's command. Everything goes through gRPC; nothing here touches a VM directly.
//!
//! Names, texts, streams and exit codes are vmadm's: data on standard output, what was done and what
//! went wrong on standard error; 0 done, 1 refused or failed, 2 not understood.

/// Prints to standard error, escaped so that a terminal obeys none of it.
macro_rules! say {
    ($($word:tt)*) => {
        anstream::eprintln!("{}", $crate::text::escaped_lines(&format!($($word)*)))
    };
}

mod arguments;
mod boot_log;
mod completion;
mod connect;
mod console;
mod create;
mod error;
mod events;
mod files;
mod host;
mod imgadm;
mod lifecycle;
mod list;
mod look;
mod machine;
mod options;
mod payload;
mod persist;
mod smartos;
mod update;
mod vnc;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
};

use arguments::{Arguments, Command};
use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use error::CliError;
pub use imgadm::run as run_imgadm;

use crate::{
    client::Agent as Clients,
    spec::{forms::parse_uuid, machine_json::Strictness},
    text,
};

/// Answers a shell that completes a line; false if none asks.
pub fn complete() -> bool {
    completion::answer()
}

/// Runs a command on a runtime of its own.
pub fn main<F: Future<Output = ExitCode>>(command: impl FnOnce() -> F) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(command());
    // A read of standard input that never ends must not hold the program up.
    runtime.shutdown_background();
    code
}

/// Runs the command line; returns the exit code.
pub async fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let words = as_clap_reads(smartos::by_name(words.collect()));
    if let Some(error) = help_on_nothing(&words) {
        say!("{error}");
        return error.code();
    }
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    match Box::pin(obey(arguments)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.message().is_empty() {
                return error.code();
            }
            say!("{error}");
            error.code()
        }
    }
}

/// `kill -KILL` is `kill -s KILL`, `-?` asks for help, and `-d` is vmadm's for more words.
fn as_clap_reads(words: Vec<OsString>) -> Vec<OsString> {
    let is_vmadm = words.get(1).is_none_or(|command| command != "nictagadm");
    let read = |word: OsString| match word.to_str() {
        Some("-?") => "--help".into(),
        Some("-d") if is_vmadm => "-v".into(),
        _ => word,
    };
    let mut all: Vec<OsString> = words.into_iter().map(read).collect();
    if all.get(1).is_some_and(|command| command == "kill")
        && let Some(word) = all.iter_mut().skip(2).find(|word| {
            let text = word.to_string_lossy();
            let name = text.strip_prefix('-').unwrap_or_default();
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        })
    {
        *word = OsString::from(format!("-s{}", word.to_string_lossy().trim_start_matches('-')));
    }
    all
}

/// `vmadm help lst` is answered as `vmadm lst`.
fn help_on_nothing(words: &[OsString]) -> Option<CliError> {
    let [_, help, command, ..] = words else { return None };
    let command = command.to_str()?;
    let is_known = Arguments::command().find_subcommand(command).is_some() || command == "help";
    (help == "help" && !is_known && !command.starts_with('-')).then(|| unknown(&[command.to_owned()]))
}

fn usage(error: &clap::Error) -> ExitCode {
    let help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // A closed pipe is the reader's choice.
    let _ = error.print();
    if help { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

async fn obey(arguments: Arguments) -> Result<(), CliError> {
    let clients = async |arguments: &Arguments| connect::connect(&arguments.connection).await;
    let strictness = match arguments.ignore_unknown {
        true => Strictness::Lenient,
        false => Strictness::Strict,
    };
    match &arguments.command {
        Command::Other(words) => Err(unknown(words)),
        Command::Completions { shell } => {
            // Scripts have no control characters, and these are the program's own.
            print(&completion::script(shell)?)
        }
        Command::Create { file } => {
            let payload = create::read(file.as_deref(), strictness)?;
            create::create(&mut clients(&arguments).await?, payload, arguments.verbose).await
        }
        Command::Validate { action, brand, file } => {
            let payload = create::read_for_validation(action, brand.as_deref(), file.as_deref())?;
            create::validate(&mut clients(&arguments).await?, payload, strictness, arguments.verbose).await
        }
        Command::Get { uuid } => {
            let uuid = checked(uuid, "get")?;
            look::get(&mut clients(&arguments).await?, uuid).await
        }
        Command::List(options) => {
            let query = list::Query::new(options)?;
            list::list(&mut clients(&arguments).await?, &query).await
        }
        Command::Lookup(options) => {
            list::check_lookup(options)?;
            list::lookup(&mut clients(&arguments).await?, options).await
        }
        Command::Update { uuid, file, replace_lists, changes } => {
            let uuid = checked(uuid, "update")?;
            let patch = update::read(changes, file.as_deref(), strictness)?;
            let mut clients = clients(&arguments).await?;
            update::update(&mut clients, uuid, &patch, *replace_lists, arguments.verbose).await
        }
        Command::Kill { uuid, signal } => {
            let uuid = checked(uuid, "kill")?;
            update::kill(&mut clients(&arguments).await?, uuid, signal.as_deref()).await
        }
        Command::Sysrq { uuid, kind } => {
            let uuid = checked(uuid, "sysrq")?;
            let kind = update::sysrq_type(kind)?;
            update::sysrq(&mut clients(&arguments).await?, uuid, kind).await
        }
        Command::Pause { uuid } => {
            let uuid = checked(uuid, "pause")?;
            update::pause(&mut clients(&arguments).await?, uuid).await
        }
        Command::Resume { uuid } => {
            let uuid = checked(uuid, "resume")?;
            update::resume(&mut clients(&arguments).await?, uuid).await
        }
        Command::ChangeMedia { uuid, path, drive } => {
            let uuid = checked(uuid, "change-media")?;
            let (path, drive) = (path.as_deref(), drive.as_deref());
            update::change_media(&mut clients(&arguments).await?, uuid, path, drive).await
        }
        Command::Nictagadm { action } => smartos::nic_tags(&mut clients(&arguments).await?, action).await,
        Command::Sysinfo => smartos::sysinfo(&mut clients(&arguments).await?).await,
        Command::Schema => look::schema(&mut clients(&arguments).await?).await,
        Command::Man { dir } => clap_mangen::generate_to(Arguments::command(), dir)
            .map_err(|error| CliError::failed(format!("{}: {error}", dir.display()))),
        Command::Start { uuid, options } => {
            let uuid = checked(uuid, "start")?;
            let options = lifecycle::boot_options(options)?;
            lifecycle::start(&mut clients(&arguments).await?, uuid, options, arguments.verbose).await
        }
        Command::Stop { uuid, force, timeout } => {
            let uuid = checked(uuid, "stop")?;
            lifecycle::stop(&mut clients(&arguments).await?, uuid, *force, *timeout).await
        }
        Command::Reboot { uuid, force } => {
            let uuid = checked(uuid, "reboot")?;
            lifecycle::reboot(&mut clients(&arguments).await?, uuid, *force).await
        }
        Command::Delete { uuid } => {
            let uuid = checked(uuid, "delete")?;
            lifecycle::delete(&mut clients(&arguments).await?, uuid).await
        }
        Command::Info { uuid, types } => {
            let uuid = checked(uuid, "info")?;
            look::info(&mut clients(&arguments).await?, uuid, types).await
        }
        Command::Screenshot { uuid, file } => {
            let uuid = checked(uuid, "screenshot")?;
            look::screenshot(&mut clients(&arguments).await?, uuid, file).await
        }
        Command::Host => host::host(&mut clients(&arguments).await?).await,
        Command::NicTags { json } => host::nic_tags(&mut clients(&arguments).await?, *json).await,
        Command::Leaks { json } => host::leaks(&mut clients(&arguments).await?, *json).await,
        Command::Reclaim { ids, all, dry_run } => {
            host::reclaim(&mut clients(&arguments).await?, ids, *all, *dry_run).await
        }
        Command::Drain { timeout, end } => host::drain(&mut clients(&arguments).await?, *timeout, *end).await,
        Command::Events(options) => {
            let uuid = options.uuid.as_deref().map(|uuid| checked(uuid, "events")).transpose()?;
            events::events(&mut clients(&arguments).await?, uuid, options, arguments.verbose).await
        }
        Command::BootLog { uuid, json } => {
            let uuid = checked(uuid, "boot-log")?;
            boot_log::boot_log(&mut clients(&arguments).await?, uuid, *json).await
        }
        Command::Console { uuid, log, read_only, take_over, since } => {
            let uuid = checked(uuid, "console")?;
            let mut clients = clients(&arguments).await?;
            let mode = console::Mode { read_only: *read_only, take_over: *take_over, since: *since };
            if *log {
                console::log(&mut clients, uuid, *since).await
            } else {
                console::attach(&mut clients, uuid, mode).await
            }
        }
        Command::Vnc { uuid, listen, browser } => {
            let uuid = checked(uuid, "vnc")?;
            let mut clients = clients(&arguments).await?;
            match browser {
                true => vnc::link(&mut clients, uuid).await,
                false => vnc::vnc(&mut clients, uuid, listen).await,
            }
        }
        Command::PutFile { uuid, file, path, overwrite } => {
            let uuid = checked(uuid, "put-file")?;
            files::put(&mut clients(&arguments).await?, uuid, file, path.as_deref(), *overwrite).await
        }
        Command::ListFiles { uuid, path } => {
            let uuid = checked(uuid, "list-files")?;
            files::list(&mut clients(&arguments).await?, uuid, path).await
        }
        Command::DeleteFile { uuid, path } => {
            let uuid = checked(uuid, "delete-file")?;
            files::delete(&mut clients(&arguments).await?, uuid, path).await
        }
    }
}

/// vmadm checks only the shape, with these messages.
fn checked<'u>(uuid: &'u str, command: &str) -> Result<&'u str, CliError> {
    parse_uuid(uuid).map(|_| uuid).map_err(|_| {
        CliError::usage(format!("Invalid or missing UUID for {command}\n\nUsage: vmadm {command} <uuid> ..."))
    })
}

fn unknown(words: &[String]) -> CliError {
    let given = words.first().map(String::as_str).unwrap_or_default();
    let command = Arguments::command();
    let near = || {
        command
            .get_subcommands()
            .flat_map(|c| std::iter::once(c.get_name()).chain(c.get_all_aliases()))
            .map(|name| (strsim::damerau_levenshtein(given, name), name))
            .min()
            .filter(|(distance, _)| *distance <= 2)
            .map(|(_, name)| format!(" Did you mean \"{name}\"?"))
    };
    let hint = instead(given).map(str::to_owned).or_else(near).unwrap_or_default();
    CliError::usage(format!("Invalid command: \"{given}\".{hint}\n\nFor the commands: vmadm help"))
}

/// Commands of SmartOS's vmadm that do not exist here, and the way to the same end.
fn instead(command: &str) -> Option<&'static str> {
    Some(match command {
        "create-snapshot" | "delete-snapshot" | "rollback-snapshot" => {
            " Snapshots do not exist yet; stop the VM and copy its disks."
        }
        "send" | "receive" | "recv" | "install" => {
            " Moving VMs does not exist yet; vmadm get UUID | vmadm create makes a VM like it, without the disks' content."
        }
        "reprovision" => " It does not exist yet; delete the VM and create it again from the image.",
        _ => return None,
    })
}

/// Prints data. A reader may close the pipe when it has enough.
fn print(text: &str) -> Result<(), CliError> {
    let text = text::escaped_lines(text);
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(CliError::quiet_success()),
        Err(error) => Err(CliError::failed(format!("writing to standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn no_two_options_have_one_name() {
        super::Arguments::command().debug_assert();
    }
}
