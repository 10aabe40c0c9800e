//! A call that outlives the agent which was asked: it is asked again by its request id, which gets the first answer.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tonic::{Response, Status};

use crate::{client::is_passing, model::Reason};

/// Between tries; doubled after each that failed, up to the last.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// How long an agent may be away.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whether the connection, and not the agent, is at fault.
fn is_lost(status: &Status) -> bool {
    use tonic_types::StatusExt as _;
    let stops =
        status.get_error_details().error_info().is_some_and(|info| info.reason == Reason::Stopping.as_str());
    stops || (is_passing(status) && status.get_error_details().error_info().is_none())
}

/// Calls until there is an answer; `call` has the same request id each time.
pub(super) async fn persist<T, F>(mut call: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let (mut wait, longest) = WAITS;
    let mut lost: Option<Instant> = None;
    loop {
        let status = match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if is_lost(&status) => status,
            Err(status) => return Err(status),
        };
        let since = *lost.get_or_insert_with(|| {
            say!("The connection to the agent is lost; asking it again by the same request id.");
            Instant::now()
        });
        if since.elapsed() > PATIENCE {
            return Err(status);
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(longest);
    }
}
