//! How long a hypervisor may keep its VM's actor waiting: it may be silent, or in a guest's hands.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

use crate::hypervisor::HypervisorError;

/// While other commands wait.
const PATIENCE: Duration = Duration::from_secs(5);
/// While a stop has a deadline.
const MOMENT: Duration = Duration::from_secs(2);

/// Waits for a hypervisor's answer.
pub(in crate::agent) async fn patient<T>(
    asked: impl Future<Output = Result<T, HypervisorError>>,
) -> Result<T, HypervisorError> {
    within(PATIENCE, asked).await
}

/// As [`patient`], in the middle of a stop: not beyond its `deadline`.
pub(super) async fn briefly<T>(
    deadline: Instant,
    asked: impl Future<Output = Result<T, HypervisorError>>,
) -> Result<T, HypervisorError> {
    within(MOMENT.min(deadline.saturating_duration_since(Instant::now())), asked).await
}

async fn within<T>(
    patience: Duration,
    asked: impl Future<Output = Result<T, HypervisorError>>,
) -> Result<T, HypervisorError> {
    let seconds = u64::try_from(patience.as_millis().div_ceil(1000)).unwrap_or(u64::MAX);
    tokio::time::timeout(patience, asked).await.unwrap_or(Err(HypervisorError::Unanswered { seconds }))
}
