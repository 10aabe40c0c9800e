//! Refused calls, in the journal.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{Agent, context::transition::Transition, request::call::Call};

/// One refusal per caller and rpc is journaled in that time.
const REFUSAL: Duration = Duration::from_secs(60);
/// Pairs of caller and rpc that are remembered.
const KNOWN: usize = 1024;

/// Calls that were refused because the caller's role is too low; repeated ones must not fill the journal.
#[derive(Debug, Default)]
pub(crate) struct Refusals(HashMap<(String, String), Instant>);

impl Refusals {
    /// Journals that `caller` may not call `rpc`, unless it was journaled a moment ago.
    pub(crate) async fn tell(&mut self, agent: &Agent, caller: String, rpc: String) {
        let now = Instant::now();
        if self.0.len() >= KNOWN {
            self.0.retain(|_, told| now.duration_since(*told) < REFUSAL);
        }
        let key = (caller, rpc);
        let is_new = self.0.get(&key).is_none_or(|told| now.duration_since(*told) >= REFUSAL);
        if !is_new || self.0.len() >= KNOWN {
            return;
        }
        let refused = Call::by(&key.0).refused(&key.1);
        if let Err(error) = Transition::new(&agent.context).event(refused).only().await {
            tracing::warn!(caller = key.0, rpc = key.1, %error, "a refused call could not be journaled");
        }
        self.0.insert(key, now);
    }
}
