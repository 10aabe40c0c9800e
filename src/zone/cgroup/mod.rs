//! Control groups: the host resources that a VM may use.
//!
//! A VM has one group in each hierarchy that matters, below the agent's own group (in version 2 below
//! `zone.cgroup_parent`, where one is configured), named after the VM: `<own>/<zone.cgroup>-<uuid>`. Before
//! the first is created, all are recorded in `cgroup.json` of the run folder, so the next agent finds and
//! removes them after a crash. The launcher enters them while single threaded, which costs nothing; the
//! hypervisor starts there and is never moved.
//!
//! A hierarchy that can't be written is left out, and each limit that it would have enforced reports why it
//! has no effect.

mod hierarchy;
mod setting;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use hierarchy::{Hierarchy, Version};
use setting::Setting;

use uuid::Uuid;

use super::{Group, settings::Settings};
use crate::{
    crash,
    spec::{LimitReport, Limits},
};

/// Creates groups.
#[derive(Clone, Debug)]
pub(super) struct Cgroups {
    prefix: String,
    /// The version 2 group that is used instead of the agent's own.
    parent: Option<String>,
}

/// The groups of one VM.
#[derive(Clone, Debug, Default)]
pub(super) struct Cgroup {
    places: Vec<Place>,
    /// Controllers whose hierarchy has no group, and the reason.
    refusals: Vec<(Vec<String>, String)>,
}

#[derive(Clone, Debug)]
struct Place {
    version: Version,
    controllers: Vec<String>,
    folder: PathBuf,
}

/// A new group holds a process within this time.
const A_WHILE: Duration = Duration::from_secs(60);

impl Cgroups {
    pub(super) fn new(settings: &Settings) -> Self {
        let parent = Some(settings.cgroup_parent.clone()).filter(|parent| !parent.is_empty());
        Self { prefix: settings.cgroup.clone(), parent }
    }

    /// Names the group that an agent moves itself into.
    fn agent(&self) -> String {
        format!("{}-agent", self.prefix)
    }

    /// Records the groups of `name` in `record`, then creates them.
    pub(super) fn make(&self, name: &str, record: &Path) -> io::Result<Cgroup> {
        let hierarchies = self.hierarchies(self.parent.as_deref())?;
        let places: Vec<Place> = hierarchies
            .iter()
            .map(|found| Place {
                version: found.version,
                controllers: found.controllers.clone(),
                folder: found.own.join(format!("{}-{name}", self.prefix)),
            })
            .collect();
        let folders: Vec<&Path> = places.iter().map(|place| place.folder.as_path()).collect();
        // Replaced atomically.
        let draft = record.with_extension("draft");
        fs::write(&draft, serde_json::to_vec(&folders)?)?;
        fs::rename(&draft, record)?;
        crash::point("groups.noted");
        let mut cgroup = Cgroup::default();
        for (hierarchy, place) in hierarchies.iter().zip(places) {
            let handed_on = match hierarchy.version {
                Version::V1 => Ok(()),
                Version::V2 => hierarchy.hand_on(setting::CONTROLLERS, &self.agent()),
            };
            match handed_on.and_then(|()| hierarchy::make(&place.folder)) {
                Ok(()) => {
                    crash::point("groups.made");
                    cgroup.places.push(place);
                }
                Err(error) => {
                    let why = format!("{} can't be made: {error}", place.folder.display());
                    // The controllers of a missing hierarchy are unknown.
                    let all = || setting::CONTROLLERS.iter().map(|name| (*name).to_owned()).collect();
                    let controllers = if place.controllers.is_empty() { all() } else { place.controllers };
                    cgroup.refusals.push((controllers, why));
                }
            }
        }
        Ok(cgroup)
    }

    /// Returns every group named after a VM, also below the agent's own group, which held them before a
    /// parent was configured.
    pub(super) fn all(&self) -> io::Result<Vec<Group>> {
        let prefix = format!("{}-", self.prefix);
        let mut found = Vec::new();
        let mut hierarchies = self.hierarchies(None)?;
        if let Some(parent) = &self.parent {
            let elsewhere = self.hierarchies(Some(parent))?;
            hierarchies.extend(elsewhere.into_iter().filter(|other| other.is_there() && other.is_parent));
        }
        for hierarchy in hierarchies {
            for entry in fs::read_dir(&hierarchy.own)?.flatten() {
                let name = entry.file_name();
                let uuid = name.to_str().and_then(|name| Uuid::try_parse(name.strip_prefix(&prefix)?).ok());
                let Some(uuid) = uuid else { continue };
                let path = entry.path();
                let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
                found.push(Group { uuid, path, populated: !processes.trim().is_empty() });
            }
        }
        Ok(found)
    }

    /// Removes empty groups whose names begin with `name` and that are not new: their creator is gone, and so
    /// is its record.
    pub(super) fn remove_empty(&self, name: &str) -> io::Result<()> {
        let prefix = format!("{}-{name}", self.prefix);
        for hierarchy in self.hierarchies(self.parent.as_deref())? {
            for entry in fs::read_dir(&hierarchy.own).into_iter().flatten().flatten() {
                let is_old = || entry.metadata()?.modified()?.elapsed().map_err(io::Error::other);
                let is_old = is_old().is_ok_and(|age| age > A_WHILE);
                if is_old && entry.file_name().to_string_lossy().starts_with(&prefix) {
                    // Fails while a process is in it.
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
        Ok(())
    }

    /// Finds the groups of a VM by name.
    pub(super) fn of(&self, uuid: Uuid) -> io::Result<Cgroup> {
        let own = self.all()?.into_iter().filter(|group| group.uuid == uuid);
        Ok(Cgroup::in_folders(own.map(|group| group.path).collect()))
    }

    /// Returns version 2 always, because it kills and reports; version 1 where it has a needed controller.
    fn hierarchies(&self, parent: Option<&str>) -> io::Result<Vec<Hierarchy>> {
        let mut found = Hierarchy::find(&self.agent(), parent)?;
        found.retain(|hierarchy| {
            let needed = |name: &String| setting::CONTROLLERS.contains(&name.as_str());
            hierarchy.version == Version::V2 || hierarchy.controllers.iter().any(needed)
        });
        Ok(found)
    }
}

impl Cgroup {
    /// Reads the groups of an earlier agent.
    pub(super) fn read(record: &Path) -> io::Result<Self> {
        let folders: Vec<PathBuf> = match fs::read(record) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self::in_folders(folders))
    }

    fn in_folders(folders: Vec<PathBuf>) -> Self {
        let place = |folder: PathBuf| {
            let (version, controllers) = match fs::read_to_string(folder.join("cgroup.controllers")) {
                Ok(listed) => (Version::V2, listed.split_whitespace().map(str::to_owned).collect()),
                // The file names of a version 1 group show its controllers.
                Err(_) => (Version::V1, controllers_by_files(&folder)),
            };
            Place { version, controllers, folder }
        };
        Self { places: folders.into_iter().map(place).collect(), refusals: Vec::new() }
    }

    /// Whether any group exists.
    pub(super) fn is_there(&self) -> bool {
        !self.places.is_empty()
    }

    /// Lists the processes in them.
    pub(super) fn processes(&self) -> io::Result<Vec<i32>> {
        let mut found = std::collections::BTreeSet::new();
        for place in &self.places {
            let listed = fs::read_to_string(place.folder.join("cgroup.procs"))?;
            found.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        Ok(found.into_iter().collect())
    }

    /// Returns the files into which a single-threaded process writes `0` to enter the version 1 groups.
    pub(super) fn doors(&self) -> Vec<PathBuf> {
        let v1 = self.places.iter().filter(|place| place.version == Version::V1);
        // Not cgroup.procs: moving a whole process takes a lock that can cost milliseconds.
        v1.map(|place| place.folder.join("tasks")).collect()
    }

    /// Returns the version 2 group, in which a process can start.
    pub(super) fn birthplace(&self) -> Option<&Path> {
        let v2 = self.places.iter().find(|place| place.version == Version::V2);
        v2.map(|place| place.folder.as_path())
    }

    /// Writes the limits and reads them back.
    pub(super) fn apply(&self, limits: &Limits) -> Vec<LimitReport> {
        let reports = self.apply_once(limits);
        // Repeated, because the order in which two limits can change depends on their old values.
        if reports.iter().all(LimitReport::is_effective) { reports } else { self.apply_once(limits) }
    }

    fn apply_once(&self, limits: &Limits) -> Vec<LimitReport> {
        let (v1, v2) = (Setting::all(limits, Version::V1), Setting::all(limits, Version::V2));
        v1.iter().zip(&v2).map(|settings| self.report(settings.into())).collect()
    }

    /// Applies one limit in the version that has its controller on this host.
    fn report(&self, [v1, v2]: [&Setting; 2]) -> LimitReport {
        let property = v1.property.to_owned();
        let found = self.places.iter().find_map(|place| {
            let setting = if place.version == Version::V1 { v1 } else { v2 };
            place.controllers.iter().any(|name| name == setting.controller).then_some((place, setting))
        });
        let result = match found {
            Some((place, setting)) => place.write(setting),
            None => Err(self.refusal([v1.controller, v2.controller])),
        };
        match result {
            Ok(mechanism) => LimitReport { property, mechanism, reason: String::new() },
            Err(reason) => LimitReport { property, mechanism: String::new(), reason },
        }
    }

    fn refusal(&self, controllers: [&str; 2]) -> String {
        let refused = self
            .refusals
            .iter()
            .find(|(names, _)| names.iter().any(|name| controllers.contains(&name.as_str())));
        match refused {
            Some((_, why)) => why.clone(),
            None => format!("no control group on this host has the controller {}", controllers[1]),
        }
    }

    /// Whether the host killed a process of the groups because they had no memory left.
    pub(super) fn was_out_of_memory(&self) -> bool {
        let count = |place: &Place| {
            let file = match place.version {
                Version::V1 => "memory.oom_control",
                Version::V2 => "memory.events",
            };
            let text = fs::read_to_string(place.folder.join(file)).ok()?;
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())
        };
        self.places.iter().filter_map(count).any(|killed| killed > 0)
    }

    /// Whether any group still exists.
    pub(super) fn is_left(&self) -> bool {
        self.places.iter().any(|place| place.folder.exists())
    }

    /// Kills all processes in the groups, where the kernel can (version 2, since Linux 5.14).
    pub(super) fn kill(&self) {
        for place in self.places.iter().filter(|place| place.version == Version::V2) {
            let _ = fs::write(place.folder.join("cgroup.kill"), "1");
        }
    }

    /// Removes the groups; they may be gone. A process that has just ended may still hold one briefly.
    pub(super) fn remove(&self) {
        for place in &self.places {
            for wait in [0, 1, 2, 5, 10, 20, 50, 100, 200] {
                std::thread::sleep(Duration::from_millis(wait));
                match fs::remove_dir(&place.folder) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(%error, group = %place.folder.display(), "cannot remove");
                        break;
                    }
                    _ => break,
                }
            }
        }
    }
}

impl Place {
    /// Writes one limit; returns the value in force, or why the limit has no effect.
    fn write(&self, setting: &Setting) -> Result<String, String> {
        let paths = setting.files.iter().map(|name| (name, self.folder.join(name)));
        let Some((name, path)) = paths.into_iter().find(|(_, path)| path.exists()) else {
            return Err(format!(
                "this kernel's {} has no {}",
                setting.controller,
                setting.files.join(" or ")
            ));
        };
        let written = fs::write(&path, &setting.value).and_then(|()| fs::read_to_string(&path));
        let read = written.map_err(|error| format!("{} can't be written: {error}", path.display()))?;
        let read = read.lines().next().unwrap_or_default().trim();
        if !setting.value.split(' ').all(|word| read.split(' ').any(|found| found == word)) {
            return Err(format!("{} was set to {} and is {read}", path.display(), setting.value));
        }
        let version = if self.version == Version::V1 { "v1" } else { "v2" };
        Ok(format!("cgroup {version} {name}={read}"))
    }
}

fn controllers_by_files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    let prefix =
        |name: std::ffi::OsString| name.to_str().and_then(|n| n.split_once('.').map(|(p, _)| p.to_owned()));
    let mut found: Vec<String> = names.filter_map(|entry| prefix(entry.file_name())).collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(memory: u64) -> Limits {
        Limits {
            cpu_cap: Some(50),
            cpu_shares: 10,
            memory,
            locked: memory,
            memory_and_swap: memory,
            threads: 5,
            io_priority: 100,
        }
    }

    /// In this host's own groups, where it lets us.
    #[test]
    fn groups_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("cgroup.json");
        let name = uuid::Uuid::new_v4().to_string();
        let settings = Settings { cgroup: "zoneward-test".into(), ..Settings::default() };
        let cgroup = Cgroups::new(&settings).make(&name, &record).unwrap();
        if cgroup.places.is_empty() {
            crate::ignored::ignore(&format!("no control group can be made here: {:?}", cgroup.refusals));
            return;
        }
        let known = Cgroup::read(&record).unwrap();
        let both = |memory| (cgroup.apply(&limits(memory)), known.apply(&limits(memory)));
        // Up and down again: the two limits of memory hinder each other in one order or the other.
        for memory in [64 << 20, 256 << 20, 32 << 20] {
            let (first, second) = both(memory);
            assert_eq!(first, second, "an earlier agent's groups are known as well as one's own");
            let report = |property: &str| first.iter().find(|limit| limit.property == property).unwrap();
            for property in ["max_physical_memory", "max_lwps", "cpu_cap", "cpu_shares"] {
                assert!(report(property).is_effective(), "{:?}", report(property));
            }
            assert!(report("max_physical_memory").mechanism.ends_with(&format!("={memory}")));
        }
        assert!(!cgroup.was_out_of_memory());
        known.remove();
        assert!(cgroup.places.iter().all(|place| !place.folder.exists()));
        known.remove();
    }

    #[test]
    fn a_host_without_groups_says_so_for_each_limit() {
        let cgroup = Cgroup {
            places: Vec::new(),
            refusals: vec![(vec!["memory".to_owned()], "/m can't be made: no".to_owned())],
        };
        let reasons: Vec<(String, String)> =
            cgroup.apply(&limits(1)).into_iter().map(|limit| (limit.property, limit.reason)).collect();
        assert!(reasons.contains(&("max_physical_memory".to_owned(), "/m can't be made: no".to_owned())));
        let (_, lwps) = reasons.iter().find(|(property, _)| property == "max_lwps").unwrap();
        assert_eq!(lwps, "no control group on this host has the controller pids");
    }
}
