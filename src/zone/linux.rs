//! Zones on Linux.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use rustix::{
    fs::{CWD, Mode, OFlags},
    process::{Signal, WaitId, WaitIdOptions},
};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::{
    Ended, Found, Launch, Process, Zone, ZoneError,
    identity::{Identity, boot_id, is_zombie},
    launcher::landlock,
    measure::Measured,
    sandbox::{Device, Level, Sandbox},
    spawn::spawn,
};
use crate::{
    config::{self, Config},
    layout::VmLayout,
    spec::{Enforcement, Restriction},
    sys::PidFd,
};

/// Makes zones with the launcher.
#[derive(Debug)]
pub struct LinuxZone {
    config: config::Zone,
    /// Where the trial zone is made.
    run: PathBuf,
    /// Found out once, by trying.
    ability: OnceCell<Ability>,
}

/// How much of a zone this host can build.
#[derive(Clone, Debug)]
struct Ability {
    level: Level,
    landlock: bool,
    enforcements: Vec<Enforcement>,
}

impl LinuxZone {
    /// Zones as configured.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { config: config.zone.clone(), run: config.run_dir.clone(), ability: OnceCell::new() }
    }

    async fn ability(&self) -> &Ability {
        self.ability.get_or_init(|| self.try_levels()).await
    }

    /// Builds a trial zone of each level, best first, until one works. Trying is the only way to know:
    /// versions and sysctls say too little.
    async fn try_levels(&self) -> Ability {
        let landlock = landlock::is_there();
        let root = rustix::process::geteuid().is_root();
        let mut shortcomings = Vec::new();
        for level in Level::LADDER {
            let sensible = match level {
                Level::Full | Level::NoUserNamespace => root,
                Level::Rootless => !root,
                Level::FiltersOnly => true,
            };
            if !sensible || self.config.level.is_some_and(|only| only != *level) {
                continue;
            }
            match self.try_level(*level, landlock).await {
                Ok(enforcements) => {
                    tracing::info!(?level, landlock, ?shortcomings, "zones");
                    return Ability { level: *level, landlock, enforcements };
                }
                Err(error) => shortcomings.push(format!("{level:?}: {error}")),
            }
        }
        tracing::error!(?shortcomings, "this host can't build zones");
        let reason = shortcomings.join("; ");
        let none = |(_, restriction): &(&str, Restriction)| Enforcement {
            restriction: *restriction,
            mechanisms: Vec::new(),
            reason: reason.clone(),
        };
        Ability {
            level: Level::FiltersOnly,
            landlock,
            enforcements: Restriction::ALL.iter().map(none).collect(),
        }
    }

    /// A zone around a program that only sleeps; gives what it was measured to be kept from.
    async fn try_level(&self, level: Level, landlock: bool) -> Result<Vec<Enforcement>, ZoneError> {
        let name = format!("trial-{}", Uuid::new_v4());
        let folder = self.run.join(&name);
        let root = folder.join("root");
        std::fs::create_dir_all(&root).map_err(ZoneError::at("making a trial zone"))?;
        let tried = async {
            let sandbox = self.sandbox(&root, level, landlock, self.config.uid_base, name, false)?;
            let file = || std::fs::File::options().read(true).write(true).open("/dev/null");
            let null = || file().map_err(ZoneError::at("opening /dev/null"));
            let launch = Launch {
                uuid: Uuid::nil(),
                index: 0,
                kvm: false,
                program: "/usr/bin/sleep".into(),
                arguments: vec!["10".to_owned()],
                descriptors: Vec::new(),
                input: null()?,
                output: null()?,
                errors: null()?,
            };
            let process = spawn(folder.join("process.json"), launch, sandbox).await?;
            let process = LinuxProcess::new(process.0, process.1, landlock)?;
            let enforcements = process.enforcements.clone();
            process.kill()?;
            process.ended().await;
            Ok(enforcements)
        };
        let result = tried.await;
        let _ = std::fs::remove_dir_all(&folder);
        result
    }

    /// Runs this very program in a zone, in the hypervisor's place.
    pub(crate) async fn run_hostile(&self, arguments: Vec<String>, output: File) -> Result<Ended, ZoneError> {
        let ability = self.ability().await;
        let name = format!("probe-{}", Uuid::new_v4());
        let folder = self.run.join(&name);
        let root = folder.join("root");
        let result = async {
            std::fs::create_dir_all(&root).map_err(ZoneError::at("making a zone for the probe"))?;
            let (own, uid) = (rustix::process::geteuid(), self.config.uid_base);
            let image = root.join("image.iso");
            std::fs::write(&image, "iso").map_err(ZoneError::at("making a zone for the probe"))?;
            if own.is_root() {
                // So that no ordinary permission is what stops an act.
                std::os::unix::fs::chown(&image, Some(uid), Some(uid))
                    .map_err(ZoneError::at("making a zone for the probe"))?;
            }
            let uid = if own.is_root() { uid } else { own.as_raw() };
            let mut sandbox = self.sandbox(&root, ability.level, ability.landlock, uid, name, false)?;
            let program = std::env::current_exe().map_err(ZoneError::at("finding this program"))?;
            let inside = if ability.level.has_namespaces() {
                File::create(root.join("probe")).map_err(ZoneError::at("making a zone for the probe"))?;
                sandbox.platform.push((program, "probe".to_owned()));
                "/probe".into()
            } else {
                program
            };
            let null = || File::open("/dev/null").map_err(ZoneError::at("opening /dev/null"));
            let launch = Launch {
                uuid: Uuid::nil(),
                index: 0,
                kvm: false,
                program: inside,
                arguments,
                descriptors: Vec::new(),
                input: null()?,
                output,
                errors: null()?,
            };
            let (pid, pidfd) = spawn(folder.join("process.json"), launch, sandbox).await?;
            Ok(LinuxProcess::unmeasured(pid, pidfd)?.ended().await)
        };
        let result = result.await;
        let _ = std::fs::remove_dir_all(&folder);
        result
    }

    fn sandbox(
        &self,
        root: &Path,
        level: Level,
        landlock: bool,
        uid: u32,
        hostname: String,
        kvm: bool,
    ) -> Result<Sandbox, ZoneError> {
        if level.has_namespaces() {
            prepare_root(root)?;
        }
        let mut devices = vec![Device { name: "null".to_owned(), major: 1, minor: 3 }];
        if kvm {
            devices.push(Device { name: "kvm".to_owned(), major: 10, minor: 232 });
        }
        Ok(Sandbox {
            root: root.to_owned(),
            platform: vec![(self.config.platform.clone(), "usr".to_owned())],
            devices,
            uid,
            hostname,
            level,
            landlock,
            max_threads: self.config.max_threads,
        })
    }

    /// A restriction that must hold and can't.
    fn missing<'e>(&self, enforcements: &'e [Enforcement]) -> Option<&'e Enforcement> {
        enforcements
            .iter()
            .find(|found| !found.is_enforced() && !self.config.allow_missing.contains(&found.restriction))
    }

    fn insist(&self, enforcements: &[Enforcement]) -> Result<(), ZoneError> {
        match self.missing(enforcements) {
            None => Ok(()),
            Some(missing) => {
                Err(ZoneError::Missing { restriction: missing.restriction, reason: missing.reason.clone() })
            }
        }
    }
}

/// What has to be in the zone's root for something to be mounted on it, and the links by which programs
/// of a merged `/usr` find each other. What is there is left alone.
fn prepare_root(root: &Path) -> Result<(), ZoneError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(CWD, root, flags, Mode::empty())
        .map_err(ZoneError::at("opening the zone's root"))?;
    let there = |result: rustix::io::Result<()>| match result {
        Err(rustix::io::Errno::EXIST) | Ok(()) => Ok(()),
        Err(error) => Err(ZoneError::at("preparing the zone's root")(error)),
    };
    for name in ["usr", "dev"] {
        there(rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)))?;
    }
    for name in ["lib", "lib64", "bin"] {
        there(rustix::fs::symlinkat(format!("usr/{name}"), &folder, name))?;
    }
    Ok(())
}

#[async_trait]
impl Zone for LinuxZone {
    async fn enforcements(&self) -> Vec<Enforcement> {
        self.ability().await.enforcements.clone()
    }

    async fn spawn(&self, layout: &VmLayout, launch: Launch) -> Result<Arc<dyn Process>, ZoneError> {
        let ability = self.ability().await;
        self.insist(&ability.enforcements)?;
        let own = rustix::process::geteuid();
        let uid =
            if own.is_root() { self.config.uid_base.saturating_add(launch.index) } else { own.as_raw() };
        let (hostname, kvm) = (launch.uuid.to_string(), launch.kvm);
        let sandbox = self.sandbox(&layout.root(), ability.level, ability.landlock, uid, hostname, kvm)?;
        let (pid, pidfd) = spawn(layout.process(), launch, sandbox).await?;
        let process = LinuxProcess::new(pid, pidfd, ability.landlock)?;
        // What was planned is not believed: what was measured counts.
        if let Err(error) = self.insist(&process.enforcements) {
            process.kill()?;
            process.ended().await;
            return Err(error);
        }
        Ok(Arc::new(process))
    }

    fn find(&self, _uuid: Uuid, layout: &VmLayout) -> Found {
        match find(layout) {
            Ok(Some(process)) => Found::Alive(Arc::new(process)),
            Ok(None) => Found::Gone,
            Err(error) => Found::Unknown(error.to_string()),
        }
    }

    fn forget(&self, _uuid: Uuid, layout: &VmLayout) {
        if let Err(error) = std::fs::remove_file(layout.process())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %layout.process().display(), "cannot remove");
        }
    }
}

/// The process that `process.json` names, if it is still that one.
fn find(layout: &VmLayout) -> io::Result<Option<LinuxProcess>> {
    let Some(written) = Identity::read(&layout.process())? else { return Ok(None) };
    if written.boot_id != boot_id()? {
        return Ok(None);
    }
    // First the descriptor, then the look: what is looked at is what the descriptor holds.
    let pidfd = match PidFd::open(written.pid) {
        Ok(pidfd) => pidfd,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    match Identity::of(written.pid) {
        // An orphan's body may lie about until init sees to it.
        Ok(found) if found == written => {
            if is_zombie(written.pid)? {
                return Ok(None);
            }
        }
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut process = LinuxProcess::unmeasured(written.pid, pidfd).map_err(io::Error::other)?;
    // A guest that runs is not ended for want of a look at it.
    match Measured::of(written.pid) {
        Ok(Some(measured)) => process.enforcements = measured.enforcements(landlock::is_there()),
        Ok(None) => return Ok(None),
        Err(error) => tracing::warn!(%error, pid = written.pid, "the zone can't be measured"),
    }
    Ok(Some(process))
}

#[derive(Debug)]
struct LinuxProcess {
    pid: i32,
    pidfd: PidFd,
    enforcements: Vec<Enforcement>,
    /// Reaping gives the status once; whoever asks later gets it from here.
    ended: OnceLock<Ended>,
}

impl LinuxProcess {
    /// A process that may be gone before it can be looked at.
    fn unmeasured(pid: i32, pidfd: OwnedFd) -> Result<Self, ZoneError> {
        let pidfd = PidFd::new(pidfd).map_err(ZoneError::at("watching the process"))?;
        Ok(Self { pid, pidfd, enforcements: Vec::new(), ended: OnceLock::new() })
    }

    /// Measures a process that runs in its zone.
    fn new(pid: i32, pidfd: OwnedFd, landlock: bool) -> Result<Self, ZoneError> {
        let measured = Measured::of(pid).map_err(ZoneError::at("measuring the zone"));
        let enforcements = match measured {
            Ok(Some(measured)) => measured.enforcements(landlock),
            // It has ended already: whoever waits for it learns why, and it can do nothing any more.
            Ok(None) => Vec::new(),
            Err(error) => {
                let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
                let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
                return Err(error);
            }
        };
        let pidfd = PidFd::new(pidfd).map_err(ZoneError::at("watching the process"))?;
        Ok(Self { pid, pidfd, enforcements, ended: OnceLock::new() })
    }
}

#[async_trait]
impl Process for LinuxProcess {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn enforcements(&self) -> &[Enforcement] {
        &self.enforcements
    }

    async fn ended(&self) -> Ended {
        let ended = match self.pidfd.exited().await {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Ended::Code(code),
                (_, Some(signal)) => Ended::Signal(signal),
                _ => Ended::Unseen,
            },
            Ok(None) => Ended::Unseen,
            Err(error) => {
                tracing::error!(%error, pid = self.pid, "cannot wait for the hypervisor");
                Ended::Unseen
            }
        };
        *self.ended.get_or_init(|| ended)
    }

    fn kill(&self) -> Result<(), ZoneError> {
        match self.pidfd.signal(Signal::KILL) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                Err(ZoneError::System { what: "killing the hypervisor", source: error })
            }
            _ => Ok(()),
        }
    }
}
