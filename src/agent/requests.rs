//! Each request once: a repeat with the same id joins the work, or gets the answer that was kept.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{
    call::Call,
    error::Error,
    reply::{self, Reply, StoredReply},
};
use crate::store::{Answer, Reader};

type Answered = Option<Result<StoredReply, Error>>;

#[derive(Clone, Debug)]
struct UnderWay {
    digest: [u8; 32],
    answer: watch::Receiver<Answered>,
}

/// The requests that are under way.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    reader: Reader,
    under_way: Arc<Mutex<HashMap<Uuid, UnderWay>>>,
}

impl Requests {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader, under_way: Arc::default() }
    }

    /// Runs `work` on `tasks` and waits for it; the work goes on when the caller does not.
    pub(super) async fn once<T: Reply, F>(
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

    /// Whether there is an answer to that request.
    pub(super) async fn knows(&self, request_id: Uuid) -> Result<bool, Error> {
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

/// Takes the request off the list, also when its work panicked.
struct Leave {
    requests: Requests,
    request_id: Uuid,
}

impl Drop for Leave {
    fn drop(&mut self) {
        lock(&self.requests.under_way).remove(&self.request_id);
    }
}

/// The kept form as what the call is answered.
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
