//! Where an agent is found that is configured as it comes.

/// The folder of what does not survive a boot of the host.
pub(crate) const RUN: &str = "/run/zoneward";
/// The local operator's socket.
pub(crate) const SOCKET: &str = "/run/zoneward/zoneward.sock";
/// The folder of certificates.
pub(crate) const CERTIFICATES: &str = "/etc/zoneward/certs";
