//! Calls that outlive the agent, and report it.

use std::future::Future;

use tonic::{Response, Status};

use crate::client;

/// As [`client::persist`].
pub(super) async fn persist<T, F>(call: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let on_lost = || say!("The connection to the agent is lost; asking it again by the same request id.");
    client::persist(on_lost, call).await
}
