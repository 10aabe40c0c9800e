//! The reasons why a request failed. Each variant is one that a caller can act on.

use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    console::ConsoleError,
    hypervisor::HypervisorError,
    source::SourceError,
    spec::{Violation, VmState, violation},
    storage::StorageError,
    store::StoreError,
};

/// A refused or failed request.
#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// The request breaks rules; nothing was changed.
    #[error("{}", violation::summary(.0))]
    Invalid(Vec<Violation>),
    /// No such VM.
    #[error("VM {uuid} not found")]
    VmNotFound {
        /// Which.
        uuid: Uuid,
    },
    /// The UUID is taken.
    #[error("VM with UUID {uuid} already exists")]
    VmExists {
        /// Which.
        uuid: Uuid,
    },
    /// The VM is not in a state for it.
    #[error("{message}")]
    WrongState {
        /// The VM.
        uuid: Uuid,
        /// Its state.
        state: VmState,
        /// The reason, as text.
        message: String,
    },
    /// The VM changed since the caller looked.
    #[error("VM {uuid} was changed by another request: its etag is now {current}")]
    EtagMismatch {
        /// Which.
        uuid: Uuid,
        /// As it is now.
        current: String,
    },
    /// The request id was used with other content.
    #[error("request_id {request_id} was used for another request")]
    RequestIdReused {
        /// Which.
        request_id: Uuid,
    },
    /// This agent can't read the kept answer to a request.
    #[error(
        "another version of the agent answered request {request_id}, and this version cannot read its answer; the request is not repeated: check its effect, and use a new id"
    )]
    AnswerLost {
        /// The caller's id of the request.
        request_id: Uuid,
    },
    /// Too many commands wait for the VM.
    #[error("VM {uuid} has too many requests waiting; try again later")]
    QueueFull {
        /// Which.
        uuid: Uuid,
    },
    /// As many images are exported as can be.
    #[error("{most} images are being exported; try again later")]
    TooManyExports {
        /// So many.
        most: usize,
    },
    /// As many images are uploaded as can be.
    #[error("{most} images are being uploaded; try again later")]
    TooManyUploads {
        /// So many.
        most: usize,
    },
    /// Another VM holds an exclusive resource.
    #[error(
        "Conflict detected with another vm, please check the MAC, IP, and VRID: VM {owner} has the same {field}"
    )]
    Conflict {
        /// The refused machine's field.
        field: String,
        /// Its owner.
        owner: Uuid,
    },
    /// Every user that a zone could have is in use.
    #[error(
        "all {users} users of the range from zone.uid_base are in use, one for each VM; delete a VM, or raise zone.uid_count"
    )]
    UsersExhausted {
        /// How many there are.
        users: u32,
    },
    /// The VMs of this host have used up its capacity.
    #[error(
        "not enough {resource}: {wanted}{unit} requested, {left} of {limit}{unit} available; delete or shrink a VM, or raise capacity.* in the configuration"
    )]
    NoCapacity {
        /// Its name.
        resource: String,
        /// Its unit.
        unit: String,
        /// The requested amount.
        wanted: u64,
        /// The free amount.
        left: u64,
        /// The most that VMs may have together.
        limit: u64,
    },
    /// The host is draining.
    #[error("the host is shutting down; no VMs are started")]
    Draining,
    /// The state file can't be written, though there is room.
    #[error("{message}")]
    ReadOnly {
        /// In words.
        message: String,
    },
    /// No room on a disk.
    #[error("{what}")]
    NoRoom {
        /// Where and for what.
        what: String,
    },
    /// The VM did not start; everything was undone.
    #[error("boot failed in step {step}: {reason}")]
    BootFailed {
        /// Which.
        uuid: Uuid,
        /// Which step.
        step: String,
        /// Why, with the hypervisor's last words.
        reason: String,
    },
    /// The host can't do it.
    #[error("{message}")]
    Unsupported {
        /// The missing one.
        capability: String,
        /// In words.
        message: String,
    },
    /// The hypervisor failed.
    #[error("{message}")]
    Hypervisor {
        /// In words.
        message: String,
    },
    /// No such file.
    #[error("{message}")]
    FileNotFound {
        /// Inside the zone's root.
        path: String,
        /// In words.
        message: String,
    },
    /// A file is in the way.
    #[error("{message}")]
    FileExists {
        /// Inside the zone's root.
        path: String,
        /// In words.
        message: String,
    },
    /// The file is not what it should be.
    #[error("{message}")]
    FileRefused {
        /// Inside the zone's root.
        path: String,
        /// In words.
        message: String,
    },
    /// The same upload is under way.
    #[error("{message}")]
    UploadBusy {
        /// Inside the zone's root.
        path: String,
        /// In words.
        message: String,
    },
    /// The upload must go on elsewhere.
    #[error("{message}")]
    UploadOffset {
        /// Inside the zone's root.
        path: String,
        /// Where.
        committed: u64,
        /// In words.
        message: String,
    },
    /// The file arrived incomplete, too long, or different.
    #[error("{message}")]
    UploadBroken {
        /// Inside the zone's root.
        path: String,
        /// In words.
        message: String,
    },
    /// No such image.
    #[error("image {image} is not on this host; imgadm import gets it")]
    ImageNotFound {
        /// Its UUID or digest.
        image: String,
    },
    /// The UUID is another image's.
    #[error("{message}")]
    ImageExists {
        /// Which.
        uuid: Uuid,
        /// In words.
        message: String,
    },
    /// Somebody needs the image.
    #[error("{message}")]
    ImageInUse {
        /// Which.
        uuid: Uuid,
        /// VMs that need it.
        vms: Vec<Uuid>,
        /// Images that need it.
        images: Vec<Uuid>,
        /// In words.
        message: String,
    },
    /// The content is damaged, refused, or not what was announced.
    #[error("{message}")]
    ImageBroken {
        /// Which image.
        uuid: Uuid,
        /// The kind of fault, like `checksum`.
        fault: String,
        /// In words.
        message: String,
    },
    /// Somebody cancelled the import.
    #[error("the import of image {uuid} was cancelled")]
    ImageCancelled {
        /// Which.
        uuid: Uuid,
    },
    /// The source has no such image.
    #[error("{message}")]
    SourceMissing {
        /// In words.
        message: String,
    },
    /// The agent may not fetch from there.
    #[error("{message}")]
    SourceRefused {
        /// In words.
        message: String,
    },
    /// The source failed.
    #[error("{message}")]
    SourceFailed {
        /// In words.
        message: String,
    },
    /// The console does not reach there.
    #[error("offset {offset} is beyond the end of the console's output ({end})")]
    ConsoleOffset {
        /// What was asked for.
        offset: u64,
        /// The first byte that is kept.
        oldest: u64,
        /// One more than the last byte.
        end: u64,
    },
    /// Another caller has the console.
    #[error("{message}")]
    ConsoleBusy {
        /// Who.
        writer: String,
        /// In words.
        message: String,
    },
    /// The agent takes no more work.
    #[error("the agent is stopping; try again later")]
    Stopping,
    /// The agent itself failed.
    #[error("{message}")]
    Internal {
        /// In words.
        message: String,
    },
}

impl Error {
    /// One field is wrong.
    pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::value(field, message)])
    }

    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        Self::Internal { message: error.to_string() }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::NoRoom { what: error.to_string() },
            StoreError::ReadOnly => Self::ReadOnly { message: error.to_string() },
            StoreError::Closed => Self::Stopping,
            StoreError::Open { .. }
            | StoreError::Newer { .. }
            | StoreError::Sqlite(_)
            | StoreError::Corrupt { .. } => Self::internal(error),
        }
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        let message = error.to_string();
        match error {
            StorageError::Full { .. } => Self::NoRoom { what: message },
            StorageError::Missing { what } => Self::FileNotFound { path: what, message },
            StorageError::Unsafe { path, .. } | StorageError::Taken { path } => {
                Self::FileRefused { path, message }
            }
            StorageError::Exists { path } => Self::FileExists { path, message },
            StorageError::Busy { path } => Self::UploadBusy { path, message },
            StorageError::Offset { path, committed } => Self::UploadOffset { path, committed, message },
            StorageError::Length { path, .. } | StorageError::Digest { path, .. } => {
                Self::UploadBroken { path, message }
            }
            StorageError::System { .. } => Self::internal(message),
        }
    }
}

impl From<SourceError> for Error {
    fn from(error: SourceError) -> Self {
        let message = error.to_string();
        match error {
            SourceError::Wrong { field, why } => Self::invalid(field, why),
            SourceError::Refused(_) => Self::SourceRefused { message },
            SourceError::Missing(_) => Self::SourceMissing { message },
            SourceError::Failed(_) => Self::SourceFailed { message },
        }
    }
}

impl From<HypervisorError> for Error {
    fn from(error: HypervisorError) -> Self {
        Self::Hypervisor { message: error.to_string() }
    }
}

impl From<ConsoleError> for Error {
    fn from(error: ConsoleError) -> Self {
        match error {
            ConsoleError::Beyond { offset, oldest, end } => Self::ConsoleOffset { offset, oldest, end },
            ConsoleError::Busy { ref writer } | ConsoleError::Taken { ref writer } => {
                Self::ConsoleBusy { writer: writer.clone(), message: error.to_string() }
            }
            ConsoleError::NotRunning | ConsoleError::Shrunk => {
                Self::Hypervisor { message: error.to_string() }
            }
            ConsoleError::System { .. } => Self::internal(error),
        }
    }
}

/// Why the agent can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A folder can't be used.
    #[error("{path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another agent has the folders.
    #[error("another agent is using the directory {0}; give this agent its own directories")]
    Locked(PathBuf),
    /// The file of the host's UUID has something else.
    #[error("{0}: not a UUID; write the host's UUID into it, or remove it to get a new one")]
    ServerUuid(PathBuf),
    /// The state file can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Images can't be fetched as configured.
    #[error("configuration: {0}")]
    Sources(String),
    /// No notifications.
    #[error("cannot watch consoles: {0}")]
    Consoles(#[source] io::Error),
}
