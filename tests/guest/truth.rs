//! What must hold whenever an agent serves, whatever was done to it before.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use uuid::Uuid;
use zoneward::proto::v1;

use super::support::{Clients, eventually, real::Real};

/// What lies in a folder; nothing when it is not there.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

async fn vms(clients: &mut Clients) -> Vec<v1::Vm> {
    clients.vms.list_vms(v1::ListVmsRequest::default()).await.unwrap().into_inner().vms
}

/// Nothing is on the host but what VMs that run have; gives their processes.
pub(crate) async fn check_host(what: &str, agent: &Real, clients: &mut Clients) -> BTreeMap<String, i32> {
    let leaks = clients.host.list_leaks(v1::ListLeaksRequest::default()).await.unwrap().into_inner().leaks;
    assert_eq!(leaks, [], "{what}: leaks");
    // Asked again each time: the agent may be about to start one.
    let (all, run) =
        eventually(&format!("{what}: what runs has processes, groups and files, and nothing else"), || {
            let mut clients = clients.clone();
            async move {
                let all = vms(&mut clients).await;
                let run = processes(&all);
                let same = processes_of(&agent.name()) == run.clone().into_iter().collect::<Vec<_>>();
                (same && processes_in(&agent.dir.path().join("run")) == run.keys().cloned().collect())
                    .then_some((all, run))
            }
        })
        .await;
    let zones: BTreeSet<String> =
        files(&agent.dir.path().join("zones")).iter().map(|path| name(path)).collect();
    assert_eq!(zones, all.into_iter().map(|vm| vm.uuid).collect(), "{what}: zones");
    run
}

/// The VMs that run, with their processes.
pub(crate) async fn running(clients: &mut Clients) -> BTreeMap<String, i32> {
    processes(&vms(clients).await)
}

fn processes(all: &[v1::Vm]) -> BTreeMap<String, i32> {
    all.iter().filter_map(|vm| Some((vm.uuid.clone(), vm.status.as_ref()?.pid?))).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// The VMs whose folder of the run names a process.
fn processes_in(folder: &Path) -> BTreeSet<String> {
    let names = files(folder).into_iter().filter(|folder| folder.join("process.json").exists());
    names.map(|folder| name(&folder)).filter(|name| Uuid::try_parse(name).is_ok()).collect()
}

/// Every control group of an agent's VMs in any hierarchy, with the process that is in it; 0 for none.
fn processes_of(name: &str) -> Vec<(String, i32)> {
    let prefix = format!("{name}-");
    let mut found = BTreeSet::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let group = entry.file_name().to_string_lossy().into_owned();
            if let Some(uuid) = group.strip_prefix(&prefix).filter(|rest| Uuid::try_parse(rest).is_ok()) {
                let processes =
                    std::fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
                let pid = processes.lines().next().and_then(|line| line.parse().ok()).unwrap_or(0);
                found.insert((uuid.to_owned(), pid));
            }
            folders.push(entry.path());
        }
    }
    found.into_iter().collect()
}

/// Numbers without a gap; of each VM each generation once, from its creation on; and the end is how it is.
pub(crate) async fn check_journal(what: &str, clients: &mut Clients) {
    let generation = |vm: &v1::Vm| -> u64 { vm.etag.trim_start_matches('g').parse().unwrap() };
    let state = |vm: &v1::Vm| vm.status.as_ref().unwrap().state();
    let (mut told, mut runs): (BTreeMap<String, v1::Vm>, BTreeMap<String, u32>) = Default::default();
    // Read while nothing changed: the agent may be about to start one.
    let (events, now) = eventually(&format!("{what}: a moment in which nothing changes"), || {
        let mut clients = clients.clone();
        async move {
            let before = vms(&mut clients).await;
            let events = clients.journal().await;
            let now = vms(&mut clients).await;
            (before == now).then_some((events, now))
        }
    })
    .await;
    for (index, event) in events.into_iter().enumerate() {
        assert_eq!(event.sequence, i64::try_from(index).unwrap() + 1, "{what}: a gap");
        match event.kind.unwrap() {
            v1::event::Kind::Created(created) => {
                let before = told.insert(event.uuid.clone(), created.vm.unwrap());
                assert_eq!(before, None, "{what}: created twice");
            }
            v1::event::Kind::Modified(modified) => {
                let before = told.get_mut(&event.uuid).expect("created before");
                let vm = modified.vm.unwrap();
                assert_eq!(generation(before) + 1, generation(&vm), "{what}: an event is missing or double");
                if (state(before), state(&vm)) == (v1::VmState::Starting, v1::VmState::Running) {
                    assert_eq!(runs.remove(&event.uuid), Some(1), "{what}: RUNNING is told once for a boot");
                }
                *before = vm;
            }
            v1::event::Kind::Deleted(_) => {
                told.remove(&event.uuid).unwrap_or_else(|| panic!("{what}: deleted twice"));
            }
            v1::event::Kind::Boot(reached) if reached.phase() == v1::boot_phase::Phase::Running => {
                *runs.entry(event.uuid).or_default() += 1;
            }
            _ => {}
        }
    }
    let now: BTreeMap<String, v1::Vm> = now.into_iter().map(|vm| (vm.uuid.clone(), vm)).collect();
    assert_eq!(told, now, "{what}: the journal's end is how it is");
}
