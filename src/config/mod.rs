//! The configuration: one TOML file, each key with a unit and a default. Each mechanism defines the type of
//! its own section; this module combines them.
//!
//! Later sources win: defaults, the file, `ZONEWARD_*` variables (`ZONEWARD_QEMU__ACCEL` is
//! `qemu.accel`), `--set key=value`.

mod sections;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

pub(crate) use sections::{Brands, Browser, Capacity, Journal, Vnc};
pub use sections::{Log, LogFormat};
use serde::Deserialize;
use toml::{Table, Value};

use crate::{
    auth, console, hypervisor::qemu, layout::Layout, model::places, network, source, spec::forms, zone,
};

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where zones are: `<zones_dir>/<uuid>/root` is what a hypervisor sees as `/`.
    pub zones_dir: PathBuf,
    /// The agent's state file.
    pub state_dir: PathBuf,
    /// Sockets and other files that do not outlive the host's boot.
    pub run_dir: PathBuf,
    /// The host's UUID, which VMs show as server_uuid. Empty: made once, and kept in state_dir.
    pub server_uuid: String,
    /// TCP address of the gRPC endpoint (TLS 1.3, client certificates required). Empty: none.
    pub listen: String,
    /// UNIX socket for the local operator. Default: `<run_dir>/zoneward.sock`.
    pub socket: Option<PathBuf>,
    /// Seconds that streams may go on after a request to stop.
    pub drain_seconds: u64,
    /// VMs with autoboot that start at the same time after a start of the host. 0: none is started.
    pub autoboot_parallel: u32,
    /// The agent's own log.
    pub log: Log,
    /// Certificates.
    pub tls: auth::Settings,
    /// Sandboxes of hypervisors.
    pub zone: zone::Settings,
    /// Which brands VMs may have.
    pub brands: Brands,
    /// QEMU, which runs VMs of both brands.
    pub qemu: qemu::Settings,
    /// VNC endpoints.
    pub vnc: Vnc,
    /// Screens in a browser.
    pub browser: Browser,
    /// Serial consoles.
    pub console: console::Settings,
    /// The journal of events.
    pub journal: Journal,
    /// The host's capacity for VMs.
    pub capacity: Capacity,
    /// Images and their sources.
    pub images: source::Settings,
    /// What interfaces are plugged into.
    pub network: network::Settings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            zones_dir: "/zones".into(),
            state_dir: "/var/lib/zoneward".into(),
            run_dir: places::RUN.into(),
            server_uuid: String::new(),
            listen: String::new(),
            socket: None,
            drain_seconds: 5,
            autoboot_parallel: 4,
            log: Log::default(),
            tls: auth::Settings::default(),
            zone: zone::Settings::default(),
            brands: Brands::default(),
            qemu: qemu::Settings::default(),
            vnc: Vnc::default(),
            browser: Browser::default(),
            console: console::Settings::default(),
            journal: Journal::default(),
            capacity: Capacity::default(),
            images: source::Settings::default(),
            network: network::Settings::default(),
        }
    }
}

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not TOML: {message}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// `--set` without `=`.
    #[error("--set {0}: give key=value, like qemu.accel=tcg")]
    Set(String),
    /// A key or value is wrong.
    #[error("configuration: {0}")]
    Value(String),
}

impl Config {
    /// Reads `file` (if any), then the environment, then `sets`.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        sets: &[String],
    ) -> Result<Self, ConfigError> {
        let mut table = Table::new();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
            table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
                path: path.to_owned(),
                message: error.to_string(),
            })?;
        }
        for (name, value) in environment {
            let Some(key) = name.strip_prefix("ZONEWARD_") else { continue };
            let key = key.to_lowercase().replace("__", ".");
            // These are the client's.
            if !["endpoint", "cert", "key", "ca", "certs", "ignore_unknown", "complete"]
                .contains(&key.as_str())
            {
                set(&mut table, &key, &value)?;
            }
        }
        for word in sets {
            let (key, value) = word.split_once('=').ok_or_else(|| ConfigError::Set(word.clone()))?;
            set(&mut table, key, value)?;
        }
        let config: Self = serde_path_to_error::deserialize(table).map_err(|error| {
            let (key, why) = (error.path().to_string(), error.inner().message());
            ConfigError::Value(if key == "." { why.to_owned() } else { format!("{key}: {why}") })
        })?;
        config.check()
    }

    fn check(self) -> Result<Self, ConfigError> {
        if !self.server_uuid.is_empty()
            && let Err(why) = forms::parse_uuid(&self.server_uuid)
        {
            return Err(ConfigError::Value(format!("server_uuid: {why}")));
        }
        for (key, address) in [("listen", &self.listen), ("browser.listen", &self.browser.listen)] {
            if !address.is_empty() && address.parse::<SocketAddr>().is_err() {
                let text = format!("{key}: {address:?} is not an address like 0.0.0.0:9443");
                return Err(ConfigError::Value(text));
            }
        }
        let plain = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        let is_group = |path: &str| {
            path.len() > 1
                && path.starts_with('/')
                && path.split('/').skip(1).all(|name| !matches!(name, "" | "." | ".."))
        };
        let demands = [
            (self.console.keep_kib >= 64, "console.keep_kib: at least 64"),
            (self.zone.min_overhead >= 0, "zone.min_overhead: at least 0"),
            (self.zone.uid_count >= 1, "zone.uid_count: at least 1"),
            (self.zone.uid_base >= 1, "zone.uid_base: 0 is root"),
            (
                self.zone.uid_base.checked_add(self.zone.uid_count).is_some(),
                "zone.uid_base + zone.uid_count: over the largest user id",
            ),
            (
                [self.capacity.ram_overcommit, self.capacity.vcpu_overcommit, self.capacity.disk_overcommit]
                    .iter()
                    .all(|factor| (0.0..=1e6).contains(factor)),
                "capacity.*_overcommit: a factor from 0 (no limit) to 1000000",
            ),
            ((1..=65536).contains(&self.images.max_gib), "images.max_gib: 1 to 65536"),
            ((1..=3600).contains(&self.images.timeout_seconds), "images.timeout_seconds: 1 to 3600"),
            (
                self.images.proxy.is_empty() || self.images.proxy.contains("://"),
                "images.proxy: a URL like http://proxy:3128",
            ),
            (self.journal.keep_days >= 1, "journal.keep_days: at least 1"),
            (self.journal.keep_mib >= 1, "journal.keep_mib: at least 1"),
            ((1..=3600).contains(&self.browser.link_seconds), "browser.link_seconds: 1 to 3600"),
            (
                self.browser.url.is_empty() || self.browser.url.starts_with("https://"),
                "browser.url: begins with https://",
            ),
            (
                self.browser.listen.is_empty() || !self.listen.is_empty(),
                "browser.listen: needs listen too; links are made over the API, and both have one certificate",
            ),
            (plain(&self.zone.cgroup), "zone.cgroup: letters, digits, - and _"),
            (
                self.zone.cgroup_parent.is_empty() || is_group(&self.zone.cgroup_parent),
                "zone.cgroup_parent: a path in the hierarchy of control groups, like /zones",
            ),
            (
                (1..=4).contains(&self.network.prefix.len())
                    && self.network.prefix.bytes().all(|b| b.is_ascii_lowercase()),
                "network.prefix: 1 to 4 lower-case letters",
            ),
        ];
        if let Some((_, demand)) = demands.iter().find(|(met, _)| !met) {
            return Err(ConfigError::Value((*demand).to_owned()));
        }
        for (name, tag) in &self.network.tags {
            let wrong = |why: &str| Err(ConfigError::Value(format!("network.tags.{name}: {why}")));
            if let Err(why) = forms::nic_tag(name) {
                return wrong(&why);
            }
            // Characters that the kernel accepts in a link's name.
            let link = !tag.link.contains(['/', ':']) && !tag.link.contains(char::is_whitespace);
            match tag.kind.needs_link() {
                true if tag.link.is_empty() => return wrong("link: the host's link is required"),
                false if !tag.link.is_empty() => return wrong("link: this kind has none"),
                _ if tag.link.len() > 15 || !link => return wrong("link: not a link's name"),
                _ => {}
            }
            if !(576..=9000).contains(&tag.mtu) {
                return wrong("mtu: 576 to 9000");
            }
        }
        Ok(self)
    }

    /// The agent's folders.
    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout::new(&self.zones_dir, &self.state_dir, &self.run_dir).with_images(self.images.dir.clone())
    }

    /// Where the local operator's socket is.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.run_dir.join("zoneward.sock"))
    }
}

/// Sets a dotted key. Text that is TOML (a number, `true`) is taken as that, else as a string.
fn set(table: &mut Table, key: &str, text: &str) -> Result<(), ConfigError> {
    let value = format!("v = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("v"))
        .filter(|value| !matches!(value, Value::Datetime(_)))
        .unwrap_or_else(|| Value::String(text.to_owned()));
    let mut at = table;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            at.insert(part.to_owned(), value);
            return Ok(());
        }
        at = at
            .entry(part)
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .ok_or_else(|| ConfigError::Value(format!("{key}: {part} is not a section")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, env: &[(&str, &str)], sets: &[&str]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, file).unwrap();
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Config::load(Some(&path), env, &sets.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn later_sources_win() {
        let config = load(
            "zones_dir = \"/a\"\nstate_dir = \"/s\"\nlisten = \"127.0.0.1:1\"\n[qemu]\naccel = \"kvm\"",
            &[
                ("ZONEWARD_ZONES_DIR", "/b"),
                ("ZONEWARD_QEMU__ACCEL", "tcg"),
                ("ZONEWARD_ENDPOINT", "x"),
                ("ZONEWARD_IGNORE_UNKNOWN", "1"),
                ("HOME", "/"),
            ],
            &["zones_dir=/c", "console.keep_kib=128"],
        )
        .unwrap();
        assert_eq!(config.zones_dir, Path::new("/c"));
        assert_eq!(config.state_dir, Path::new("/s"));
        assert_eq!(config.qemu.accel, qemu::Accel::Tcg);
        assert_eq!(config.console.keep_kib, 128);
        assert_eq!(config.socket_path(), Path::new("/run/zoneward/zoneward.sock"));
    }

    /// The example says every key, and says its default.
    #[test]
    fn the_example_file_is_the_defaults() {
        let example = include_str!("../../dist/zoneward.toml");
        let config = load(example, &[], &[]).unwrap();
        let default = Config { socket: Some("/run/zoneward/zoneward.sock".into()), ..Config::default() };
        assert_eq!(format!("{config:?}"), format!("{default:?}"));
        let keys = example.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')).count();
        // Less twelve sections; zone.level, zone.limits and images.dir, which have no default; and the table of tags.
        assert_eq!(keys, format!("{default:?}").matches(": ").count() - 16, "every key stands there");
    }

    #[test]
    fn mistakes_are_named() {
        let text = |result: Result<Config, ConfigError>| result.unwrap_err().to_string();
        assert!(text(load("zone_dir = \"/a\"", &[], &[])).contains("zone_dir"));
        assert!(text(load("[qemu]\naccel = \"fast\"", &[], &[])).contains("fast"));
        let list = text(load("", &[], &["qemu.firmware_dirs=/usr/share/OVMF"]));
        assert!(list.contains("qemu.firmware_dirs: ") && list.contains("expected a sequence"), "{list}");
        assert!(text(load("listen = \"here\"", &[], &[])).contains("listen"));
        assert!(text(load("", &[], &["listen"])).contains("--set listen"));
        assert!(text(load("a = ", &[], &[])).contains("is not TOML"));
        assert!(text(load("console.keep_kib = 1", &[], &[])).contains("at least 64"));
        assert!(text(load("zone.uid_base = 0", &[], &[])).contains("0 is root"));
        assert!(text(load("zone.uid_base = 4294967295", &[], &[])).contains("over the largest"));
        assert!(text(load("zone.cgroup = \"a/b\"", &[], &[])).contains("zone.cgroup"));
        for wrong in ["a", "/", "/a/", "/../a", "/a//b"] {
            let wrong = format!("zone.cgroup_parent = {wrong:?}");
            assert!(text(load(&wrong, &[], &[])).contains("zone.cgroup_parent"), "{wrong}");
        }
        assert!(load("zone.cgroup_parent = \"/a.slice/b.service\"", &[], &[]).is_ok());
        assert!(text(load("browser.listen = \"9444\"", &[], &[])).contains("browser.listen"));
        assert!(text(load("browser.listen = \"127.0.0.1:1\"", &[], &[])).contains("needs listen too"));
        assert!(text(load("browser.url = \"http://a\"", &[], &[])).contains("https://"));
        assert!(text(load("browser.link_seconds = 0", &[], &[])).contains("1 to 3600"));
        assert!(text(load("zone.limits = \"some\"", &[], &[])).contains("best-effort"));
        assert!(text(load("network.prefix = \"a-b\"", &[], &[])).contains("network.prefix"));
        let tag = |words: &str| text(load(&format!("[network.tags.lan]\n{words}"), &[], &[]));
        assert!(tag("kind = \"hub\"").contains("etherstub"));
        assert!(tag("kind = \"bridge\"").contains("network.tags.lan: link"));
        assert!(tag("kind = \"etherstub\"\nlink = \"br0\"").contains("this kind has none"));
        assert!(tag("kind = \"bridge\"\nlink = \"a/b\"").contains("not a link's name"));
        assert!(tag("kind = \"etherstub\"\nmtu = 100").contains("576"));
    }
}
