//! The KVM probe's verdict, kept for this boot of the host: the probe takes seconds where KVM is unusable.

use std::{
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::binary::Stamp;

/// The verdict's file, and the boot it is for.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) path: PathBuf,
    pub(super) host_boot: String,
}

/// A verdict and its subject.
#[derive(Debug, Serialize, Deserialize)]
struct Verdict {
    host_boot: String,
    binary: Stamp,
    cpu: String,
    /// Why KVM can't be used; nothing when it can.
    problem: Option<String>,
}

impl Memory {
    /// Returns the kept verdict, if its subject is the same.
    pub(super) async fn recall(&self, binary: &Path, cpu: &str) -> Option<Result<(), String>> {
        let text = tokio::fs::read(&self.path).await.ok()?;
        let kept: Verdict = serde_json::from_slice(&text).ok()?;
        let same = kept.host_boot == self.host_boot
            && kept.cpu == cpu
            && kept.binary == Stamp::of(binary).await.ok()?;
        same.then_some(kept.problem.map_or(Ok(()), Err))
    }

    /// Keeps the verdict, if that is possible.
    pub(super) async fn keep(&self, binary: &Path, cpu: &str, found: &Result<(), String>) {
        let Ok(stamp) = Stamp::of(binary).await else { return };
        let (host_boot, cpu, problem) = (self.host_boot.clone(), cpu.to_owned(), found.clone().err());
        let Ok(text) = serde_json::to_vec(&Verdict { host_boot, binary: stamp, cpu, problem }) else {
            return;
        };
        let draft = self.path.with_extension("draft");
        let write = || {
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?.write_all(&text)?;
            std::fs::rename(&draft, &self.path)
        };
        if let Err(error) = write() {
            tracing::debug!(%error, path = %self.path.display(), "cannot keep the KVM verdict");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_kept_for_one_boot_one_program_and_one_cpu() {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("qemu");
        std::fs::write(&binary, "one").unwrap();
        let of = |boot: &str| Memory { path: dir.path().join("kvm.json"), host_boot: boot.to_owned() };
        assert_eq!(of("a").recall(&binary, "host").await, None);
        for found in [Err("too slow".to_owned()), Ok(())] {
            of("a").keep(&binary, "host", &found).await;
            assert_eq!(of("a").recall(&binary, "host").await, Some(found));
        }
        assert_eq!(of("b").recall(&binary, "host").await, None);
        assert_eq!(of("a").recall(&binary, "qemu64").await, None);
        std::fs::remove_file(&binary).unwrap();
        std::fs::write(&binary, "another").unwrap();
        assert_eq!(of("a").recall(&binary, "host").await, None);
        std::fs::write(dir.path().join("kvm.json"), "rubbish").unwrap();
        assert_eq!(of("a").recall(&binary, "host").await, None);
    }
}
