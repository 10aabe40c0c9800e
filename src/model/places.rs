//! The paths of an agent with the default configuration.

/// The folder of files that do not outlive the host's boot.
pub(crate) const RUN: &str = "/run/zoneward";
/// The local operator's socket.
pub(crate) const SOCKET: &str = "/run/zoneward/zoneward.sock";
/// The folder of certificates.
pub(crate) const CERTIFICATES: &str = "/etc/zoneward/certs";
