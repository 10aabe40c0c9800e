//! Callers' requests: the caller, the reply, and the execution once per request id.

pub(super) mod call;
pub(super) mod once;
pub(super) mod reply;
