//! Time as it is kept and shown.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Wall-clock time in milliseconds since 1970; only ever shown, never used to order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_millisecond())
    }

    /// That time.
    #[must_use]
    pub fn from_system(time: SystemTime) -> Self {
        Self(jiff::Timestamp::try_from(time).map_or(0, jiff::Timestamp::as_millisecond))
    }

    /// As vmadm writes it: milliseconds, UTC.
    #[must_use]
    pub fn iso(self) -> String {
        jiff::Timestamp::from_millisecond(self.0).map(|time| format!("{time:.3}")).unwrap_or_default()
    }

    /// So much later.
    #[must_use]
    pub fn later(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Returns the duration until then; zero if it is past.
    #[must_use]
    pub fn until(self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(Self::now().0)).unwrap_or(0))
    }
}
