//! For programs that talk to agents: what every controller would otherwise write again.

mod watcher;

pub use watcher::{EventWatcher, Watched};
