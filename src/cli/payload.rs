//! Payloads as they are typed, piped or kept in files, and what the agent has to say of them.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::Path,
};

use serde_json::{Map, Value};

use super::error::CliError;
use crate::{
    proto::v1,
    spec::{MAX_PAYLOAD, machine_json},
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

/// Says what was accepted and has no effect, or was adjusted.
pub(super) fn tell(notes: &[v1::Note]) {
    for note in notes {
        say!("    note: {}: {}", note.field, note.message);
    }
}
