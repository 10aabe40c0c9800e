//! Files of this host, below folders that the configuration names.

use std::{
    fs::File,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Content, Found, Wanted, error::SourceError};
use crate::spec::image::Digest;

/// Files that are hashed at the same time.
const HASHED: usize = 2;

/// Opens a file; its digest is the caller's, or what it has now.
pub(super) async fn open(folders: &[PathBuf], path: &Path, wanted: &Wanted) -> Result<Found, SourceError> {
    static TURNS: Semaphore = Semaphore::const_new(HASHED);
    let (folders, path, known) = (folders.to_vec(), path.to_owned(), wanted.digest.clone());
    let turn = match &known {
        Some(_) => None,
        None => TURNS.acquire().await.ok(),
    };
    let wanted = CancellationToken::new();
    // Nobody waits for the digest of a caller who is gone.
    let (gone, _guard) = (wanted.clone(), wanted.drop_guard());
    let open = move || -> Result<Found, SourceError> {
        let failed = |error: std::io::Error| SourceError::Failed(format!("{}: {error}", path.display()));
        let _turn = turn;
        let file = open_below(&folders, &path)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            let kind =
                if metadata.file_type().is_block_device() { "a block device" } else { "no regular file" };
            return Err(SourceError::Refused(format!("{}: {kind}", path.display())));
        }
        let digest = match known {
            Some(digest) => digest,
            None => digest_of(&file, &gone).map_err(failed)?,
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let size = Some(metadata.len());
        Ok(Found {
            server: None,
            manifest: None,
            name,
            digests: vec![digest],
            size,
            in_archive: false,
            content: Content::file(file),
        })
    };
    tokio::task::spawn_blocking(open).await.map_err(|error| SourceError::Failed(error.to_string()))?
}

/// No name leads out of the folder, by a link or otherwise.
fn open_below(folders: &[PathBuf], path: &Path) -> Result<File, SourceError> {
    let below = folders.iter().find_map(|folder| Some((folder, path.strip_prefix(folder).ok()?)));
    let Some((folder, name)) = below else {
        return Err(SourceError::Refused(format!(
            "{}: not in a folder that images may come from; images.folders in the configuration names those",
            path.display()
        )));
    };
    if name.as_os_str().is_empty() {
        return Err(SourceError::Refused(format!("{}: a folder", path.display())));
    }
    let failed = |error: rustix::io::Errno| match error {
        rustix::io::Errno::NOENT => {
            SourceError::Missing(format!("{}: there is no such file", path.display()))
        }
        rustix::io::Errno::LOOP | rustix::io::Errno::XDEV => SourceError::Refused(format!(
            "{}: a link, or it leads out of {}",
            path.display(),
            folder.display()
        )),
        error => SourceError::Failed(format!("{}: {error}", path.display())),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, folder, flags, Mode::empty()).map_err(failed)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // A pipe must not block the agent.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::openat2(&root, name, flags, Mode::empty(), resolve).map(File::from).map_err(failed)
}

fn digest_of(mut file: &File, gone: &CancellationToken) -> std::io::Result<Digest> {
    use std::io::{Read as _, Seek as _};
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece)? {
            _ if gone.is_cancelled() => return Err(std::io::ErrorKind::Interrupted.into()),
            0 => break,
            count => hash.update(piece.get(..count).unwrap_or_default()),
        }
    }
    file.rewind()?;
    Ok(Digest::Sha256(data_encoding::HEXLOWER.encode(&hash.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_is_below_the_folders() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("images");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("a"), "content").unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("link")).unwrap();
        let folders = [folder.clone()];
        let open = |path: PathBuf| {
            let folders = folders.clone();
            async move { open(&folders, &path, &Wanted::default()).await }
        };
        let found = open(folder.join("a")).await.unwrap();
        assert_eq!((found.size, found.name.as_str(), found.digests.len()), (Some(7), "a", 1));
        for wrong in
            [folder.join("link"), folder.join("../secret"), dir.path().join("secret"), folder.clone()]
        {
            let error = open(wrong.clone()).await.unwrap_err();
            assert!(matches!(error, SourceError::Refused(_) | SourceError::Failed(_)), "{wrong:?}: {error}");
        }
        assert!(matches!(open(folder.join("b")).await, Err(SourceError::Missing(_))));
    }
}
