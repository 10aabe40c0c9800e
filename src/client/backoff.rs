//! Waits between tries to reach an agent.

use std::time::Duration;

/// The first wait, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// Waits that double up to a bound, so that an agent that is back is found soon and one that is away is left alone.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(WAITS.0)
    }
}

impl Backoff {
    /// Waits before the next try.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(WAITS.1);
    }
}
