//! A new agent on what the first one wrote.

use zoneward::proto::v1;

use super::support::{disk, machine, simulated::Simulated};

/// The state file in its first version, byte for byte as that agent made it.
const FIRST: &str = r#"
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO meta VALUES ('epoch', '0123456789abcdef');
    CREATE TABLE vm (uuid TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE request (
        id TEXT PRIMARY KEY, digest BLOB NOT NULL, answer TEXT NOT NULL, time INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX request_time ON request (time);
    CREATE TABLE event (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, fact TEXT NOT NULL
    ) STRICT;
    PRAGMA user_version = 1;
"#;

fn record(uuid: &str, state: &str, machine: &str) -> String {
    format!(
        r#"{{"uuid":"{uuid}","generation":7,
        "spec":{{"uuid":"{uuid}","brand":"kvm","autoboot":true,"ram":256,"vcpus":1,"alias":"old","vnc_port":0}},
        "state":"{state}","created":1700000000000,"modified":1700000001000,"machine":{machine},
        "exit":{{"reason":"guest_shutdown","status":0,"time":1700000000500,"detail":""}},"vnc_port":5901}}"#
    )
}

#[tokio::test]
async fn records_events_and_answers_are_understood() {
    let mut agent = Simulated::start().await;
    agent.stop().await;
    let path = agent.config.state_dir.join("state.db");
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(agent.config.state_dir.join(name));
    }
    let (stopped, ran) = ("00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002");
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute_batch(FIRST).unwrap();
    let machine = r#"{"pid":4242,"booted":1700000000900,"accelerator":"tcg","console_start":17}"#;
    for (uuid, state, machine) in [(stopped, "stopped", "null"), (ran, "running", machine)] {
        let text = record(uuid, state, machine);
        file.execute("INSERT INTO vm VALUES (?1, ?2)", [uuid, &text]).unwrap();
        let fact = format!(r#"{{"uuid":"{uuid}","actor":"unix:uid=0","kind":"created","vm":{text}}}"#);
        file.execute("INSERT INTO event (time, fact) VALUES (1700000000000, ?1)", [fact]).unwrap();
        std::fs::create_dir_all(agent.zonepath(uuid).join("root")).unwrap();
        std::fs::create_dir_all(agent.zonepath(uuid).join("uploads")).unwrap();
    }
    drop(file);

    agent.resume().await;
    let mut clients = agent.clients().await;
    let vm = clients.get(stopped).await.unwrap();
    assert_eq!(vm.etag, "g7", "an upgrade changes nothing");
    assert_eq!(vm.spec.unwrap().alias.as_deref(), Some("old"));
    assert_eq!(vm.status.unwrap().exit.unwrap().reason(), v1::ExitReason::GuestShutdown);
    let status = clients.get(ran).await.unwrap().status.unwrap();
    assert_eq!(
        (status.state(), status.exit.unwrap().reason()),
        (v1::VmState::Stopped, v1::ExitReason::Unknown)
    );
    assert_eq!(clients.journal().await.len(), 3, "two creations, and an end");
    for uuid in [stopped, ran] {
        clients.start(uuid).await.unwrap();
        clients.stop(uuid, false).await.unwrap();
    }
    // The next one finds it as any other.
    agent.stop().await;
    agent.resume().await;
    let mut clients = agent.clients().await;
    assert_eq!(clients.state(ran).await, v1::VmState::Stopped);
    clients.delete(ran).await.unwrap();
}

/// Disks that were called `disk0.raw` are called `disk0`, once, wherever an agent was killed while it did that.
#[tokio::test]
async fn disks_get_the_names_that_programs_look_for() {
    use std::os::unix::fs::MetadataExt as _;
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(v1::VmSpec { disks: vec![disk(5), disk(6)], ..machine() }).await;
    let zone = agent.zonepath(&uuid);
    let inode = |name: &str| std::fs::metadata(zone.join(name)).map(|found| found.ino()).ok();
    for cut in ["nowhere", "linked", "committed"] {
        agent.stop().await;
        for name in ["disk0", "disk1"] {
            std::fs::rename(zone.join(name), zone.join(format!("{name}.raw"))).unwrap();
        }
        let (first, second) = (inode("disk0.raw"), inode("disk1.raw"));
        let noted = ["disk0.raw", "disk0", "disk1.raw", "disk1"];
        let file = rusqlite::Connection::open(agent.config.state_dir.join("state.db")).unwrap();
        let text: String = file.query_row("SELECT record FROM vm", [], |row| row.get(0)).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (index, disk) in record["spec"]["disks"].as_array_mut().unwrap().iter_mut().enumerate() {
            let old = if cut == "committed" { "" } else { ".raw" };
            disk["path"] = format!("{}/disk{index}{old}", zone.display()).into();
        }
        if cut != "nowhere" {
            std::fs::hard_link(zone.join("disk0.raw"), zone.join("disk0")).unwrap();
            record["unsettled"] = noted.as_slice().into();
        }
        if cut == "committed" {
            std::fs::hard_link(zone.join("disk1.raw"), zone.join("disk1")).unwrap();
        }
        file.execute("UPDATE vm SET record = ?1", [record.to_string()]).unwrap();
        drop(file);
        agent.resume().await;
        let mut clients = agent.clients().await;
        let vm = clients.get(&uuid).await.unwrap();
        let paths = vm.spec.unwrap().disks.into_iter().map(|disk| disk.path.unwrap()).collect::<Vec<_>>();
        let wanted = ["disk0", "disk1"].map(|name| zone.join(name).display().to_string());
        assert_eq!(paths, wanted, "{cut}");
        assert_eq!((inode("disk0"), inode("disk1")), (first, second), "{cut}: the same files");
        assert_eq!((inode("disk0.raw"), inode("disk1.raw")), (None, None), "{cut}");
        clients.start(&uuid).await.unwrap();
        clients.stop(&uuid, true).await.unwrap();
    }
}
