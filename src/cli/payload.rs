//! Payloads from the terminal, pipes or files, and the agent's notes on them.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::Path,
};

use serde_json::{Map, Value};

use super::error::CliError;
use crate::{
    proto::v1,
    spec::{MAX_PAYLOAD, Note, machine_json},
};

/// Reads a JSON object from a file or standard input.
pub(super) fn payload(file: Option<&Path>, command: &str) -> Result<Map<String, Value>, CliError> {
    let text = match file {
        None => from_stdin(command)?,
        Some(path) if path == Path::new("-") => from_stdin(command)?,
        Some(path) => match File::open(path) {
            Ok(file) => bounded(file, &path.display().to_string())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CliError::failed(format!("File: {} does not exist.", path.display())));
            }
            Err(error) => return Err(CliError::failed(format!("{}: {error}", path.display()))),
        },
    };
    machine_json::parse_text(&text).map_err(|error| CliError::failed(error.to_string()))
}

fn from_stdin(command: &str) -> Result<Vec<u8>, CliError> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(CliError::usage(format!("Will not {command} from stdin when stdin is a tty.")));
    }
    bounded(stdin.lock(), "standard input")
}

/// One byte over the limit is enough to know.
fn bounded(from: impl Read, name: &str) -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    from.take(MAX_PAYLOAD as u64 + 1)
        .read_to_end(&mut text)
        .map_err(|error| CliError::failed(format!("{name}: {error}")))?;
    Ok(text)
}

/// Whether more than the line of success is printed on standard error.
pub(super) fn talks(verbose: bool) -> bool {
    verbose || io::stderr().is_terminal()
}

/// Prints what was accepted without effect or adjusted, as found here and by the agent. A program gets it
/// only on request, because programs take all of standard error for the line of success.
pub(super) fn print_notes(here: &[Note], agents: Vec<v1::Note>, verbose: bool) {
    if !talks(verbose) {
        return;
    }
    let is_new = |note: &&Note| !agents.iter().any(|known| known.field == note.field);
    let here = here.iter().filter(is_new).map(|note| (&note.field, &note.message));
    for (field, message) in here.chain(agents.iter().map(|note| (&note.field, &note.message))) {
        say!("    note: {field}: {message}");
    }
}
