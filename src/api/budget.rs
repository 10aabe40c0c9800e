//! The bytes that a caller's streams may have in flight.
//!
//! A message that a caller does not read waits in the agent's memory. Small ones are bounded by the number of
//! streams; large ones, of which each stream has one in flight, share a budget: a caller that reads none
//! delays only its own streams.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a message that needs none of the budget.
const SMALL: usize = 16 << 10;
/// KiB of larger ones that one caller may have in flight.
const BUDGET: u32 = 64 << 10;

/// The budgets of callers whose streams are open, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Budgets(Arc<Mutex<HashMap<Arc<str>, Weak<Semaphore>>>>);

/// One stream's share of its caller's budget.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Semaphore>,
    on_the_way: Option<OwnedSemaphorePermit>,
}

impl Budgets {
    pub(super) fn share(&self, caller: &Arc<str>) -> Share {
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = budgets.get(caller).and_then(Weak::upgrade);
        let budget = known.unwrap_or_else(|| {
            budgets.retain(|_, budget| budget.strong_count() > 0);
            let budget = Arc::new(Semaphore::new(BUDGET as usize));
            budgets.insert(caller.clone(), Arc::downgrade(&budget));
            budget
        });
        Share { budget, on_the_way: None }
    }
}

impl Share {
    /// Releases the last message's share: the stream asks for the next, so that one was sent.
    pub(super) fn has_left(&mut self) {
        self.on_the_way = None;
    }

    /// Waits until a message of `bytes` fits.
    pub(super) async fn take(&mut self, bytes: usize) {
        if bytes <= SMALL {
            return;
        }
        let wanted = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).min(BUDGET);
        // It is never closed.
        self.on_the_way = self.budget.clone().acquire_many_owned(wanted).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn large_messages_of_one_caller_wait_for_each_other() {
        let (budgets, name) = (Budgets::default(), Arc::from("viewer"));
        let mut shares: Vec<Share> = (0..65).map(|_| budgets.share(&name)).collect();
        let mut last = shares.pop().unwrap();
        for share in &mut shares {
            share.take(1 << 20).now_or_never().unwrap();
        }
        assert!(last.take(1 << 20).now_or_never().is_none());
        last.take(SMALL).now_or_never().unwrap();
        budgets.share(&Arc::from("admin")).take(1 << 20).now_or_never().unwrap();
        shares[0].has_left();
        last.take(1 << 20).now_or_never().unwrap();
        drop((shares, last));
        budgets.share(&Arc::from("other"));
        assert_eq!(budgets.0.lock().unwrap().len(), 1);
    }
}
