//! A zone for a piece of the agent's own work on bytes that nobody trusts: this program again, with nothing but the
//! descriptors that the work needs. The zone ends with the work, and with the agent.

use std::{fs::File, os::fd::OwnedFd, path::PathBuf, sync::Arc};

use uuid::Uuid;

use super::{LinuxZone, ability::Trial, process::LinuxProcess};
use crate::{
    spec::Limits,
    zone::{Launch, Process, ZoneError, cgroup::Cgroup, spawn::spawn},
};

/// A piece of work.
#[derive(Debug)]
pub(crate) struct Work {
    /// This program's hidden subcommand and its arguments.
    pub(crate) arguments: Vec<String>,
    /// Standard input.
    pub(crate) input: File,
    /// Standard output.
    pub(crate) output: File,
    /// Further descriptors by the number that the arguments use.
    pub(crate) descriptors: Vec<(OwnedFd, i32)>,
    /// Bytes of memory, with cached pages of the files that it writes.
    pub(crate) memory: u64,
    /// Bytes of the largest file that it may write.
    pub(crate) largest_file: u64,
}

/// The process that does it. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    process: Arc<LinuxProcess>,
    cgroup: Cgroup,
    trial: Option<Trial>,
}

/// Where this program is in the zone.
const PROGRAM: &str = "worker";

impl LinuxZone {
    /// Begins a piece of work.
    pub(crate) async fn work(&self, work: Work) -> Result<Worker, ZoneError> {
        let ability = self.ability().await;
        self.insist(&ability.enforcements)?;
        let trial = Trial::make(self)?;
        let failed = || ZoneError::at("making a zone for a worker");
        let limits = Limits {
            cpu_cap: None,
            cpu_shares: 100,
            memory: work.memory,
            locked: 0,
            memory_and_swap: work.memory,
            threads: 8,
            io_priority: 100,
        };
        let cgroup = self.cgroups.make(&trial.name, &trial.folder.join("cgroup.json")).map_err(failed())?;
        cgroup.apply(&limits);
        let (uid, name) = (self.trial_user(), trial.name.clone());
        let mut sandbox = self.sandbox(&trial.root(), ability, uid, name, false, &limits)?.within(&cgroup);
        sandbox.largest_file = work.largest_file;
        let mut program = std::env::current_exe().map_err(failed())?;
        if ability.level.has_namespaces() {
            File::create(trial.root().join(PROGRAM)).map_err(failed())?;
            sandbox.platform.push((program, PROGRAM.to_owned()));
            program = PathBuf::from("/").join(PROGRAM);
        }
        let launch = Launch {
            uuid: Uuid::nil(),
            index: 0,
            limits,
            largest_file: work.largest_file,
            kvm: false,
            program,
            arguments: work.arguments,
            descriptors: work.descriptors,
            input: work.input,
            output: work.output,
            errors: File::options().write(true).open("/dev/null").map_err(failed())?,
        };
        let made = spawn(trial.folder.join("process.json"), launch, sandbox).await;
        let process = made.and_then(|(pid, pidfd)| LinuxProcess::unmeasured(pid, pidfd, cgroup.clone()));
        match process {
            Ok(process) => Ok(Worker { process: Arc::new(process), cgroup, trial: Some(trial) }),
            Err(error) => {
                cgroup.remove();
                Err(error)
            }
        }
    }
}

impl Worker {
    /// The process.
    pub(crate) fn process(&self) -> Arc<dyn Process> {
        self.process.clone()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let (cgroup, trial, process) = (self.cgroup.clone(), self.trial.take(), self.process.clone());
        // The groups are busy until the kernel has ended the process.
        std::thread::spawn(move || {
            process.reap();
            cgroup.kill();
            cgroup.remove();
            drop(trial);
        });
    }
}
