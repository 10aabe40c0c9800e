//! The agent that the command line names.

use std::path::PathBuf;

use clap::Args;

use super::error::CliError;
use crate::{
    client::{Agent, Certificates, ConnectError, Endpoint},
    model::places::SOCKET,
};

/// Which agent, and who asks.
#[derive(Debug, Args)]
pub(super) struct Connection {
    /// The agent: unix:/path/to/socket, or https://host:port with --ca, --cert and --key
    #[arg(
        long,
        global = true,
        env = "ZONEWARD_ENDPOINT",
        value_name = "URL",
        hide_env_values = true,
        hide_short_help = true
    )]
    endpoint: Option<String>,
    /// Folder with ca.pem, admin.pem and admin.key, for https
    #[arg(
        long,
        global = true,
        env = "ZONEWARD_CERTS",
        value_name = "DIR",
        hide_env_values = true,
        hide_short_help = true
    )]
    certs: Option<PathBuf>,
    /// CA of the agent's certificate [default: ca.pem in --certs]
    #[arg(
        long,
        global = true,
        env = "ZONEWARD_CA",
        value_name = "FILE",
        hide_env_values = true,
        hide_short_help = true
    )]
    ca: Option<PathBuf>,
    /// Your certificate [default: admin.pem in --certs]
    #[arg(
        long,
        global = true,
        env = "ZONEWARD_CERT",
        value_name = "FILE",
        hide_env_values = true,
        hide_short_help = true
    )]
    cert: Option<PathBuf>,
    /// Your key [default: admin.key in --certs]
    #[arg(
        long,
        global = true,
        env = "ZONEWARD_KEY",
        value_name = "FILE",
        hide_env_values = true,
        hide_short_help = true
    )]
    key: Option<PathBuf>,
}

fn endpoint(connection: &Connection) -> Result<Endpoint, ConnectError> {
    let Some(endpoint) = &connection.endpoint else { return Ok(Endpoint::Unix(SOCKET.into())) };
    let usual = match &connection.certs {
        Some(dir) => Certificates::in_dir(dir, "admin"),
        None => Certificates::default(),
    };
    let certificates = Certificates {
        ca: connection.ca.clone().unwrap_or(usual.ca),
        cert: connection.cert.clone().unwrap_or(usual.cert),
        key: connection.key.clone().unwrap_or(usual.key),
    };
    Endpoint::parse(endpoint, certificates)
}

/// Connects now, so that faults are reported in plain words.
pub(super) async fn connect(connection: &Connection) -> Result<Agent, CliError> {
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
    let endpoint = endpoint(connection).map_err(|error| explain(error, None))?;
    Agent::connect(&endpoint).await.map_err(|error| explain(error, Some(&endpoint)))
}
