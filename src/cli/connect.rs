//! The agent that the command line names.

use super::{arguments::Arguments, error::CliError};
use crate::{
    client::{Agent, Certificates, ConnectError, Endpoint},
    model::places::SOCKET,
};

fn endpoint(arguments: &Arguments) -> Result<Endpoint, ConnectError> {
    let Some(endpoint) = &arguments.endpoint else { return Ok(Endpoint::Unix(SOCKET.into())) };
    let usual = match &arguments.certs {
        Some(dir) => Certificates::in_dir(dir, "admin"),
        None => Certificates::default(),
    };
    let certificates = Certificates {
        ca: arguments.ca.clone().unwrap_or(usual.ca),
        cert: arguments.cert.clone().unwrap_or(usual.cert),
        key: arguments.key.clone().unwrap_or(usual.key),
    };
    Endpoint::parse(endpoint, certificates)
}

/// Connects now, so that faults are reported in plain words.
pub(super) async fn connect(arguments: &Arguments) -> Result<Agent, CliError> {
    let explain = |error: ConnectError, endpoint: Option<&Endpoint>| match (&error, endpoint) {
        (ConnectError::Endpoint(_), _) => CliError::usage(format!("--endpoint {error}")),
        (ConnectError::Certificate { .. }, _) => CliError::failed(format!(
            "{error}; give --certs, or --ca, --cert and --key (`zoneward pki issue` makes a pair)"
        )),
        (ConnectError::Unreachable { .. }, Some(Endpoint::Unix(_))) => {
            CliError::failed(format!("{error}; is `zoneward serve` running, and are you root?"))
        }
        (ConnectError::Unreachable { .. }, _) => CliError::failed(error.to_string()),
    };
    let endpoint = endpoint(arguments).map_err(|error| explain(error, None))?;
    Agent::connect(&endpoint).await.map_err(|error| explain(error, Some(&endpoint)))
}
