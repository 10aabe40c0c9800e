//! What the kernel offers and no safe crate does. All `unsafe` of the project is in this folder;
//! each block says why it is sound.
#![expect(unsafe_code, reason = "the one place for it")]

mod clone;
mod descriptor;
mod kvm_probe;
mod pidfd;

pub(crate) use clone::{Side, clone_beside, exec};
pub(crate) use descriptor::{close_on_exec_except, inherited};
pub(crate) use kvm_probe::KVM_PROBE;
pub(crate) use pidfd::PidFd;
