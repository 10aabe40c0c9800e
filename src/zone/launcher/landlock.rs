//! Landlock, applied inside the zone: everything may be read, nothing written or created, two files executed,
//! the devices used; no TCP, no abstract UNIX socket and no signal out of the zone.

use std::{os::fd::OwnedFd, path::PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, Scope,
};

use crate::zone::sandbox::Sandbox;

/// The newest rights requested; a kernel that supports fewer enforces those.
const ABI_NAMED: ABI = ABI::V6;

/// The dynamic linker that the kernel runs.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// Restricts this process, which may then execute `program` and no other.
pub(super) fn apply(sandbox: &Sandbox, program: &OwnedFd) -> Result<(), RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI_NAMED))?
        .handle_access(AccessNet::from_all(ABI_NAMED))?
        .scope(Scope::from_all(ABI_NAMED))?
        .create()?;
    let readable: Vec<PathBuf> = if sandbox.level.has_namespaces() {
        vec!["/".into()]
    } else {
        // The host's paths: only the platform, and the zone's own files.
        let sources = sandbox.platform.iter().map(|(source, _)| source.clone());
        sources.chain([sandbox.root.clone()]).collect()
    };
    let devices = sandbox.devices.iter().map(|device| PathBuf::from("/dev").join(&device.name));
    let rules = readable
        .into_iter()
        .map(|path| (path, read))
        .chain([(PathBuf::from(LOADER), AccessFs::ReadFile | AccessFs::Execute)])
        .chain(devices.map(|path| (path, device)));
    for (path, rights) in rules {
        ruleset = add(ruleset, path, rights)?;
    }
    ruleset = ruleset.add_rule(PathBeneath::new(program, AccessFs::ReadFile | AccessFs::Execute))?;
    ruleset.restrict_self()?;
    Ok(())
}

fn add(
    ruleset: landlock::RulesetCreated,
    path: PathBuf,
    rights: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, RulesetError> {
    match PathFd::new(path) {
        Ok(file) => ruleset.add_rule(PathBeneath::new(file, rights)),
        // A missing path needs no right.
        Err(_) => Ok(ruleset),
    }
}

/// Whether this kernel has Landlock.
pub(in crate::zone) fn is_there() -> bool {
    crate::sys::landlock_abi() > 0
}
