//! Allows one writer at a time. A second writer must take over explicitly; the first learns its name.

use tokio::sync::watch;

use super::ConsoleError;

/// The writer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    number: u64,
    name: String,
}

/// The right to write, of one console.
#[derive(Debug)]
pub(super) struct WriterLock {
    state: watch::Sender<(u64, Option<Holder>)>,
}

impl WriterLock {
    pub(super) fn new() -> Self {
        Self { state: watch::channel((0, None)).0 }
    }

    /// Takes the right, from its holder if `over` is set.
    pub(super) fn take(&self, name: &str, over: bool) -> Result<WriterRight, ConsoleError> {
        let mut taken = Err(ConsoleError::NotRunning);
        self.state.send_if_modified(|(last, holder)| {
            if let Some(holder) = holder.as_ref().filter(|_| !over) {
                taken = Err(ConsoleError::Busy { writer: holder.name.clone() });
                return false;
            }
            *last += 1;
            *holder = Some(Holder { number: *last, name: name.to_owned() });
            taken = Ok(*last);
            true
        });
        Ok(WriterRight { number: taken?, state: self.state.clone(), changes: self.state.subscribe() })
    }
}

/// The right to write, until it is dropped or taken.
#[derive(Debug)]
pub struct WriterRight {
    number: u64,
    state: watch::Sender<(u64, Option<Holder>)>,
    changes: watch::Receiver<(u64, Option<Holder>)>,
}

impl WriterRight {
    /// Waits until another takes it; returns its name.
    pub async fn taken(&mut self) -> String {
        let mine = self.number;
        let other =
            |(_, holder): &(u64, Option<Holder>)| holder.as_ref().is_some_and(|holder| holder.number != mine);
        let name = |(_, holder): &(u64, Option<Holder>)| holder.as_ref().map(|holder| holder.name.clone());
        let found = self.changes.wait_for(other).await.ok().and_then(|state| name(&state));
        match found {
            Some(name) => name,
            // The sender is ours too, so it is never gone.
            None => std::future::pending().await,
        }
    }
}

impl Drop for WriterRight {
    fn drop(&mut self) {
        self.state.send_if_modified(|(_, holder)| {
            let mine = holder.as_ref().is_some_and(|holder| holder.number == self.number);
            if mine {
                *holder = None;
            }
            mine
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_writes_and_another_takes_over() {
        let lock = WriterLock::new();
        let mut alice = lock.take("alice", false).unwrap();
        match lock.take("bob", false) {
            Err(ConsoleError::Busy { writer }) => assert_eq!(writer, "alice"),
            other => panic!("{other:?}"),
        }
        let bob = lock.take("bob", true).unwrap();
        assert_eq!(alice.taken().await, "bob");
        drop(alice);
        assert!(lock.take("carol", false).is_err(), "what alice gives back is no longer hers");
        drop(bob);
        lock.take("carol", false).unwrap();
    }
}
