//! A call that outlives the agent: it is repeated with its request id, and gets the first reply.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tonic::{Response, Status};

use super::{backoff::Backoff, reason, watcher::is_passing};
use crate::model::Reason;

/// How long an agent may be away.
const PATIENCE: Duration = Duration::from_secs(120);
/// A call that lasted longer had reached an agent: to connect takes less.
const HEARD: Duration = Duration::from_secs(15);

/// Whether the connection, and not the agent, is at fault.
fn is_lost(status: &Status) -> bool {
    match reason(status) {
        Some(reason) => reason == Reason::Stopping,
        None => is_passing(status),
    }
}

/// Repeats a call until an agent replies. `call` has the same request id each time, so that the request runs
/// once, whichever agent runs it. `on_lost` is called once, when the agent is first lost.
pub async fn persist<T, F>(on_lost: impl FnOnce(), mut call: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let (mut on_lost, mut lost, mut backoff) = (Some(on_lost), Instant::now(), Backoff::default());
    loop {
        let asked = Instant::now();
        let status = match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if is_lost(&status) => status,
            Err(status) => return Err(status),
        };
        if let Some(on_lost) = on_lost.take() {
            on_lost();
        }
        if asked.elapsed() > HEARD {
            // An agent received it, and was lost only now.
            (lost, backoff) = (Instant::now(), Backoff::default());
        }
        if lost.elapsed() > PATIENCE {
            return Err(status);
        }
        backoff.wait().await;
    }
}
