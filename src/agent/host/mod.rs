//! What concerns all VMs of the host at once, and what no VM owns.

pub(super) mod adoption;
pub(super) mod autoboot;
pub(super) mod drain;
pub(super) mod folders;
pub(super) mod leaks;
pub(super) mod nic_tags;
