//! A caller's access to secrets, and the limits of a caller's filters.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tonic::{Code, Request, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::request::{invalid, peer};
use crate::{
    auth::{Peer, Role},
    model::{ERROR_DOMAIN, Reason},
    proto::Sight,
    spec::filter::Filter,
};

/// Filters of one call.
const MAX_FILTERS: usize = 100;
/// Regular expressions of one call, and of all calls of one caller that are under way.
const MAX_EXPRESSIONS: usize = 8;
const MAX_HELD: usize = 64;

/// Secrets are shown to admins alone.
pub(super) fn sight<T>(request: &Request<T>) -> Result<Sight, Status> {
    peer(request).map(sight_of)
}

fn sight_of(peer: &Peer) -> Sight {
    if peer.role >= Role::Admin { Sight::Whole } else { Sight::Redacted }
}

/// The number of regular expressions under way, by caller.
#[derive(Clone, Debug, Default)]
pub(super) struct Expressions(Arc<Mutex<HashMap<Arc<str>, usize>>>);

/// A call's regular expressions, counted until dropped.
#[derive(Debug)]
pub(super) struct Held {
    expressions: Expressions,
    caller: Arc<str>,
    count: usize,
}

impl Expressions {
    /// Reads a call's conditions on VMs.
    pub(super) async fn filters(
        &self,
        caller: &Peer,
        texts: Vec<String>,
    ) -> Result<(Vec<Filter>, Held), Status> {
        if texts.len() > MAX_FILTERS {
            return Err(invalid("filters", format!("{} are over the limit of {MAX_FILTERS}", texts.len())));
        }
        let count = texts.iter().filter(|text| Filter::is_expression(text)).count();
        if count > MAX_EXPRESSIONS {
            let why =
                format!("{count} regular expressions are over the limit of {MAX_EXPRESSIONS} in one call");
            return Err(invalid("filters", why));
        }
        let held = self.hold(caller.name.clone(), count)?;
        // Compiling one takes a while.
        let parse = move || texts.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>();
        let parsed = tokio::task::spawn_blocking(parse)
            .await
            .map_err(|_| Status::internal("reading filters failed"))?;
        let filters = parsed.map_err(|why| invalid("filters", why))?;
        if sight_of(caller) == Sight::Redacted
            && let Some(filter) = filters.iter().find(|filter| filter.reads_secrets())
        {
            return Err(secret(&filter.key()));
        }
        Ok((filters, held))
    }

    fn hold(&self, caller: Arc<str>, count: usize) -> Result<Held, Status> {
        let mut all = self.lock();
        let own = all.entry(caller.clone()).or_default();
        if *own + count > MAX_HELD {
            let message = format!(
                "your calls that are under way have {own} regular expressions in their filters, of {MAX_HELD} at most; end some"
            );
            let metadata = [("limit".to_owned(), MAX_HELD.to_string())];
            let details =
                ErrorDetails::with_error_info(Reason::TooManyExpressions.as_str(), ERROR_DOMAIN, metadata);
            return Err(Status::with_error_details(Code::ResourceExhausted, message, details));
        }
        *own += count;
        Ok(Held { expressions: self.clone(), caller, count })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut all = self.expressions.lock();
        if let Some(own) = all.get_mut(&self.caller) {
            *own -= self.count;
            if *own == 0 {
                all.remove(&self.caller);
            }
        }
    }
}

/// A filter on a secret would reveal it bit by bit.
fn secret(key: &str) -> Status {
    let metadata =
        [("role_required".to_owned(), Role::Admin.to_string()), ("filter".to_owned(), key.to_owned())];
    let details = ErrorDetails::with_error_info(Reason::RoleRequired.as_str(), ERROR_DOMAIN, metadata);
    let message = format!("a filter on {key} needs role admin: its values are secrets");
    Status::with_error_details(Code::PermissionDenied, message, details)
}
