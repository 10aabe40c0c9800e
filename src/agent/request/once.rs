//! Runs each request once: a repeat with the same id joins the work, or gets the kept answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::{
    agent::{
        error::Error,
        request::{
            call::Call,
            reply::{self, Reply, StoredReply},
        },
    },
    store::{Answer, Reader},
};

type Answered = Option<Result<StoredReply, Error>>;

#[derive(Clone, Debug)]
struct UnderWay {
    digest: [u8; 32],
    answer: watch::Receiver<Answered>,
}

/// The requests that are under way.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Requests {
    reader: Reader,
    under_way: Arc<Mutex<HashMap<Uuid, UnderWay>>>,
}

impl Requests {
    pub(in crate::agent) fn new(reader: Reader) -> Self {
        Self { reader, under_way: Arc::default() }
    }

    /// Runs `work` on `tasks` and waits for it; the work continues when the caller leaves.
    pub(in crate::agent) async fn once<T: Reply, F>(
        &self,
        tasks: &TaskTracker,
        call: Call,
        work: impl FnOnce(Call) -> F + Send + 'static,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let Some(request_id) = call.request_id else {
            return tasks.spawn(work(call).in_current_span()).await.map_err(Error::internal)?;
        };
        let (sender, receiver) = watch::channel(None);
        let earlier = {
            let mut under_way = lock(&self.under_way);
            let earlier = under_way.get(&request_id).cloned();
            if earlier.is_none() {
                under_way.insert(request_id, UnderWay { digest: call.digest, answer: receiver.clone() });
            }
            earlier
        };
        if let Some(earlier) = earlier {
            return match earlier.digest == call.digest {
                true => answer_as(request_id, wait(earlier.answer).await),
                false => Err(Error::RequestIdReused { request_id }),
            };
        }
        let this = self.clone();
        let asked = async move {
            let _leave = Leave { requests: this.clone(), request_id };
            let result = match this.kept(&call).await {
                Ok(None) => work(call).await.map(|reply| reply.store()),
                Ok(Some(kept)) => kept,
                Err(error) => Err(error),
            };
            sender.send_replace(Some(result));
        };
        tasks.spawn(asked.in_current_span());
        answer_as(request_id, wait(receiver).await)
    }

    /// Returns whether an answer to the request is kept.
    pub(in crate::agent) async fn knows(&self, request_id: Uuid) -> Result<bool, Error> {
        Ok(self.look_up(request_id).await?.is_some())
    }

    async fn look_up(&self, request_id: Uuid) -> Result<Option<Answer>, Error> {
        let reader = self.reader.clone();
        Ok(tokio::task::spawn_blocking(move || reader.answer(request_id))
            .await
            .map_err(Error::internal)??)
    }

    /// The answer to an earlier run of the same request.
    async fn kept(&self, call: &Call) -> Result<Answered, Error> {
        let Some(request_id) = call.request_id else { return Ok(None) };
        let Some(kept) = self.look_up(request_id).await? else { return Ok(None) };
        if kept.digest != call.digest {
            return Err(Error::RequestIdReused { request_id });
        }
        reply::read(&kept.body).map(Some).ok_or(Error::AnswerLost { request_id })
    }
}

/// Removes the request from the list, even when its work panicked.
struct Leave {
    requests: Requests,
    request_id: Uuid,
}

impl Drop for Leave {
    fn drop(&mut self) {
        lock(&self.requests.under_way).remove(&self.request_id);
    }
}

/// Converts the kept form to the call's reply.
fn answer_as<T: Reply>(request_id: Uuid, kept: Result<StoredReply, Error>) -> Result<T, Error> {
    T::load(kept?).ok_or(Error::AnswerLost { request_id })
}

async fn wait(mut answer: watch::Receiver<Answered>) -> Result<StoredReply, Error> {
    let answered = answer.wait_for(Option::is_some).await;
    answered.ok().and_then(|answer| answer.clone()).unwrap_or_else(|| {
        Err(Error::Internal { message: "the request ended without a reply; see the agent's log".to_owned() })
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;
    use crate::{
        agent::request::reply::DeleteReply,
        events::Journal,
        store::{Commit, Keep},
    };

    fn call(id: u128, digest: u8) -> Call {
        Call { request_id: Some(Uuid::from_u128(id)), digest: [digest; 32], ..Call::by("alice") }
    }

    #[tokio::test]
    async fn a_repeat_joins_the_work_and_another_content_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (_store, reader, _journal) = Journal::open(&folder.path().join("db"), Keep::default()).unwrap();
        let (requests, tasks) = (Requests::new(reader), TaskTracker::new());
        let (done, runs) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let ask = |call| {
            let (requests, tasks) = (requests.clone(), tasks.clone());
            let (done, runs) = (done.clone(), runs.clone());
            tokio::spawn(async move {
                let work = move |_| async move {
                    runs.fetch_add(1, Ordering::Relaxed);
                    done.notified().await;
                    Ok(DeleteReply)
                };
                requests.once(&tasks, call, work).await
            })
        };
        let first = ask(call(1, 1));
        while runs.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let (repeat, other) = (ask(call(1, 1)), ask(call(1, 2)));
        let reused = Error::RequestIdReused { request_id: Uuid::from_u128(1) };
        assert_eq!(other.await.unwrap(), Err(reused));
        done.notify_one();
        assert_eq!((first.await.unwrap(), repeat.await.unwrap()), (Ok(DeleteReply), Ok(DeleteReply)));
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn an_answer_that_was_kept_is_given_without_the_work() {
        let folder = tempfile::tempdir().unwrap();
        let (store, reader, _journal) = Journal::open(&folder.path().join("db"), Keep::default()).unwrap();
        let (requests, tasks) = (Requests::new(reader), TaskTracker::new());
        let answers = call(1, 1).answer(&Ok(DeleteReply)).into_iter().collect();
        store.commit(Commit { answers, ..Commit::default() }).await.unwrap();
        let never = |_| async { panic!("the work is done again") };
        assert_eq!(requests.once(&tasks, call(1, 1), never).await, Ok(DeleteReply));
        let never = |_| async { panic!("the work is done again") };
        let other = requests.once::<DeleteReply, _>(&tasks, call(1, 2), never).await;
        assert_eq!(other, Err(Error::RequestIdReused { request_id: Uuid::from_u128(1) }));
    }
}
