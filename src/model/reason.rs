//! Why a request was refused: the reasons of `google.rpc.ErrorInfo`. They are API: none changes its meaning, and
//! `docs/api.md` lists all of them.

use std::str::FromStr;

/// The domain of the reasons.
pub(crate) const ERROR_DOMAIN: &str = "zoneward";

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a request was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// As it stands in `ErrorInfo.reason`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reasons! {
    /// A field breaks a rule.
    InvalidMachine = "INVALID_MACHINE",
    /// The answer to the request was kept by another version of the agent, and this one cannot read it.
    AnswerLost = "ANSWER_LOST",
    /// The request id belongs to a request with other content.
    RequestIdReused = "REQUEST_ID_REUSED",
    /// The cursor belongs to another agent's journal.
    CursorForeign = "CURSOR_FOREIGN",
    /// The journal was trimmed past the cursor.
    CursorExpired = "CURSOR_EXPIRED",
    /// There is no such VM.
    VmNotFound = "VM_NOT_FOUND",
    /// The UUID is taken.
    VmExists = "VM_EXISTS",
    /// The VM's state does not allow the request.
    VmState = "VM_STATE",
    /// The VM changed since the caller read it.
    EtagMismatch = "ETAG_MISMATCH",
    /// Another VM has the address or port.
    Conflict = "CONFLICT",
    /// Too many requests wait for one VM.
    QueueFull = "QUEUE_FULL",
    /// The boot failed; everything that it did was undone.
    BootFailed = "BOOT_FAILED",
    /// The hypervisor refused, or did not answer.
    Hypervisor = "HYPERVISOR",
    /// The host cannot do it.
    CapabilityMissing = "CAPABILITY_MISSING",
    /// VMs have all of the host that they may have.
    Capacity = "CAPACITY",
    /// Every user that a zone could have is in use.
    UidRangeExhausted = "UID_RANGE_EXHAUSTED",
    /// As many images are on their way as can be.
    ImagesBusy = "IMAGES_BUSY",
    /// There is no room on a disk.
    NoRoom = "NO_ROOM",
    /// The agent's state file takes no writes.
    StateReadOnly = "STATE_READ_ONLY",
    /// The host is shutting down.
    HostDraining = "HOST_DRAINING",
    /// The agent is stopping.
    Stopping = "STOPPING",
    /// There is no such file.
    FileNotFound = "FILE_NOT_FOUND",
    /// The file exists.
    FileExists = "FILE_EXISTS",
    /// The path leads through a link, or the file is not a regular one.
    FileRefused = "FILE_REFUSED",
    /// The same upload is under way.
    UploadBusy = "UPLOAD_BUSY",
    /// The upload must continue at another offset.
    UploadOffset = "UPLOAD_OFFSET",
    /// What arrived is not what was announced.
    UploadBroken = "UPLOAD_BROKEN",
    /// There is no such image.
    ImageNotFound = "IMAGE_NOT_FOUND",
    /// Another image has the UUID.
    ImageExists = "IMAGE_EXISTS",
    /// VMs or other images need the image, or it is being imported.
    ImageInUse = "IMAGE_IN_USE",
    /// The content of an image is damaged, refused, or not what was announced.
    ImageBroken = "IMAGE_BROKEN",
    /// An import was cancelled.
    ImageCancelled = "IMAGE_CANCELLED",
    /// The source has no such image.
    SourceMissing = "SOURCE_MISSING",
    /// The source of an image is not one that the agent may reach, or has no digest.
    SourceRefused = "SOURCE_REFUSED",
    /// The source of an image can't be reached, or does not answer as it should.
    SourceFailed = "SOURCE_FAILED",
    /// The offset is beyond the end of the console.
    ConsoleOffset = "CONSOLE_OFFSET",
    /// Another caller writes to the console, or took it over.
    ConsoleBusy = "CONSOLE_BUSY",
    /// The caller's role does not allow it.
    RoleRequired = "ROLE_REQUIRED",
    /// The connection has no verified identity.
    Unauthenticated = "UNAUTHENTICATED",
    /// Too many calls are under way on one connection.
    TooManyCalls = "TOO_MANY_CALLS",
    /// The caller has too many regular expressions under way.
    TooManyExpressions = "TOO_MANY_EXPRESSIONS",
    /// Too many links to screens wait to be opened.
    TooManyLinks = "TOO_MANY_LINKS",
    /// The request is not the message that the rpc takes.
    MalformedRequest = "MALFORMED_REQUEST",
    /// The message is larger than the agent takes or sends.
    MessageTooLarge = "MESSAGE_TOO_LARGE",
    /// The agent has no such rpc, or does not take the request's compression.
    UnknownRpc = "UNKNOWN_RPC",
    /// The agent failed; its log says why.
    Internal = "INTERNAL",
}

/// A reason that is newer than this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown reason")]
pub struct UnknownReason;

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == text).ok_or(UnknownReason)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    /// The table of the documentation has every reason, and no other.
    #[test]
    fn the_documentation_lists_them() {
        let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md")).unwrap();
        let table = page.split("## Errors").nth(1).unwrap().split("\n## ").next().unwrap();
        let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
        let listed: BTreeSet<_> = rows
            .filter_map(|row| row.split('|').nth(3)?.trim().strip_prefix('`')?.strip_suffix('`'))
            .collect();
        let all: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(listed, all);
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
        }
        assert_eq!("NEWER".parse::<Reason>(), Err(UnknownReason));
    }
}
