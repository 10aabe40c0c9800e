//! For programs that talk to agents: what every controller would otherwise write again.
//!
//! ```no_run
//! use zoneward::{
//!     client::{EventWatcher, Watched},
//!     proto::v1::{WatchEventsRequest, event_service_client::EventServiceClient, watch_events_request::Start},
//! };
//!
//! # async fn keep_up(channel: tonic::transport::Channel) -> Result<(), tonic::Status> {
//! let request = WatchEventsRequest { start: Some(Start::Snapshot(true)), ..Default::default() };
//! let mut watcher = EventWatcher::start(EventServiceClient::new(channel), request).await?;
//! loop {
//!     match watcher.next().await? {
//!         Watched::Snapshot(vm) => println!("there is {}", vm.uuid),
//!         Watched::Event(event) => println!("{} of {}", event.sequence, event.uuid),
//!         Watched::Reconnected { anew: true } => println!("forget the snapshot so far"),
//!         _ => {}
//!     }
//! }
//! # }
//! ```

mod watcher;

pub(crate) use watcher::{CertificateRefused, is_passing};
pub use watcher::{EventWatcher, Watched};
