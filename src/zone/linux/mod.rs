//! Zones on Linux.

mod ability;
mod hostile;
pub(crate) mod logger;
mod process;
mod root;
mod worker;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use ability::Ability;
use async_trait::async_trait;
pub(crate) use hostile::{Hostile, held};
use logger::{Logger, Outputs};
use process::LinuxProcess;
use tokio::sync::OnceCell;
use uuid::Uuid;
pub(crate) use worker::Work;

use super::{
    Found, Group, Launch, Process, Zone, ZoneError,
    cgroup::{Cgroup, Cgroups},
    sandbox::{Device, Sandbox},
    settings::{LimitPolicy, Settings},
    spawn::spawn,
};
use crate::{
    crash,
    layout::{Layout, VmLayout},
    spec::{Enforcement, LimitReport, Limits},
};

/// Builds zones with the launcher.
#[derive(Debug)]
pub struct LinuxZone {
    settings: Settings,
    cgroups: Cgroups,
    /// Where the trial zone is built.
    run: PathBuf,
    /// Determined once, by trial.
    ability: OnceCell<Ability>,
    logger: Logger,
}

impl LinuxZone {
    /// Builds zones as configured; keeps `keep` bytes of each log.
    #[must_use]
    pub fn new(settings: Settings, layout: &Layout, keep: u64) -> Self {
        Self {
            cgroups: Cgroups::new(&settings),
            settings,
            run: layout.run().to_owned(),
            ability: OnceCell::new(),
            logger: Logger::new(layout.run(), keep),
        }
    }

    async fn ability(&self) -> &Ability {
        self.ability.get_or_init(|| Ability::find(self)).await
    }

    fn sandbox(
        &self,
        root: &Path,
        ability: &Ability,
        uid: u32,
        hostname: String,
        kvm: bool,
        limits: &Limits,
    ) -> Result<Sandbox, ZoneError> {
        if ability.level.has_namespaces() {
            root::prepare(root)?;
        }
        let mut devices = vec![Device { name: "null".to_owned(), major: 1, minor: 3 }];
        if kvm {
            devices.push(Device { name: "kvm".to_owned(), major: 10, minor: 232 });
        }
        Ok(Sandbox {
            root: root.to_owned(),
            platform: vec![(self.settings.platform.clone(), "usr".to_owned())],
            devices,
            uid,
            hostname,
            level: ability.level,
            landlock: ability.landlock,
            without: Vec::new(),
            join: None,
            threads: limits.threads.into(),
            locked: limits.locked,
            largest_file: 0,
            doors: Vec::new(),
            birthplace: None,
        })
    }

    /// Returns the user of zone `index`: its own if the agent is root, else the agent's.
    fn user_of(&self, index: u32) -> u32 {
        let own = rustix::process::geteuid();
        if own.is_root() { self.settings.uid_base.saturating_add(index) } else { own.as_raw() }
    }

    /// Returns the user of trial zones.
    fn trial_user(&self) -> u32 {
        self.user_of(self.settings.uid_count)
    }

    /// Connects the program's output to pipes: it never gets a log itself.
    async fn with_pipes(&self, layout: &VmLayout, launch: Launch) -> Result<Launch, ZoneError> {
        let (logger, layout) = (self.logger.clone(), layout.clone());
        let opened = tokio::task::spawn_blocking(move || logger.open(&layout)).await;
        let opened = opened.map_err(io::Error::other).flatten();
        let Outputs { output, errors } = opened.map_err(ZoneError::at("making pipes for the output"))?;
        Ok(Launch { output, errors, ..launch })
    }

    fn insist(&self, enforcements: &[Enforcement]) -> Result<(), ZoneError> {
        let missing = enforcements
            .iter()
            .find(|found| !found.is_enforced() && !self.settings.allow_missing.contains(&found.restriction));
        match missing {
            None => Ok(()),
            Some(missing) => {
                Err(ZoneError::Missing { restriction: missing.restriction, reason: missing.reason.clone() })
            }
        }
    }

    /// Weights may lack effect; limits that protect the host may not, unless the configuration allows it.
    fn insist_on_limits(&self, limits: &Limits, reports: &[LimitReport]) -> Result<(), ZoneError> {
        let by_user = if rustix::process::geteuid().is_root() {
            LimitPolicy::Required
        } else {
            LimitPolicy::BestEffort
        };
        if self.settings.limits.unwrap_or(by_user) == LimitPolicy::BestEffort {
            return Ok(());
        }
        let needed = |report: &&LimitReport| match report.property.as_str() {
            "max_physical_memory" | "max_lwps" => true,
            "cpu_cap" => limits.cpu_cap.is_some(),
            _ => false,
        };
        match reports.iter().filter(needed).find(|report| !report.is_effective()) {
            None => Ok(()),
            Some(report) => {
                Err(ZoneError::Unlimited { property: report.property.clone(), reason: report.reason.clone() })
            }
        }
    }
}

#[async_trait]
impl Zone for LinuxZone {
    async fn enforcements(&self) -> Vec<Enforcement> {
        self.ability().await.enforcements.clone()
    }

    async fn limits(&self) -> Vec<LimitReport> {
        self.ability().await.limits.clone()
    }

    fn user(&self, index: u32) -> u32 {
        self.user_of(index)
    }

    async fn spawn(&self, layout: &VmLayout, launch: Launch) -> Result<Arc<dyn Process>, ZoneError> {
        let ability = self.ability().await;
        let launch = self.with_pipes(layout, launch).await?;
        self.insist(&ability.enforcements)?;
        let cgroup = self
            .cgroups
            .make(&launch.uuid.to_string(), &layout.cgroup())
            .map_err(ZoneError::at("making control groups"))?;
        let limits = launch.limits;
        let kept = cgroup.apply(&limits);
        self.insist_on_limits(&limits, &kept)?;
        let (uid, hostname, kvm) = (self.user(launch.index), launch.uuid.to_string(), launch.kvm);
        let sandbox = self.sandbox(&layout.root(), ability, uid, hostname, kvm, &limits)?.within(&cgroup);
        let sandbox = Sandbox { largest_file: launch.largest_file, ..sandbox };
        let (pid, pidfd) = spawn(layout.process(), launch, sandbox).await?;
        let process = LinuxProcess::measured(pid, pidfd, cgroup, ability.landlock)?
            .within(kept)
            .heard_by(&self.logger, layout);
        // The measurement decides, not the plan.
        if let Err(error) = self.insist(process.enforcements()) {
            process.kill()?;
            process.ended().await;
            return Err(error);
        }
        Ok(Arc::new(process))
    }

    fn find(&self, uuid: Uuid, layout: &VmLayout) -> Found {
        // Its control groups have the VM's name, too.
        let in_groups = || process::find_in(self.cgroups.of(uuid)?);
        let found = match process::find(layout) {
            // The launcher's record may be gone, for example if somebody cleaned the run folder.
            Ok(Err(gone)) => in_groups().map(|found| match found {
                Some(Ok(alive)) => Ok(alive),
                Some(Err(_)) | None => Err(gone),
            }),
            Err(error) => {
                tracing::warn!(vm = %uuid, %error, "looking for the hypervisor in its control groups");
                in_groups().and_then(|found| found.ok_or(error))
            }
            alive => alive,
        };
        let heard = match &found {
            Ok(Ok(_)) => self.logger.carry(layout),
            _ => self.logger.settle(layout),
        };
        if let Err(error) = heard {
            tracing::error!(vm = %uuid, %error, "the VM's output waits in its pipes");
        }
        match found {
            Ok(Ok(process)) => Found::Alive(Arc::new(process.heard_by(&self.logger, layout))),
            Ok(Err(ended)) => Found::Gone(ended),
            Err(error) => Found::Unknown(error.to_string()),
        }
    }

    async fn forget(&self, uuid: Uuid, layout: &VmLayout) {
        let (process, record) = (layout.process(), layout.cgroup());
        let (cgroups, logger, layout) = (self.cgroups.clone(), self.logger.clone(), layout.clone());
        let forgotten = layout.clone();
        let forget = move || -> io::Result<()> {
            crash::point("forget");
            logger.forget(&forgotten);
            Cgroup::read(&record).or_else(|_| cgroups.of(uuid))?.remove();
            crash::point("forget(groups are gone)");
            for file in [record, process] {
                match std::fs::remove_file(file) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => crash::point("forget(a file is gone)"),
                }
            }
            Ok(())
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(forget).await {
            tracing::warn!(%error, run = %layout.run().display(), "cannot remove the remains of a process");
        }
    }

    async fn groups(&self) -> Vec<Group> {
        let cgroups = self.cgroups.clone();
        let found = tokio::task::spawn_blocking(move || cgroups.all()).await;
        match found.map_err(io::Error::other).flatten() {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "control groups can't be listed");
                Vec::new()
            }
        }
    }

    async fn remove_group(&self, group: &Path) -> Result<(), ZoneError> {
        match std::fs::remove_dir(group) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ZoneError::at("removing the control group")(error))
            }
            _ => Ok(()),
        }
    }
}
