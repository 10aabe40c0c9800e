//! What is done for a running guest: its questions are answered, its interfaces attended, and its late phases journaled.

pub(super) mod late_phases;
pub(super) mod links;
pub(super) mod metadata;
