//! Kernel interfaces that no safe crate offers. This folder contains all `unsafe` of the project; each block
//! says why it is sound.
#![expect(unsafe_code, reason = "the one place for it")]

mod clone;
mod descriptor;
mod hostile;
mod kvm_probe;
mod packet;
mod passing;
mod pidfd;
mod sandbox;
mod tap;

pub(crate) use clone::{Side, clone_beside};
pub(crate) use descriptor::{close_on_exec_except, descriptor_of, inherited};
pub(crate) use hostile::{Aim, Arg, act};
pub(crate) use kvm_probe::KVM_PROBE;
pub(crate) use packet::{PacketSocket, Way};
pub(crate) use passing::{connect_in_passing, pair_in_passing};
pub(crate) use pidfd::{ExitStatus, PidFd};
pub(crate) use sandbox::{
    NODEV, NOEXEC, NOSUID, RDONLY, become_user, drop_bounding_set, enter_namespaces, exec_descriptor,
    landlock_abi, set_mount_attributes, unshare,
};
pub(crate) use tap::{open_macvtap, open_tap};
