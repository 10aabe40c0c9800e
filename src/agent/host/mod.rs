//! Work that concerns all VMs of the host at once, or no VM.

pub(super) mod adoption;
pub(super) mod autoboot;
pub(super) mod drain;
pub(super) mod folders;
pub(super) mod leaks;
pub(super) mod nic_tags;
