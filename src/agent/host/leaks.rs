//! Leaks: resources that have the name of a VM, but belong to none.
//!
//! Names derive from UUIDs, so everything that an agent ever created can be found again: zone and run
//! folders, hypervisors by what the launcher wrote into run folders, control groups by their name, parts of
//! uploads, links and packet rules. A search changes nothing. Reclaiming searches again, and removes only
//! what is still a leak; what can't be judged stays.

use std::{collections::BTreeMap, fs, io, path::Path};

use uuid::Uuid;

use crate::{
    agent::{
        Agent,
        context::transition::Transition,
        error::Error,
        request::{
            call::Call,
            reply::{ReclaimReply, Reclaimed},
        },
    },
    layout::VmLayout,
    model::EventKind,
    spec::VmState,
    storage::{self, Orphan},
    zone::{Found, Group},
};

/// A resource without a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// The same for as long as it exists.
    pub id: String,
    /// What it is.
    pub kind: LeakKind,
    /// The UUID in its name.
    pub uuid: Uuid,
    /// Where.
    pub path: String,
    /// Why it counts as a leak.
    pub detail: String,
    /// Whether the agent would remove it.
    pub reclaimable: bool,
}

/// What a leak is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeakKind {
    /// A folder of `zones_dir`.
    ZoneFolder,
    /// A folder of `run_dir`.
    RunFolder,
    /// A hypervisor that runs.
    Process,
    /// A control group.
    ControlGroup,
    /// A part of an upload that can't be continued.
    Upload,
    /// Links and packet rules.
    Link,
}

impl LeakKind {
    /// Returns its name, the prefix of its ids.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ZoneFolder => "zone-folder",
            Self::RunFolder => "run-folder",
            Self::Process => "process",
            Self::ControlGroup => "control-group",
            Self::Upload => "upload",
            Self::Link => "link",
        }
    }
}

impl Leak {
    fn new(kind: LeakKind, uuid: Uuid, path: &Path, detail: impl Into<String>, reclaimable: bool) -> Self {
        let path = path.display().to_string();
        let id = format!("{}:{path}", kind.as_str());
        Self { id, kind, uuid, path, detail: detail.into(), reclaimable }
    }
}

impl Agent {
    /// Logs the leaks that exist when the agent starts; removes none.
    pub(in crate::agent) async fn report_leaks(&self) {
        match self.leaks().await {
            Ok(leaks) => {
                for leak in leaks {
                    tracing::warn!(id = leak.id, detail = leak.detail, "a leak; vmadm reclaim removes it");
                }
            }
            Err(error) => tracing::warn!(%error, "leaks could not be listed"),
        }
    }

    /// Every leak, by id.
    pub async fn leaks(&self) -> Result<Vec<Leak>, Error> {
        // First list what exists, then look up its VM: anything created or removed in between has one.
        let groups = self.context.platform.zone.groups().await;
        let agent = self.clone();
        let mut leaks = tokio::task::spawn_blocking(move || agent.leaks_in_folders())
            .await
            .map_err(Error::internal)?
            .map_err(Error::internal)?;
        leaks.extend(groups.iter().filter_map(|group| self.leaked_group(group)));
        leaks.extend(self.leaked_links().await?);
        leaks.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(leaks)
    }

    fn leaks_in_folders(&self) -> io::Result<Vec<Leak>> {
        let layout = &self.context.layout;
        let mut leaks = Vec::new();
        for uuid in uuids_in(layout.zones())? {
            let vm = layout.vm(uuid);
            if self.context.registry.knows(uuid) {
                leaks.extend(Orphan::all(&vm)?.iter().map(|part| {
                    let detail = "part of an upload without its description; nobody can go on with it";
                    Leak::new(LeakKind::Upload, uuid, part, detail, true)
                }));
            } else if vm.zonepath().exists() {
                let detail = "no VM has this UUID; the disks in it go with it";
                leaks.push(Leak::new(LeakKind::ZoneFolder, uuid, vm.zonepath(), detail, true));
            }
        }
        for uuid in uuids_in(layout.run())? {
            let vm = layout.vm(uuid);
            if !self.context.registry.knows(uuid) && vm.run().exists() {
                leaks.push(self.leaked_run(uuid, &vm));
            }
        }
        Ok(leaks)
    }

    /// Returns one leak for all links of one UUID.
    async fn leaked_links(&self) -> Result<Vec<Leak>, Error> {
        let mut names: BTreeMap<Uuid, Vec<String>> = BTreeMap::new();
        for left in self.context.platform.links.remains().await.map_err(Error::internal)? {
            names.entry(left.uuid).or_default().push(left.name);
        }
        names.retain(|uuid, _| !self.context.registry.knows(*uuid));
        let leak = |(uuid, names): (Uuid, Vec<String>)| {
            let detail = format!("no VM has this UUID; links and rules: {}", names.join(", "));
            Leak::new(LeakKind::Link, uuid, Path::new(&uuid.to_string()), detail, true)
        };
        Ok(names.into_iter().map(leak).collect())
    }

    fn leaked_run(&self, uuid: Uuid, vm: &VmLayout) -> Leak {
        let (kind, detail, reclaimable) = match self.context.platform.zone.find(uuid, vm) {
            Found::Gone(_) => (LeakKind::RunFolder, "no VM has this UUID".to_owned(), true),
            Found::Alive(process) => {
                (LeakKind::Process, format!("process {} runs, and no VM has this UUID", process.pid()), true)
            }
            Found::Unknown(why) => {
                let detail =
                    format!("no VM has this UUID, and nobody can tell whether its process runs: {why}");
                (LeakKind::RunFolder, detail, false)
            }
        };
        Leak::new(kind, uuid, vm.run(), detail, reclaimable)
    }

    /// A group that its VM's run folder records is reclaimed with that.
    fn leaked_group(&self, group: &Group) -> Option<Leak> {
        if self.context.layout_of(group.uuid).cgroup().exists() || !group.path.exists() {
            return None;
        }
        let detail = match (group.populated, self.context.registry.knows(group.uuid)) {
            (true, _) => "something runs in it that this agent does not know; is it another agent's?",
            (false, true) => "the VM is not running",
            (false, false) => "no VM has this UUID",
        };
        Some(Leak::new(LeakKind::ControlGroup, group.uuid, &group.path, detail, !group.populated))
    }

    /// Removes leaks; returns the result for each.
    pub async fn reclaim(
        &self,
        call: Call,
        ids: Vec<String>,
        validate_only: bool,
    ) -> Result<Vec<Reclaimed>, Error> {
        if validate_only {
            let leaks = self.leaks().await?;
            return Ok(ids
                .into_iter()
                .map(|id| verdict(&leaks, id).map_or_else(|no| no, |yes| yes.1))
                .collect());
        }
        let work = {
            let agent = self.clone();
            move |call: Call| async move { agent.reclaim_all(&call, ids).await }
        };
        let ReclaimReply(results) = self.context.once(call, work).await?;
        Ok(results)
    }

    async fn reclaim_all(&self, call: &Call, ids: Vec<String>) -> Result<ReclaimReply, Error> {
        let leaks = self.leaks().await?;
        let mut results = Vec::new();
        for id in ids {
            let result = match verdict(&leaks, id) {
                Ok((leak, result)) => match self.reclaim_one(call, leak).await {
                    Ok(()) => result,
                    Err(error) => Reclaimed { reason: Some(error.to_string()), ..result },
                },
                Err(result) => result,
            };
            results.push(result);
        }
        let outcome = ReclaimReply(results);
        Transition::new(&self.context).answers(call.answer(&Ok(outcome.clone()))).only().await?;
        Ok(outcome)
    }

    /// Checks again, journals the removal, and removes the leak.
    async fn reclaim_one(&self, call: &Call, leak: &Leak) -> Result<(), Error> {
        let layout = self.context.layout_of(leak.uuid);
        match leak.kind {
            LeakKind::ControlGroup => {
                if self.vm(leak.uuid).is_ok_and(|vm| vm.state != VmState::Stopped) {
                    return Err(Error::internal("the VM runs now"));
                }
                self.journal_reclaimed(call, leak).await?;
                self.context.platform.zone.remove_group(Path::new(&leak.path)).await.map_err(Error::internal)
            }
            LeakKind::Upload => {
                let orphan = Orphan::take(Path::new(&leak.path))?;
                self.journal_reclaimed(call, leak).await?;
                Ok(orphan.remove()?)
            }
            LeakKind::Link => {
                let _taken = self.context.registry.reserve(leak.uuid, u32::MAX)?;
                self.end_process(leak, &layout).await?;
                self.journal_reclaimed(call, leak).await?;
                self.context.platform.links.unplug(leak.uuid).await.map_err(Error::internal)
            }
            LeakKind::Process | LeakKind::RunFolder | LeakKind::ZoneFolder => {
                // Prevents the creation of a VM with that UUID.
                let _taken = self.context.registry.reserve(leak.uuid, u32::MAX)?;
                self.end_process(leak, &layout).await?;
                self.journal_reclaimed(call, leak).await?;
                self.context.platform.zone.forget(leak.uuid, &layout).await;
                let whole = leak.kind == LeakKind::ZoneFolder;
                let remove = move || match whole {
                    true => storage::remove_zone(&layout),
                    false => storage::remove_run(&layout),
                };
                Ok(tokio::task::spawn_blocking(remove).await.map_err(Error::internal)??)
            }
        }
    }

    /// Kills the process if it is the leak; fails if another process uses the leak.
    async fn end_process(&self, leak: &Leak, layout: &VmLayout) -> Result<(), Error> {
        match self.context.platform.zone.find(leak.uuid, layout) {
            Found::Alive(process) if leak.kind == LeakKind::Process => {
                process.kill().map_err(Error::internal)?;
                process.ended().await;
            }
            Found::Alive(process) => {
                let pid = process.pid();
                return Err(Error::internal(format!("process {pid} uses it; reclaim that first")));
            }
            Found::Gone(_) => {}
            Found::Unknown(why) => return Err(Error::internal(why)),
        }
        let groups = self.context.platform.zone.groups().await;
        match groups.iter().find(|group| group.uuid == leak.uuid && group.populated) {
            Some(group) => {
                let path = group.path.display();
                Err(Error::internal(format!("something runs in {path}; end that first")))
            }
            None => Ok(()),
        }
    }

    async fn journal_reclaimed(&self, call: &Call, leak: &Leak) -> Result<(), Error> {
        let fact = EventKind::Reclaimed { leak: leak.kind.as_str().to_owned(), path: leak.path.clone() };
        Transition::new(&self.context).event(call.event(leak.uuid, fact)).only().await
    }
}

/// Returns the leak and its result after removal, or why it is not removed.
fn verdict(leaks: &[Leak], id: String) -> Result<(&Leak, Reclaimed), Reclaimed> {
    match leaks.iter().find(|leak| leak.id == id) {
        Some(leak) if leak.reclaimable => Ok((leak, Reclaimed { id, reason: None })),
        Some(leak) => Err(Reclaimed { id, reason: Some(leak.detail.clone()) }),
        None => Err(Reclaimed {
            id,
            reason: Some("there is no such leak; ListLeaks says which there are".to_owned()),
        }),
    }
}

fn uuids_in(folder: &Path) -> io::Result<Vec<Uuid>> {
    let uuid = |entry: fs::DirEntry| Uuid::try_parse(entry.file_name().to_str()?).ok();
    Ok(fs::read_dir(folder)?.flatten().filter_map(uuid).collect())
}
