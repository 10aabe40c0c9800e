//! The metadata channel: a guest asks its host over the second serial port, with no network at all.
//!
//! ```text
//!   guest ── COM2 ── hypervisor ── metadata.sock ──▶ session: lines ──▶ protocol ──▶ Source (the VM's record)
//!                                                ◀── answers ◀─────────────────────┘
//! ```
//!
//! It is the protocol of SmartOS's zones, so stock images with cloud-init's SmartOS data source, or with the mdata
//! tools, configure themselves. All input comes from the guest: lines are bounded, sessions are rate limited,
//! and invalid input costs only the guest's own time. The hypervisor holds the listening socket, so the next
//! agent can open a new session.

mod keys;
pub mod protocol;
pub(crate) mod seed;
mod session;

pub use keys::route;
pub(crate) use keys::{Answer, Place, Route};
pub(crate) use session::{Source, serve};
