//! Failures of commands.

use std::{fmt, process::ExitCode};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{model::Reason, spec::Violation, text::escaped};

/// The message for standard error, and the exit code.
#[derive(Debug)]
pub(super) struct CliError {
    code: u8,
    message: String,
    details: Vec<String>,
}

impl CliError {
    /// The command line was not understood.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into(), details: Vec::new() }
    }

    /// The work was refused or failed.
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into(), details: Vec::new() }
    }

    /// Everything is already printed.
    pub(super) fn quiet() -> Self {
        Self { code: 1, message: String::new(), details: Vec::new() }
    }

    /// A silent success.
    pub(super) fn quiet_success() -> Self {
        Self { code: 0, message: String::new(), details: Vec::new() }
    }

    /// A machine that breaks rules.
    pub(super) fn violations(violations: &[Violation]) -> Self {
        let details = violations.iter().map(ToString::to_string).collect();
        Self { code: 1, message: crate::spec::violation::summary(violations), details }
    }

    /// An error about one field, whose own description suffices.
    pub(super) fn of_one_field(status: Status) -> Self {
        let details = status.get_error_details();
        let only = details.bad_request().and_then(|bad| bad.field_violations.first());
        match only {
            Some(violation) => Self::failed(violation.description.clone()),
            None => Self::from(status),
        }
    }

    /// With another exit code.
    pub(super) fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// Puts vmadm's words before the agent's.
    pub(super) fn with_prefix(mut self, prefix: &str) -> Self {
        if !self.message.is_empty() {
            self.message = format!("{prefix}: {}", self.message);
        }
        self
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        let given = status.get_error_details();
        let details = given
            .bad_request()
            .map(|bad| {
                bad.field_violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect()
            })
            .unwrap_or_default();
        let message = match status.code() {
            // vmadm's words, by which programs know that a VM is gone.
            Code::NotFound if is_vm_not_found(&given) => match vm_of(&given) {
                Some(uuid) => format!("zoneadm: {uuid}: No such zone configured"),
                None => status.message().to_owned(),
            },
            // Transport messages are for programmers; people need the cause.
            Code::Unavailable if given.error_info().is_none() => {
                format!("the agent can't be reached: {}", cause(&status))
            }
            _ => match given.error_info().and_then(|info| hint(info.reason.parse().ok()?)) {
                Some(hint) => format!("{} ({hint})", status.message()),
                None => status.message().to_owned(),
            },
        };
        Self { code: 1, message, details }
    }
}

fn is_vm_not_found(details: &ErrorDetails) -> bool {
    details.error_info().is_some_and(|info| info.reason == Reason::VmNotFound.as_str())
}

fn vm_of(details: &ErrorDetails) -> Option<&str> {
    Some(details.error_info()?.metadata.get("uuid")?)
}

/// Returns the option to use, where the agent's message names rpc fields.
fn hint(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::FileExists => "--overwrite replaces it",
        Reason::ConsoleBusy => "--read-only watches, --take-over writes instead",
        Reason::Conflict => "leave out nics.*.mac for an address that is free",
        Reason::HostDraining => "vmadm drain --end says that the host stays",
        _ => return None,
    })
}

/// The innermost reason of a transport error.
fn cause(status: &Status) -> String {
    let mut source: Option<&dyn std::error::Error> = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for detail in &self.details {
            write!(f, "\n  {}", escaped(detail))?;
        }
        Ok(())
    }
}
