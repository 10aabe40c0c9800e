//! A network namespace of a test's own, and guests on it.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use zoneward::proto::v1;

use super::{
    Clients, eventually,
    ignored::ignore,
    real::{Real, guest, ok, run_with},
};

/// Lives as long as this, the agent in it, and its guests.
pub(crate) struct Net {
    holder: Child,
}

impl Net {
    /// None where none can be made, which is said.
    pub(crate) async fn new() -> Option<Self> {
        let own = std::fs::read_link("/proc/self/ns/net").expect("namespaces");
        let holder = Command::new("unshare")
            .args(["--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare");
        let mut net = Self { holder };
        let path = format!("/proc/{}/ns/net", net.holder.id());
        let entered = eventually("a network namespace", || {
            let ended = net.holder.try_wait().expect("waited").is_some();
            let there = std::fs::read_link(&path).is_ok_and(|link| link != own);
            async move { (ended || there).then_some(!ended) }
        })
        .await;
        if !entered {
            ignore("network namespaces can't be made here (not root?)");
            return None;
        }
        net.ok(&["ip", "link", "set", "lo", "up"]);
        Some(net)
    }

    /// What programs that move links into it call it.
    pub(crate) fn pid(&self) -> String {
        self.holder.id().to_string()
    }

    fn words(&self) -> [String; 5] {
        ["nsenter".into(), "--target".into(), self.pid(), "--net".into(), "--".into()]
    }

    /// A program in it.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let [program, rest @ ..] = self.words();
        let mut command = Command::new(program);
        command.args(rest).args(words);
        command
    }

    /// Runs a program in it that must succeed; what it printed.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        ok(words, run_with(&mut self.command(words), "")).0
    }

    /// An agent in it, with the etherstub `lan` and what else is set.
    pub(crate) async fn agent(&self, sets: &[&str]) -> Real {
        let words = self.words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let sets: Vec<&str> = ["network.tags.lan.kind=etherstub"].iter().chain(sets).copied().collect();
        Real::start_wrapped(&words, &sets).await
    }

    /// Names of the links in it but its own.
    pub(crate) fn links(&self) -> Vec<String> {
        let listed: Value = serde_json::from_str(&self.ok(&["ip", "-j", "link"])).expect("JSON");
        let names = listed
            .as_array()
            .expect("links")
            .iter()
            .map(|link| link["ifname"].as_str().expect("name").to_owned());
        names.filter(|name| name != "lo").collect()
    }

    /// The name of the only link of a kind in it.
    pub(crate) fn link_of_kind(&self, kind: &str) -> String {
        let listed: Value =
            serde_json::from_str(&self.ok(&["ip", "-j", "link", "show", "type", kind])).expect("JSON");
        let names = listed.as_array().expect("links").iter().filter_map(|link| link["ifname"].as_str());
        let [name] = names.collect::<Vec<_>>()[..] else { panic!("{kind}: {listed}") };
        name.to_owned()
    }

    /// All rules in it.
    pub(crate) fn rules(&self) -> String {
        self.ok(&["nft", "list", "ruleset"])
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A guest with a shell on its console.
pub(crate) struct Guest {
    pub(crate) uuid: String,
    clients: Clients,
    offset: i64,
}

impl Guest {
    /// Boots the test guest as this machine, to its shell.
    pub(crate) async fn boot(agent: &Real, machine: Value) -> Self {
        let files = [guest().join("tiny.iso")];
        let mut guest = Self::boot_from(agent, machine, &files, &["order=d", "cdrom=/tiny.iso,ide"]).await;
        guest.until("/ # ").await;
        guest
    }

    /// Boots what is in these files.
    pub(crate) async fn boot_from(agent: &Real, machine: Value, files: &[PathBuf], options: &[&str]) -> Self {
        let mut machine = machine;
        for (key, value) in [("brand", json!("kvm")), ("autoboot", json!(false)), ("ram", json!(256))] {
            machine.as_object_mut().expect("a machine").entry(key).or_insert(value);
        }
        let created = run_with(agent.vmadm_command().arg("create"), &machine.to_string());
        let (_, said) = ok(&["create"], created);
        let uuid = said.trim().rsplit(' ').next().expect("a UUID").to_owned();
        for file in files {
            let to = agent.root(&uuid).join(file.file_name().expect("a name"));
            std::fs::copy(file, to).expect("copied");
        }
        agent.vmadm_ok(&[&["boot", uuid.as_str()], options].concat());
        Self { uuid, clients: agent.clients().await, offset: 0 }
    }

    /// Types a line.
    pub(crate) fn type_line(&self, agent: &Real, line: &str) {
        ok(&["console"], agent.vmadm_with(&["console", &self.uuid], &format!("{line}\n")));
    }

    /// Waits until its console shows something; what it showed since the last wait.
    pub(crate) async fn until(&mut self, wanted: &str) -> String {
        let seen;
        (seen, self.offset) = self.clients.console_until(&self.uuid, self.offset, wanted).await;
        seen
    }

    /// Types a line and waits for what comes of it.
    pub(crate) async fn run(&mut self, agent: &Real, line: &str, wanted: &str) -> String {
        self.type_line(agent, line);
        self.until(wanted).await
    }

    /// Changes it.
    pub(crate) fn update(&self, agent: &Real, change: &Value) {
        let words = ["update", &self.uuid];
        ok(&words, agent.vmadm_with(&words, &change.to_string()));
    }

    /// It as the agent knows it, after an agent may have been restarted.
    pub(crate) async fn phases(&self, agent: &Real) -> Vec<v1::BootPhase> {
        let mut clients = agent.clients().await;
        let events = clients.journal().await;
        let boots = events.into_iter().filter(|event| event.uuid == self.uuid);
        boots
            .filter_map(|event| match event.kind {
                Some(v1::event::Kind::Boot(phase)) => Some(phase),
                _ => None,
            })
            .collect()
    }

    /// Looks at another VM from now on, which has just been booted.
    pub(crate) fn become_another(&mut self, uuid: &str) {
        (self.uuid, self.offset) = (uuid.to_owned(), 0);
    }

    /// The agent was restarted: asks the new one from now on.
    pub(crate) async fn reconnect(&mut self, agent: &Real) {
        self.clients = agent.clients().await;
    }
}
