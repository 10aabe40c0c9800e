//! What callers do that by itself changes no machine, in the journal: nobody acts on a guest without a name.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{Agent, call::Call, error::Error, transition::Transition};
use crate::model::NewEvent;

/// Of one caller and rpc one refusal is told in that time.
const REFUSAL: Duration = Duration::from_secs(60);
/// Callers and rpcs that are told apart.
const KNOWN: usize = 1024;

impl Agent {
    /// Writes down what a caller is about to do; of the host when no VM is named. Who looks at a guest or types into it
    /// is not kept from that by a disk that is full: then the log has the word.
    pub async fn tell_call(&self, call: &Call, vm: Option<Uuid>, rpc: &str, detail: &str) {
        if let Err(error) = self.tell(call.made(vm, rpc, detail.to_owned())).await {
            tracing::error!(actor = call.actor, ?vm, rpc, detail, %error, "done without a word in the journal");
        }
    }

    async fn tell(&self, event: NewEvent) -> Result<(), Error> {
        Transition::new(self).event(event).only().await
    }
}

/// Calls that were refused for a role that is too low; who is refused again and again must not fill the journal.
#[derive(Debug, Default)]
pub struct Refusals(HashMap<(String, String), Instant>);

impl Refusals {
    /// Writes down that `caller` may not call `rpc`, unless that was said a moment ago.
    pub async fn tell(&mut self, agent: &Agent, caller: String, rpc: String) {
        let now = Instant::now();
        if self.0.len() >= KNOWN {
            self.0.retain(|_, told| now.duration_since(*told) < REFUSAL);
        }
        let key = (caller, rpc);
        let is_new = self.0.get(&key).is_none_or(|told| now.duration_since(*told) >= REFUSAL);
        if !is_new || self.0.len() >= KNOWN {
            return;
        }
        if let Err(error) = agent.tell(Call::by(&key.0).refused(&key.1)).await {
            tracing::warn!(caller = key.0, rpc = key.1, %error, "a call was refused, and that is not in the journal");
        }
        self.0.insert(key, now);
    }
}
