//! Services for a running guest: metadata requests, its interfaces, and the journal of its late phases.

pub(super) mod late_phases;
pub(super) mod links;
pub(super) mod metadata;
