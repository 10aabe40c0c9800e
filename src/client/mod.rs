//! For programs that talk to agents: what every controller would otherwise write again.

mod watcher;

pub(crate) use watcher::is_passing;
pub use watcher::{EventWatcher, Watched};
