//! The zones that this host can build, determined by building them. Only a trial shows it: versions and
//! sysctls say too little.

use std::{
    fs::File,
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;

use uuid::Uuid;

use super::{
    LinuxZone,
    process::{self, LinuxProcess},
};
use crate::{
    layout::VmLayout,
    spec::{Enforcement, LimitReport, Limits, Restriction, VmSpec},
    zone::{
        Launch, Process as _, ZoneError,
        cgroup::Cgroup,
        launcher::landlock,
        sandbox::{Level, Mechanism},
        spawn::spawn,
    },
};

/// How much of a zone this host can build.
#[derive(Clone, Debug)]
pub(super) struct Ability {
    pub(super) level: Level,
    pub(super) landlock: bool,
    pub(super) enforcements: Vec<Enforcement>,
    pub(super) limits: Vec<LimitReport>,
}

impl Ability {
    /// Builds a trial zone of each level, best first, until one works.
    pub(super) async fn find(zone: &LinuxZone) -> Self {
        let landlock = landlock::is_there();
        let root = rustix::process::geteuid().is_root();
        let mut shortcomings = Vec::new();
        if let Err(error) = remove_old_trials(zone).await {
            tracing::warn!(%error, "cannot remove the remains of earlier trials");
        }
        for level in Level::LADDER {
            let sensible = match level {
                Level::Full | Level::NoUserNamespace => root,
                Level::Rootless => !root,
                Level::FiltersOnly => true,
            };
            if !sensible || zone.settings.level.is_some_and(|only| only != *level) {
                continue;
            }
            let found = Self { level: *level, landlock, enforcements: Vec::new(), limits: Vec::new() };
            match try_zone(zone, &found).await {
                Ok((enforcements, limits)) => {
                    let weak: Vec<&str> =
                        limits.iter().filter(|l| !l.is_effective()).map(|l| l.property.as_str()).collect();
                    tracing::info!(?level, landlock, ?shortcomings, without_effect = ?weak, "this host can build zones");
                    return Self { enforcements, limits, ..found };
                }
                Err(error) => shortcomings.push(format!("{level:?}: {error}{}", cure(&error))),
            }
        }
        tracing::error!(?shortcomings, "this host can't build zones");
        let reason = match shortcomings.as_slice() {
            [] => "zone.level names a zone that this user can't have".to_owned(),
            _ => shortcomings.join("; "),
        };
        let none = |(_, restriction): &(&str, Restriction)| Enforcement {
            restriction: *restriction,
            mechanisms: Vec::new(),
            reason: reason.clone(),
        };
        let enforcements = Restriction::ALL.iter().map(none).collect();
        Self { level: Level::FiltersOnly, landlock, enforcements, limits: Vec::new() }
    }
}

/// Returns advice to the operator about common refusals.
fn cure(error: &ZoneError) -> &'static str {
    let ZoneError::Launcher(text) = error else { return "" };
    let names = |all: &[&str]| all.iter().any(|word| text.contains(word));
    if names(&["clone3", "user namespace"]) {
        " (the host forbids namespaces: see sysctl user.max_*_namespaces and kernel.unprivileged_userns_clone, or give the agent's container CAP_SYS_ADMIN)"
    } else if names(&["mknod", "chown"]) {
        " (this root may not make device nodes: give the agent's container CAP_MKNOD and CAP_CHOWN, or run it as an ordinary user)"
    } else if names(&["mount_setattr", "open_tree", "fsopen"]) {
        " (the kernel needs Linux 5.12, and the agent's container the right to mount)"
    } else if names(&["seccomp", "Seccomp", "filter"]) {
        " (the kernel needs CONFIG_SECCOMP_FILTER)"
    } else {
        ""
    }
}

/// Builds a zone around a program that only sleeps; returns its measured restrictions and limits.
async fn try_zone(
    zone: &LinuxZone,
    ability: &Ability,
) -> Result<(Vec<Enforcement>, Vec<LimitReport>), ZoneError> {
    let trial = Trial::make(zone)?;
    let limits = Limits::of(&VmSpec::default());
    let cgroup = zone.cgroups.make(&trial.name, &trial.folder.join("cgroup.json"));
    let cgroup = cgroup.map_err(ZoneError::at("finding the host's control groups"))?;
    let mut reports = cgroup.apply(&limits);
    for report in &mut reports {
        // The trial's values are irrelevant.
        report.mechanism.truncate(report.mechanism.find('=').unwrap_or(report.mechanism.len()));
    }
    let tried = async {
        let sandbox =
            zone.sandbox(&trial.root(), ability, zone.trial_user(), trial.name.clone(), false, &limits)?;
        let mut sandbox = sandbox.within(&cgroup);
        sandbox.without.retain(|mechanism| *mechanism == Mechanism::Landlock);
        let file = || std::fs::File::options().read(true).write(true).open("/dev/null");
        let null = || file().map_err(ZoneError::at("opening /dev/null"));
        let launch = Launch {
            uuid: Uuid::nil(),
            index: 0,
            limits,
            largest_file: 0,
            kvm: false,
            program: "/usr/bin/sleep".into(),
            arguments: vec!["10".to_owned()],
            descriptors: Vec::new(),
            input: null()?,
            output: null()?,
            errors: null()?,
        };
        let (pid, pidfd) = spawn(trial.folder.join("process.json"), launch, sandbox).await?;
        let process = LinuxProcess::measured(pid, pidfd, cgroup.clone(), ability.landlock)?;
        let enforcements = process.enforcements().to_vec();
        process.kill()?;
        process.ended().await;
        Ok((enforcements, reports))
    };
    let result = tried.await;
    let _ = tokio::task::spawn_blocking(move || cgroup.remove()).await;
    result
}

const TRIAL: &str = "trial-";

/// Removes the remains of trials whose agent was killed.
async fn remove_old_trials(zone: &LinuxZone) -> io::Result<()> {
    zone.cgroups.remove_empty(TRIAL)?;
    for entry in std::fs::read_dir(&zone.run)?.flatten() {
        let is_trial = entry.file_name().to_string_lossy().starts_with(TRIAL);
        let folder = VmLayout::of_run(entry.path());
        if !is_trial {
            continue;
        }
        // Held until it is removed.
        let Ok(_lock) = lock(folder.run()) else { continue };
        if let Err(error) = remove_old_trial(&folder).await {
            tracing::warn!(%error, folder = %folder.run().display(), "cannot remove an old trial's remains");
        }
    }
    Ok(())
}

async fn remove_old_trial(folder: &VmLayout) -> io::Result<()> {
    if let Ok(process) = process::find(folder)? {
        process.kill().map_err(io::Error::other)?;
        process.ended().await;
    }
    let cgroup = Cgroup::read(&folder.cgroup())?;
    // The launcher may not have recorded its identity yet.
    cgroup.kill();
    cgroup.remove();
    if cgroup.is_left() {
        // The folder leads the next start to them.
        return Err(io::Error::other("its control groups are not empty yet"));
    }
    std::fs::remove_dir_all(folder.run())
}

/// Locks a folder or fails at once.
fn lock(folder: &Path) -> io::Result<File> {
    let folder = File::open(folder)?;
    rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
    Ok(folder)
}

/// The folder of a zone without a VM; removed on drop.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    /// Held while the trial runs.
    _lock: File,
}

impl Trial {
    pub(super) fn make(zone: &LinuxZone) -> Result<Self, ZoneError> {
        let name = format!("{TRIAL}{}", Uuid::new_v4());
        let folder = zone.run.join(&name);
        let make = || {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            let trial = Self { _lock: lock(&folder)?, folder: folder.clone(), name: name.clone() };
            std::fs::create_dir(trial.root())?;
            // Regardless of the umask.
            std::fs::set_permissions(trial.root(), std::fs::Permissions::from_mode(0o755))?;
            Ok::<_, io::Error>(trial)
        };
        // Another agent may have removed it as an old one.
        make().or_else(|_| make()).map_err(ZoneError::at("making a trial zone"))
    }

    pub(super) fn root(&self) -> std::path::PathBuf {
        self.folder.join("root")
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
