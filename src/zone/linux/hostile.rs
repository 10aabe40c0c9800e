//! A zone for `zoneward probe`: this very program in the hypervisor's place.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt as _, net::UnixStream},
    },
    path::PathBuf,
};

use rustix::fs::{FileType, FlockOperation, OFlags};
use uuid::Uuid;

use super::{LinuxZone, ability::Trial, logger::make_pipe, process::LinuxProcess};
use crate::{
    layout::VmLayout,
    spec::Limits,
    sys::{self, PidFd, pair_in_passing},
    zone::{
        Ended, Launch, Process as _, ZoneError,
        cgroup::Cgroup,
        identity::Identity,
        sandbox::{Mechanism, Sandbox},
        spawn::spawn,
    },
};

/// Numbers of the hypervisor's descriptors in the hostile program.
pub(crate) mod held {
    /// The pipe of the console's output.
    pub(crate) const OUTPUT: i64 = 20;
    /// The pipe of its own messages.
    pub(crate) const ERRORS: i64 = 21;
    /// A disk.
    pub(crate) const DISK: i64 = 22;
    /// The agent's control connection.
    pub(crate) const CONTROL: i64 = 23;
    /// All of them.
    pub(crate) const ALL: [i32; 4] = [20, 21, 22, 23];
}

/// Where the hostile program runs.
#[derive(Debug)]
pub(crate) struct Hostile {
    trial: Trial,
    cgroup: Cgroup,
    sandbox: Sandbox,
    limits: Limits,
    program: PathBuf,
    /// The hypervisor's descriptors, by the program's number.
    descriptors: Vec<(OwnedFd, i32)>,
    /// The agent's end of the control connection.
    _agent: Option<UnixStream>,
}

/// Limits of such a zone: low, so that a bomb does no harm where nothing stops it.
const LIMITS: Limits = Limits {
    cpu_cap: None,
    cpu_shares: 100,
    memory: 64 << 20,
    locked: 64 << 20,
    memory_and_swap: 64 << 20,
    threads: 100,
    io_priority: 100,
};

/// Bytes of the largest file that such a zone's program may write.
const LARGEST_FILE: u64 = 1 << 20;

impl Hostile {
    /// Builds a zone like a VM's, but without the mechanisms in `without`. It contains a file of the zone's
    /// own user, so that ordinary permissions stop no act.
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
        // Another VM's disk, which anyone who knows its path could open.
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
        sandbox.largest_file = LARGEST_FILE;
        let mut program = std::env::current_exe().map_err(failed())?;
        if ability.level.has_namespaces() {
            File::create(trial.root().join("probe")).map_err(failed())?;
            sandbox.platform.push((program, "probe".to_owned()));
            program = "/probe".into();
        }
        let (agent, control) = pair_in_passing().map_err(failed())?;
        let pipe = |name: &str| make_pipe(&trial.folder.join(name)).map_err(failed());
        let (output, errors) = (pipe("output")?, pipe("errors")?);
        let disk = trial.folder.join("own.raw");
        let disk = File::options().read(true).write(true).create_new(true).open(disk).map_err(failed())?;
        disk.set_len(LARGEST_FILE).map_err(failed())?;
        take_disk(&disk).map_err(failed())?;
        let descriptors: Vec<OwnedFd> = vec![output.into(), errors.into(), disk.into(), control.into()];
        let descriptors = descriptors.into_iter().zip(held::ALL).collect();
        Ok(Self { trial, cgroup, sandbox, limits: LIMITS, program, descriptors, _agent: Some(agent) })
    }

    /// Enters the zone of a running VM: its namespaces and control groups, as its user. Restrictions that
    /// can't be entered (rlimits, Landlock's rules, the system call filter) are applied again, by the same
    /// code and with the values of the VM's hypervisor.
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
        let largest_file = file_limit(process.pid).map_err(failed())?;
        let sandbox = Sandbox { join: Some(process.pid), largest_file, ..sandbox.within(&cgroup) };
        let descriptors = held_by(process.pid).map_err(failed())?;
        Ok(Self { trial, cgroup, sandbox, limits: LIMITS, program, descriptors, _agent: None })
    }

    /// Whether the program holds a descriptor of that number.
    pub(crate) fn holds(&self, number: i32) -> bool {
        self.descriptors.iter().any(|(_, held)| *held == number)
    }

    /// Whether the zone belongs to a running VM, which must not be changed.
    pub(crate) fn is_live(&self) -> bool {
        self.sandbox.join.is_some()
    }

    fn duplicates(&self) -> Result<Vec<(OwnedFd, i32)>, ZoneError> {
        let duplicate = |(held, number): &(OwnedFd, i32)| io::Result::Ok((held.try_clone()?, *number));
        self.descriptors
            .iter()
            .map(duplicate)
            .collect::<io::Result<_>>()
            .map_err(ZoneError::at("duplicating"))
    }

    /// Returns the program's user.
    pub(crate) fn uid(&self) -> u32 {
        self.sandbox.uid
    }

    /// Returns a host file that the zone must not reach.
    pub(crate) fn other_disk(&self) -> PathBuf {
        self.trial.folder.join("other.raw")
    }

    /// Runs this program with `arguments`.
    pub(crate) async fn run(&self, arguments: Vec<String>, output: File) -> Result<Ended, ZoneError> {
        let null = || File::open("/dev/null").map_err(ZoneError::at("opening /dev/null"));
        let launch = Launch {
            uuid: Uuid::nil(),
            index: 0,
            limits: self.limits,
            largest_file: self.sandbox.largest_file,
            kvm: false,
            program: self.program.clone(),
            arguments,
            descriptors: self.duplicates()?,
            input: null()?,
            output,
            errors: null()?,
        };
        let record = self.trial.folder.join("process.json");
        let (pid, pidfd) = spawn(record, launch, self.sandbox.clone()).await?;
        Ok(LinuxProcess::unmeasured(pid, pidfd, self.cgroup.clone())?.ended().await)
    }
}

/// Duplicates the descriptors of a running VM's hypervisor, classified by kind.
fn held_by(pid: i32) -> io::Result<Vec<(OwnedFd, i32)>> {
    let process = PidFd::open(pid)?;
    let mut held: BTreeMap<i32, OwnedFd> = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(descriptor) = sys::descriptor_of(&process, number) else { continue };
        let name = std::fs::read_link(entry.path()).unwrap_or_default();
        let kind = match rustix::fs::fstat(&descriptor).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::Fifo) if name.ends_with("out/console.log") => held::OUTPUT,
            Ok(FileType::Fifo) if name.ends_with("out/hypervisor.log") => held::ERRORS,
            Ok(FileType::RegularFile) if is_writable(&descriptor) => held::DISK,
            Ok(FileType::Socket) if rustix::net::getpeername(&descriptor).is_ok() => held::CONTROL,
            _ => continue,
        };
        held.entry(i32::try_from(kind).map_err(io::Error::other)?).or_insert(descriptor);
    }
    Ok(held.into_iter().map(|(number, descriptor)| (descriptor, number)).collect())
}

fn is_writable(descriptor: &OwnedFd) -> bool {
    rustix::fs::fcntl_getfl(descriptor).is_ok_and(|flags| flags.contains(OFlags::RDWR))
}

/// Locks a disk as a boot does.
fn take_disk(disk: &File) -> io::Result<()> {
    Ok(rustix::fs::flock(disk, FlockOperation::NonBlockingLockExclusive)?)
}

/// Bytes of the largest file that a process may write.
fn file_limit(pid: i32) -> io::Result<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max file size"));
    let limit = limit.and_then(|limit| limit.split_whitespace().next());
    Ok(limit.and_then(|limit| limit.parse().ok()).unwrap_or(u64::MAX))
}

impl Drop for Hostile {
    fn drop(&mut self) {
        if !self.is_live() {
            self.cgroup.remove();
        }
    }
}
