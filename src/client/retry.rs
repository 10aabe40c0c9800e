//! A call that outlives the agent which was asked: it is asked again by its request id, and gets the first answer.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tonic::{Response, Status};

use super::{reason, watcher::is_passing};
use crate::model::Reason;

/// Between tries; doubled after each that failed, up to the last.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// How long an agent may be away.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whether the connection, and not the agent, is at fault.
fn is_lost(status: &Status) -> bool {
    match reason(status) {
        Some(reason) => reason == Reason::Stopping,
        None => is_passing(status),
    }
}

/// Calls until there is an answer. `call` has the same request id each time, so that what was asked is done once,
/// whichever agent does it. `on_lost` is called once, when the agent is lost for the first time.
pub async fn persist<T, F>(on_lost: impl FnOnce(), mut call: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let (mut wait, longest) = WAITS;
    let (mut on_lost, mut lost) = (Some(on_lost), Instant::now());
    loop {
        let status = match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if is_lost(&status) => status,
            Err(status) => return Err(status),
        };
        if let Some(on_lost) = on_lost.take() {
            on_lost();
            lost = Instant::now();
        }
        if lost.elapsed() > PATIENCE {
            return Err(status);
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(longest);
    }
}
