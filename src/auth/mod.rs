//! The only entrance: it identifies the peer of a connection, and decides which rpcs it may call.
//!
//! ```text
//!   TCP ──▶ TLS 1.3, client certificate ──▶ spiffe://<domain>/<role>/<name> ─┐
//!   UNIX ──▶ peer uid ─────────────────────▶ admin ──────────────────────────┴─▶ Peer ──▶ gate ──▶ rpc
//! ```
//!
//! There is no listener without authentication and no rpc without a role: [`role::needed`] is an
//! exhaustive match over the contract, so a new rpc does not compile before it has one.

mod connection;
mod gate;
mod incoming;
mod peer;
pub(crate) mod pki;
mod places;
mod role;
mod screen_links;
mod settings;
mod tls;

pub(crate) use gate::{GateLayer, MAX_CALLS};
pub use incoming::Listeners;
pub(crate) use incoming::incoming;
pub(crate) use peer::Peer;
pub use role::{Role, needed};
pub use screen_links::ScreenLinks;
pub(crate) use screen_links::{ScreenLink, ScreenLinkError};
pub use settings::Settings;
pub use tls::{Files, Tls};
