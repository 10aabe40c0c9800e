//! For programs that talk to agents: code that every controller would otherwise rewrite.
//! `examples/controller.rs` is a small one that uses all of it.
//!
//! - [`Endpoint`] and [`Agent`] connect, over a UNIX socket or TLS with a client certificate that is read again for each
//!   connection;
//! - [`EventWatcher`] and [`ConsoleLog`] follow the journal and a console, and continue where they were when the
//!   connection breaks;
//! - [`attach()`] types into a console, too, and comes back to it at its byte;
//! - [`persist`] repeats a call by its request id until an agent answers it;
//! - [`Upload`] and [`ImageUpload`] continue an upload that was interrupted, and [`pages::all`] reads a list page by page;
//! - [`reason`] names errors.
//!
//! ```no_run
//! use zoneward::{
//!     client::{Agent, Certificates, Endpoint, EventWatcher, Watched},
//!     proto::v1::{WatchEventsRequest, watch_events_request::Start},
//! };
//!
//! # async fn keep_up() -> Result<(), Box<dyn std::error::Error>> {
//! let endpoint = Endpoint::parse("https://host1.example:9443", Certificates::default())?;
//! let agent = Agent::connect(&endpoint).await?;
//! let request = WatchEventsRequest { start: Some(Start::Snapshot(true)), ..Default::default() };
//! let mut watcher = EventWatcher::start(agent.events.clone(), request).await?;
//! loop {
//!     match watcher.next().await? {
//!         Watched::Snapshot(vm) => println!("there is {}", vm.uuid),
//!         Watched::Event(event) => println!("{} of {}", event.sequence, event.uuid),
//!         Watched::Reconnected { snapshot_restarts: true } => println!("forget the snapshot so far"),
//!         _ => {}
//!     }
//! }
//! # }
//! ```

mod agent;
mod attach;
mod backoff;
mod connect;
mod console;
mod image_upload;
pub mod pages;
mod retry;
mod upload;
mod watcher;

use tonic::Status;
use tonic_types::StatusExt as _;

pub use crate::model::Reason;
pub use agent::Agent;
pub use attach::{Attached, ConsoleInput, ConsoleOutput, attach};
use backoff::Backoff;
pub use connect::{Certificates, ConnectError, Endpoint};
pub use console::{ConsoleLog, Printed};
pub use image_upload::ImageUpload;
pub use retry::persist;
pub use upload::{Upload, UploadError};
use watcher::is_passing;
pub use watcher::{EventWatcher, Watched};

/// Returns why the agent refused; `None` if another party failed, or for a reason newer than this program.
#[must_use]
pub fn reason(status: &Status) -> Option<Reason> {
    status.get_error_details().error_info()?.reason.parse().ok()
}
