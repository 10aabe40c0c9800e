//! A zone for `zoneward probe`: this very program in the hypervisor's place.

use std::{fs::File, os::unix::fs::PermissionsExt as _, path::PathBuf};

use uuid::Uuid;

use super::{LinuxZone, ability::Trial, process::LinuxProcess};
use crate::{
    layout::VmLayout,
    spec::Limits,
    zone::{
        Ended, Launch, Process as _, ZoneError,
        cgroup::Cgroup,
        identity::Identity,
        sandbox::{Mechanism, Sandbox},
        spawn::spawn,
    },
};

/// Where the hostile program runs.
#[derive(Debug)]
pub(crate) struct Hostile {
    trial: Trial,
    cgroup: Cgroup,
    sandbox: Sandbox,
    limits: Limits,
    program: PathBuf,
}

/// What such a zone may use: little, so that a bomb does no harm where nothing stops it.
const LIMITS: Limits = Limits {
    cpu_cap: None,
    cpu_shares: 100,
    memory: 64 << 20,
    locked: 64 << 20,
    memory_and_swap: 64 << 20,
    threads: 100,
    io_priority: 100,
};

impl Hostile {
    /// A zone as a VM's, with a file of the zone's own user in it, so that no ordinary permission is what
    /// stops an act. Without the mechanisms in `without`.
    pub(crate) async fn build(zone: &LinuxZone, without: &[Mechanism]) -> Result<Self, ZoneError> {
        let ability = zone.ability().await;
        if !without.is_empty() && !ability.level.has_namespaces() {
            return Err(ZoneError::Launcher(
                "nothing can be left out of a zone that has no namespaces: the acts would reach the host"
                    .to_owned(),
            ));
        }
        let trial = Trial::make(zone)?;
        let failed = || ZoneError::at("making a zone for the probe");
        let uid = zone.trial_user();
        let image = trial.root().join("image.iso");
        std::fs::write(&image, "iso").map_err(failed())?;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&image, Some(uid), Some(uid)).map_err(failed())?;
        }
        // Another VM's disk, which anybody could open who could name it.
        std::fs::write(trial.folder.join("other.raw"), "other").map_err(failed())?;
        let everybody = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(trial.folder.join("other.raw"), everybody).map_err(failed())?;

        let cgroup = zone.cgroups.make(&trial.name, &trial.folder.join("cgroup.json")).map_err(failed())?;
        if !without.contains(&Mechanism::Cgroups) {
            cgroup.apply(&LIMITS);
        }
        let mut sandbox =
            zone.sandbox(&trial.root(), ability, uid, trial.name.clone(), false, &LIMITS)?.within(&cgroup);
        sandbox.without = without.to_vec();
        let mut program = std::env::current_exe().map_err(failed())?;
        if ability.level.has_namespaces() {
            File::create(trial.root().join("probe")).map_err(failed())?;
            sandbox.platform.push((program, "probe".to_owned()));
            program = "/probe".into();
        }
        Ok(Self { trial, cgroup, sandbox, limits: LIMITS, program })
    }

    /// The zone of a VM that runs: its namespaces and control groups are entered, its user is become. What
    /// can't be entered (rlimits, Landlock's rules, the filter of system calls) is applied anew, by the
    /// code and with the values that the VM's hypervisor got.
    pub(crate) async fn enter(zone: &LinuxZone, layout: &VmLayout, uuid: Uuid) -> Result<Self, ZoneError> {
        let ability = zone.ability().await;
        let failed = || ZoneError::at("entering the VM's zone");
        let process = Identity::read(&layout.process()).map_err(failed())?;
        let gone = || ZoneError::Launcher(format!("VM {uuid} does not run: there is no zone to enter"));
        let process = process.ok_or_else(gone)?;
        let uid = crate::zone::measure::Measured::of(process.pid).map_err(failed())?.ok_or_else(gone)?.uid;
        let cgroup = Cgroup::read(&layout.cgroup()).map_err(failed())?;
        let trial = Trial::make(zone)?;
        let program = std::env::current_exe().map_err(failed())?;
        let sandbox = zone.sandbox(&trial.root(), ability, uid, uuid.to_string(), false, &LIMITS)?;
        let sandbox = Sandbox { join: Some(process.pid), ..sandbox.within(&cgroup) };
        Ok(Self { trial, cgroup, sandbox, limits: LIMITS, program })
    }

    /// Whether the zone is a VM's that runs, which nothing may be done to.
    pub(crate) fn is_live(&self) -> bool {
        self.sandbox.join.is_some()
    }

    /// The user that the program is.
    pub(crate) fn uid(&self) -> u32 {
        self.sandbox.uid
    }

    /// A file of the host that the zone has no business with.
    pub(crate) fn other_disk(&self) -> PathBuf {
        self.trial.folder.join("other.raw")
    }

    /// Runs this program with those words.
    pub(crate) async fn run(&self, arguments: Vec<String>, output: File) -> Result<Ended, ZoneError> {
        let null = || File::open("/dev/null").map_err(ZoneError::at("opening /dev/null"));
        let launch = Launch {
            uuid: Uuid::nil(),
            index: 0,
            limits: self.limits,
            kvm: false,
            program: self.program.clone(),
            arguments,
            descriptors: Vec::new(),
            input: null()?,
            output,
            errors: null()?,
        };
        let record = self.trial.folder.join("process.json");
        let (pid, pidfd) = spawn(record, launch, self.sandbox.clone()).await?;
        Ok(LinuxProcess::unmeasured(pid, pidfd, self.cgroup.clone())?.ended().await)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        if !self.is_live() {
            self.cgroup.remove();
        }
    }
}
