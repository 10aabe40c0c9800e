//! The host's hierarchies of control groups, version 1 and 2 side by side as hosts have them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The interface version of a hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// A hierarchy in which this process has a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    pub(super) controllers: Vec<String>,
    /// The folder of the group below which groups are created: this process's own, or the configured parent.
    pub(super) own: PathBuf,
    /// It was named.
    pub(super) is_parent: bool,
}

impl Hierarchy {
    /// Returns the hierarchies of this process. `agent` names the group that an earlier agent moved itself
    /// into; `parent` is the version 2 group that replaces its own.
    pub(super) fn find(agent: &str, parent: Option<&str>) -> io::Result<Vec<Self>> {
        let (groups, mounts) =
            (fs::read_to_string("/proc/self/cgroup")?, fs::read_to_string("/proc/self/mountinfo")?);
        let mut found = parse(&groups, &mounts, parent);
        for hierarchy in found.iter_mut().filter(|hierarchy| hierarchy.version == Version::V2) {
            if !hierarchy.is_parent && hierarchy.own.file_name().is_some_and(|name| name == agent) {
                hierarchy.own.pop();
            }
            // A missing folder is reported when a group is created in it.
            let listed = fs::read_to_string(hierarchy.own.join("cgroup.controllers")).unwrap_or_default();
            hierarchy.controllers = listed.split_whitespace().map(str::to_owned).collect();
        }
        Ok(found)
    }

    pub(super) fn is_there(&self) -> bool {
        self.own.exists()
    }

    /// Enables the controllers that limits need in groups below; only version 2 requires this.
    ///
    /// A version 2 group can't both hold processes and delegate controllers, so an agent outside the root
    /// group first moves itself and its children one group down.
    pub(super) fn hand_on(&self, wanted: &[&str], agent: &str) -> io::Result<()> {
        let control = self.own.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&control)?;
        let there = |name: &&&str| self.controllers.iter().any(|controller| controller == *name);
        let missing = |name: &&&str| !enabled.split_whitespace().any(|controller| controller == **name);
        let ask: Vec<String> = wanted.iter().filter(there).filter(missing).map(|n| format!("+{n}")).collect();
        if ask.is_empty() {
            return Ok(());
        }
        match fs::write(&control, ask.join(" ")) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && !self.is_parent => {}
            result => return result,
        }
        let below = self.own.join(agent);
        make(&below)?;
        fs::write(below.join("cgroup.procs"), std::process::id().to_string())?;
        let ours = children()?;
        for here in fs::read_to_string(self.own.join("cgroup.procs"))?.lines() {
            if ours.iter().any(|child| child == here) {
                // A child that has ended needs no place.
                let _ = fs::write(below.join("cgroup.procs"), here);
            }
        }
        fs::write(&control, ask.join(" "))
    }
}

/// Returns the children of this process, of all its threads.
fn children() -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for thread in fs::read_dir("/proc/self/task")?.flatten() {
        let listed = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(listed.split_whitespace().map(str::to_owned));
    }
    Ok(found)
}

/// Creates a group, unless it exists.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Joins a process's groups with the mounts that hold them.
fn parse(groups: &str, mounts: &str, parent: Option<&str>) -> Vec<Hierarchy> {
    groups
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let version = if controllers.is_empty() { Version::V2 } else { Version::V1 };
            let controllers: Vec<String> =
                controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
            let parent = parent.filter(|_| version == Version::V2);
            let path = parent.unwrap_or(path);
            let own = mounts.lines().find_map(|line| folder(line, version, &controllers, path))?;
            Some(Hierarchy { version, controllers, own, is_parent: parent.is_some() })
        })
        .collect()
}

/// Returns the folder of a group, if this mountinfo line is the mount that holds it.
fn folder(line: &str, version: Version, controllers: &[String], path: &str) -> Option<PathBuf> {
    let (mount, system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, point) = (mount.next()?, mount.next()?);
    let mut system = system.split(' ');
    let (kind, options) = (system.next()?, system.nth(1)?);
    let has = |name: &String| options.split(',').any(|option| option == name);
    let matches = match version {
        Version::V1 => kind == "cgroup" && controllers.iter().all(has),
        Version::V2 => kind == "cgroup2",
    };
    let below = Path::new(path).strip_prefix(root).ok()?;
    matches.then(|| Path::new(point).join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owns(groups: &str, mounts: &str) -> Vec<(Version, String)> {
        parse(groups, mounts, None).into_iter().map(|h| (h.version, h.own.display().to_string())).collect()
    }

    #[test]
    fn a_hybrid_host() {
        let groups = "9:name=systemd:/\n8:pids:/a\n4:cpu,cpuacct:/b/c\n3:memory:/gone\n0::/v\n";
        let mounts = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
35 31 0:32 /docker/x /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
        assert_eq!(
            owns(groups, mounts),
            [
                (Version::V1, "/sys/fs/cgroup/pids/a".to_owned()),
                (Version::V1, "/sys/fs/cgroup/cpu,cpuacct/b/c".to_owned()),
                (Version::V2, "/sys/fs/cgroup/unified/v".to_owned()),
            ],
            "one that is mounted elsewhere is out of reach, and systemd's own has no controller here"
        );
    }

    #[test]
    fn a_host_with_version_2_only() {
        let mounts = "35 24 0:30 /user.slice /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            owns("0::/user.slice/a.service\n", mounts),
            [(Version::V2, "/sys/fs/cgroup/a.service".to_owned())]
        );
        assert_eq!(owns("garbage\n0::/x", "more garbage"), []);
        let named = parse("0::/user.slice/a.service\n", mounts, Some("/user.slice/zones"));
        assert_eq!((named[0].own.as_path(), named[0].is_parent), (Path::new("/sys/fs/cgroup/zones"), true));
        assert_eq!(parse("0::/a\n", mounts, Some("/elsewhere")), [], "a named one that is not mounted here");
    }

    /// A folder that behaves like a version 2 group as far as plain files can.
    #[test]
    fn controllers_are_handed_on() {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("cgroup.subtree_control");
        let hierarchy = Hierarchy {
            version: Version::V2,
            controllers: ["cpu", "memory", "pids"].map(str::to_owned).to_vec(),
            own: dir.path().to_owned(),
            is_parent: false,
        };
        fs::write(&control, "pids\n").unwrap();
        hierarchy.hand_on(&["cpu", "memory", "pids", "io"], "zoneward-agent").unwrap();
        assert_eq!(fs::read_to_string(&control).unwrap(), "+cpu +memory");
        fs::write(&control, "cpu memory pids\n").unwrap();
        hierarchy.hand_on(&["cpu", "memory", "pids", "io"], "zoneward-agent").unwrap();
        assert_eq!(fs::read_to_string(&control).unwrap(), "cpu memory pids\n", "nothing to ask for");
    }
}
