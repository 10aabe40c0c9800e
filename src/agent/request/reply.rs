//! Replies to calls, each with its own type, and the one form in which they are kept for repeats.

use serde::{Deserialize, Serialize};

use crate::{
    agent::error::Error,
    model::{BootPhase, Change, ImageRecord, VmRecord},
    spec::Note,
    storage::Entry,
};

/// A reply to a call.
pub(in crate::agent) trait Reply: Clone + Send + Sync + 'static {
    /// As it is kept.
    fn store(&self) -> StoredReply;
    /// Reads it back; `None` when another kind was kept.
    fn load(stored: StoredReply) -> Option<Self>;
}

/// The reply to a change of a VM's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmReply {
    /// As it is now.
    pub vm: Box<VmRecord>,
    /// Nothing was done.
    pub already: bool,
    /// The phases of a start.
    pub phases: Vec<BootPhase>,
}

impl VmReply {
    /// Reports a VM that changed.
    pub(in crate::agent) fn of(vm: &VmRecord) -> Self {
        Self { vm: Box::new(vm.clone()), already: false, phases: Vec::new() }
    }

    /// Returns whether the guest obeyed a stop.
    #[must_use]
    pub fn obeyed(&self) -> bool {
        !self.already && self.vm.exit.as_ref().is_some_and(|exit| exit.obeyed)
    }
}

/// A VM that was changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpdateReply {
    /// As it is now.
    pub vm: Box<VmRecord>,
    /// Every path that differs.
    pub changes: Vec<Change>,
    /// Properties that wait for the next boot.
    pub next_boot: Vec<String>,
    /// What has no effect here.
    pub notes: Vec<Note>,
}

/// A VM that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteReply;

/// An image that can be used, or is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::agent) struct ImageReply {
    /// As it is now.
    pub image: Box<ImageRecord>,
}

/// A file that exists now, or is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileReply {
    /// Inside the zone's root.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub modified: i64,
}

impl From<&Entry> for FileReply {
    fn from(entry: &Entry) -> Self {
        Self { path: entry.path.clone(), size: entry.size, modified: entry.modified }
    }
}

/// What became of one leak.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reclaimed {
    /// Which.
    pub id: String,
    /// Why it still exists; `None` when it is gone.
    pub reason: Option<String>,
}

/// The result of reclaiming leaks.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::agent) struct ReclaimReply(pub Vec<Reclaimed>);

/// Every reply, as the state file stores it. Names and fields are a format: they stay, or the version
/// changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::agent) enum StoredReply {
    /// See [`VmReply`].
    Vm(VmReply),
    /// See [`UpdateReply`].
    Updated(UpdateReply),
    /// See [`DeleteReply`].
    Deleted,
    /// See [`FileReply`].
    File(FileReply),
    /// See [`ReclaimReply`].
    Reclaimed(Vec<Reclaimed>),
    /// See [`ImageReply`].
    Image(ImageReply),
}

macro_rules! replies {
    ($($reply:ident: $pattern:pat => $load:expr, $this:ident => $store:expr;)*) => {$(
        impl Reply for $reply {
            fn store(&self) -> StoredReply {
                let $this = self.clone();
                $store
            }

            fn load(stored: StoredReply) -> Option<Self> {
                match stored {
                    $pattern => Some($load),
                    _ => None,
                }
            }
        }
    )*};
}

replies! {
    VmReply: StoredReply::Vm(reply) => reply, this => StoredReply::Vm(this);
    UpdateReply: StoredReply::Updated(reply) => reply, this => StoredReply::Updated(this);
    DeleteReply: StoredReply::Deleted => Self, _this => StoredReply::Deleted;
    FileReply: StoredReply::File(reply) => reply, this => StoredReply::File(this);
    ImageReply: StoredReply::Image(reply) => reply, this => StoredReply::Image(this);
    ReclaimReply: StoredReply::Reclaimed(list) => Self(list), this => StoredReply::Reclaimed(this.0);
}

/// The version of [`StoredReply`] and of [`Error`] as they are written.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Versioned {
    v: u32,
    answer: Result<StoredReply, Error>,
}

/// Serializes an answer.
pub(in crate::agent) fn write(answer: Result<StoredReply, Error>) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Versioned { v: VERSION, answer })
}

/// Reads a kept answer; `None` when this agent can't. Agents before version 1 wrote the bare answer.
pub(in crate::agent) fn read(body: &str) -> Option<Result<StoredReply, Error>> {
    match serde_json::from_str::<Versioned>(body) {
        Ok(kept) => (kept.v == VERSION).then_some(kept.answer),
        Err(_) => serde_json::from_str(body).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_this_version_of_none_and_of_another() {
        let answer = Ok(StoredReply::Deleted);
        assert_eq!(read(&write(answer.clone()).unwrap()), Some(answer.clone()));
        assert_eq!(read(r#"{"Ok":"Deleted"}"#), Some(answer));
        assert_eq!(read(r#"{"Err":"Draining"}"#), Some(Err(Error::Draining)));
        for unreadable in
            [r#"{"v":2,"answer":{"Ok":"Deleted"}}"#, r#"{"v":1,"answer":{"Ok":"Moved"}}"#, "x", ""]
        {
            assert_eq!(read(unreadable), None, "{unreadable}");
        }
    }

    #[test]
    fn each_reply_is_read_as_what_it_is() {
        let file = FileReply { path: "/a".into(), size: 1, modified: 2 };
        assert_eq!(FileReply::load(file.store()), Some(file.clone()));
        assert_eq!(DeleteReply::load(file.store()), None);
        assert_eq!(DeleteReply::load(DeleteReply.store()), Some(DeleteReply));
        assert_eq!(ReclaimReply::load(ReclaimReply(Vec::new()).store()), Some(ReclaimReply(Vec::new())));
    }
}
