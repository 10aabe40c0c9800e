//! Requests of callers: who asks, what is replied, and that each is done once.

pub(super) mod call;
pub(super) mod once;
pub(super) mod reply;
