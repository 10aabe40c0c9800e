//! Links to the browser console: the holder of one may see one guest's screen, once.
//!
//! ```text
//!   make ──▶ fresh ──use up──▶ forgotten
//!              │                   ▲
//!              └── its life ends ──┘
//! ```
//!
//! Links are in memory only: the next agent knows none. Only the digest of a token is kept, so that neither a
//! memory dump nor the timing of a comparison reveals one.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::peer::Peer;

/// Fresh links at once.
const MOST: usize = 1024;

/// The links of one agent.
#[derive(Debug)]
pub struct ScreenLinks {
    base: String,
    life: Duration,
    fresh: Mutex<HashMap<[u8; 32], ScreenLink>>,
}

/// The target of a link.
#[derive(Clone, Debug)]
pub(crate) struct ScreenLink {
    /// Whose screen.
    pub(crate) vm: Uuid,
    /// Its creator.
    pub(crate) maker: Peer,
    until: Instant,
}

/// Why there is no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScreenLinkError {
    /// Too many.
    #[error("{MOST} links wait to be opened; try again later")]
    TooMany,
    /// The system gives no random bytes.
    #[error("the system has no random bytes for a link")]
    Random,
}

impl ScreenLinks {
    /// Creates links that begin with `base` and can be opened for `life`.
    #[must_use]
    pub fn new(base: &str, life: Duration) -> Self {
        Self { base: base.trim_end_matches('/').to_owned(), life, fresh: Mutex::default() }
    }

    /// How long a link can be opened.
    pub(crate) fn life(&self) -> Duration {
        self.life
    }

    /// A new link, as a URL.
    pub(crate) fn make(&self, vm: Uuid, maker: Peer) -> Result<String, ScreenLinkError> {
        let mut random = [0; 32];
        crate::tls::provider().secure_random.fill(&mut random).map_err(|_| ScreenLinkError::Random)?;
        let token = BASE64_URL_SAFE_NO_PAD.encode(random);
        let now = Instant::now();
        let mut fresh = self.fresh();
        fresh.retain(|_, link| link.until > now);
        if fresh.len() >= MOST {
            return Err(ScreenLinkError::TooMany);
        }
        fresh.insert(digest(&token), ScreenLink { vm, maker, until: now + self.life });
        Ok(format!("{}/{token}/", self.base))
    }

    /// Returns a token's link, if it is fresh.
    pub(crate) fn peek(&self, token: &str) -> Option<ScreenLink> {
        self.fresh().get(&digest(token)).filter(|link| link.until > Instant::now()).cloned()
    }

    /// As [`Self::peek`], and invalidates the token.
    pub(crate) fn use_up(&self, token: &str) -> Option<ScreenLink> {
        self.fresh().remove(&digest(token)).filter(|link| link.until > Instant::now())
    }

    fn fresh(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], ScreenLink>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;

    fn maker() -> Peer {
        Peer::new("spiffe://zoneward/operator/alice".into(), Role::Operator)
    }

    fn token(url: &str) -> &str {
        url.strip_prefix("https://host:1/").unwrap().strip_suffix('/').unwrap()
    }

    #[test]
    fn a_link_is_good_once() {
        let links = ScreenLinks::new("https://host:1/", Duration::from_secs(60));
        let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
        let (first, second) = (links.make(one, maker()).unwrap(), links.make(other, maker()).unwrap());
        assert_eq!(token(&first).len(), 43, "256 bits");
        assert_eq!(links.peek(token(&first)).unwrap().vm, one);
        assert_eq!(links.use_up(token(&first)).unwrap().maker, maker());
        assert!(links.peek(token(&first)).is_none());
        assert!(links.use_up(token(&first)).is_none());
        assert_eq!(links.use_up(token(&second)).unwrap().vm, other);
        assert!(links.peek("").is_none());
    }

    #[test]
    fn a_link_has_an_end_and_makes_room() {
        let links = ScreenLinks::new("https://host:1", Duration::ZERO);
        for _ in 0..=MOST {
            let url = links.make(Uuid::nil(), maker()).unwrap();
            assert!(links.peek(token(&url)).is_none());
            assert!(links.use_up(token(&url)).is_none());
        }
        let links = ScreenLinks::new("https://host:1", Duration::from_secs(60));
        for _ in 0..MOST {
            links.make(Uuid::nil(), maker()).unwrap();
        }
        assert_eq!(links.make(Uuid::nil(), maker()).unwrap_err(), ScreenLinkError::TooMany);
    }
}
