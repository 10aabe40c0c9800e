//! Where an agent is found that is configured as it comes.

/// The folder of what does not survive a boot of the host.
pub const RUN: &str = "/run/zoneward";
/// The local operator's socket.
pub const SOCKET: &str = "/run/zoneward/zoneward.sock";
/// The folder of certificates.
pub const CERTIFICATES: &str = "/etc/zoneward/certs";
