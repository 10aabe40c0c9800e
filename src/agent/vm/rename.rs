//! Disks that an earlier agent called `disk0.raw` get the name that SmartOS's have, `disk0`, which programs look for at
//! the end of the path. A VM that runs keeps the old names until its next adoption or start.
//!
//! ```text
//!   both names noted ─▶ linked ─▶ record says the new ─▶ old name removed
//!                         │ cut: the new name is removed   │ cut: the old name is removed
//! ```

use super::Actor;
use crate::{
    agent::{error::Error, request::call::Call},
    crash,
    spec::DiskSpec,
    storage,
};

impl Actor {
    /// Renames what has an old name; on an error all stays as it is.
    pub(super) async fn rename_disks(&mut self) {
        let renames: Vec<(String, String)> = self.record.spec.disks.iter().filter_map(rename).collect();
        if renames.is_empty() || self.live.process.is_some() || self.record.machine.is_some() {
            return;
        }
        if let Err(error) = self.try_rename(renames).await {
            tracing::warn!(%error, "disks keep the names that an earlier agent gave them");
        }
    }

    async fn try_rename(&mut self, renames: Vec<(String, String)>) -> Result<(), Error> {
        let names = renames.iter().flat_map(|(old, new)| [old.clone(), new.clone()]).collect();
        self.note(|vm| vm.unsettled = names).await?;
        crash::point("rename.noted");
        let zone = self.layout.zonepath().to_owned();
        let link = move || renames.iter().try_for_each(|(old, new)| storage::link_disk(&zone, old, new));
        tokio::task::spawn_blocking(link).await.map_err(Error::internal)??;
        crash::point("rename.linked");
        let vm = self.changed(|vm| {
            for disk in &mut vm.spec.disks {
                if let (Some(new), Some(path)) = (disk.present_name(), disk.path.as_deref()) {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    disk.path = Some(format!("{folder}/{new}"));
                }
            }
        });
        self.commit(&Call::own(), vm, Vec::new(), None).await?;
        crash::point("rename.committed");
        self.remove_disks(self.record.leftover_disks()).await;
        // Written down with the next change.
        self.record.unsettled.clear();
        Ok(())
    }
}

fn rename(disk: &DiskSpec) -> Option<(String, String)> {
    Some((disk.file_name()?.to_owned(), disk.present_name()?))
}
