//! Errors of disks and files.

use std::io;

/// A failed action on a disk or file.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No room.
    #[error("no room on the disk for {what}")]
    Full {
        /// What did not fit.
        what: String,
    },
    /// Nothing of that name.
    #[error("Cannot find {what}")]
    Missing {
        /// The name.
        what: String,
    },
    /// The path leads through a symbolic link, or to something that is not a plain file.
    #[error("{path}: {why}")]
    Unsafe {
        /// Inside the zone's root.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The name is taken.
    #[error("{path} already exists; set overwrite to replace it")]
    Exists {
        /// Inside the zone's root.
        path: String,
    },
    /// Another machine, or another drive of the same, has the disk.
    #[error(
        "{path}: another hypervisor has its \"write\" lock, or it is a second drive of this machine; one machine at a time may write a disk"
    )]
    Taken {
        /// As the operator knows it.
        path: String,
    },
    /// Another upload of the same file is under way.
    #[error("an upload of {path} with this digest is under way")]
    Busy {
        /// Inside the zone's root.
        path: String,
    },
    /// The upload continues at the wrong offset.
    #[error("{committed} bytes of the upload of {path} have arrived; continue from there")]
    Offset {
        /// Inside the zone's root.
        path: String,
        /// Bytes received.
        committed: u64,
    },
    /// The size differs from the announced one.
    #[error("{path}: received {got} bytes, expected {announced}")]
    Length {
        /// Inside the zone's root.
        path: String,
        /// What came.
        got: u64,
        /// What was announced.
        announced: u64,
    },
    /// The digest differs from the announced one.
    #[error("{path}: the received data has the SHA-256 digest {got}, expected {announced}; nothing was kept")]
    Digest {
        /// Inside the zone's root.
        path: String,
        /// What came.
        got: String,
        /// What was announced.
        announced: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// The failed action.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

impl StorageError {
    /// Classifies a system error by what a caller can do about it.
    pub(crate) fn at<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |error| {
            let source = error.into();
            let what = what.into();
            match source.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => Self::Full { what },
                Some(libc::ENOENT) => Self::Missing { what },
                Some(libc::ELOOP) => Self::Unsafe {
                    path: what,
                    why: "a symbolic link is on the way; links in a zone are not followed",
                },
                Some(libc::ENOTDIR) => Self::Unsafe { path: what, why: "a part of the path is a file" },
                Some(libc::EXDEV) => Self::Unsafe { path: what, why: "it leads out of the zone's root" },
                _ => Self::System { what, source },
            }
        }
    }
}
