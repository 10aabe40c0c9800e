//! Privileges that the process drops before it becomes the hypervisor.

use std::io;

use rustix::{
    process::{Resource, Rlimit},
    thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets},
};

use super::at;
use crate::{sys, zone::sandbox::Sandbox};

/// Descriptors that the hypervisor may have.
pub(super) const MAX_DESCRIPTORS: u64 = 1024;

/// Sets limits that no cgroup has.
pub(super) fn limit_resources(sandbox: &Sandbox) -> io::Result<()> {
    for (resource, value) in [
        (Resource::Core, 0),
        (Resource::Nofile, MAX_DESCRIPTORS),
        (Resource::Nproc, sandbox.threads),
        (Resource::Memlock, sandbox.locked),
        (Resource::Msgqueue, 0),
        (Resource::Fsize, sandbox.largest_file),
    ] {
        // Raising a limit needs a privilege that even root may lack.
        let most = rustix::process::getrlimit(resource).maximum.map_or(value, |most| most.min(value));
        let both = Rlimit { current: Some(most), maximum: Some(most) };
        rustix::process::setrlimit(resource, both).map_err(at("setrlimit"))?;
    }
    Ok(())
}

/// Lets the process have descriptors above the limit that is set later.
pub(super) fn raise_descriptors() {
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard });
}

/// Clears the bounding set and locks the securebits that would privilege root.
pub(super) fn drop_bounding_set() -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set().map_err(at("ambient capabilities"))?;
    sys::drop_bounding_set().map_err(at("bounding capabilities"))?;
    let locked = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    rustix::thread::set_capabilities_secure_bits(locked).map_err(at("securebits"))?;
    Ok(())
}

/// Drops all capabilities; running a program regains none.
pub(super) fn drop_capabilities() -> io::Result<()> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).map_err(at("capset"))?;
    rustix::thread::set_no_new_privs(true).map_err(at("no_new_privs"))?;
    Ok(())
}
