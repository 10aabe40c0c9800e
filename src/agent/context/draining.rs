//! Whether VMs may be started. This state outlives the agent, but not the boot of the host.

use std::{
    io,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::agent::error::Error;

/// See the module.
#[derive(Debug)]
pub(in crate::agent) struct Draining {
    begun: AtomicBool,
    note: PathBuf,
    host_boot: String,
}

impl Draining {
    /// Reads an earlier agent's state.
    pub(in crate::agent) fn open(note: PathBuf, host_boot: &str) -> Self {
        let begun = std::fs::read_to_string(&note).is_ok_and(|boot| boot == host_boot);
        Self { begun: begun.into(), note, host_boot: host_boot.to_owned() }
    }

    /// Fails while VMs may not be started.
    pub(in crate::agent) fn check(&self) -> Result<(), Error> {
        if self.begun.load(Ordering::Relaxed) { Err(Error::Draining) } else { Ok(()) }
    }

    /// Begins the drain, even on a full disk: the host must be able to go down.
    pub(in crate::agent) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
        if let Err(error) = std::fs::write(&self.note, &self.host_boot) {
            tracing::warn!(%error, note = %self.note.display(), "the drain will end with this agent");
        }
    }

    /// Ends the drain.
    pub(in crate::agent) fn end(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.begun.store(false, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_outlives_the_agent_and_not_the_boot_of_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let open = |boot| Draining::open(folder.path().join("draining"), boot);
        let agent = open("boot 1");
        assert_eq!(agent.check(), Ok(()));
        agent.begin();
        assert_eq!(agent.check(), Err(Error::Draining));
        assert_eq!(open("boot 1").check(), Err(Error::Draining));
        assert_eq!(open("boot 2").check(), Ok(()));
        open("boot 1").end().unwrap();
        assert_eq!(open("boot 1").check(), Ok(()));
    }
}
