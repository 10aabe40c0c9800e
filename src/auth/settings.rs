//! How certificates are configured: the section `[tls]`.

use std::path::PathBuf;

use serde::Deserialize;

/// Certificates of the TCP endpoint. Relative paths are below the working directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Folder that the files below are in.
    pub dir: PathBuf,
    /// The agent's chain, leaf first.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Roots of client certificates.
    pub client_ca: PathBuf,
    /// Revocation lists; the file may be absent.
    pub crl: PathBuf,
    /// Clients are `spiffe://<trust_domain>/<role>/<name>`.
    pub trust_domain: String,
    /// Seconds between checks of the files; changed ones are loaded. 0: only on SIGHUP.
    pub reload_seconds: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dir: crate::model::places::CERTIFICATES.into(),
            cert: "server.pem".into(),
            key: "server.key".into(),
            client_ca: "ca.pem".into(),
            crl: "crl.pem".into(),
            trust_domain: "zoneward".into(),
            reload_seconds: 10,
        }
    }
}
