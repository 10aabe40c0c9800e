//! The real agent, as a process of its own, with real QEMU and a real guest.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Mutex, OnceLock},
    time::Duration,
};

use tempfile::TempDir;

use super::{Clients, connect_unix, eventually, ignored::ignore};

const ZONEWARD: &str = env!("CARGO_BIN_EXE_zoneward");
const VMADM: &str = env!("CARGO_BIN_EXE_vmadm");
const IMGADM: &str = env!("CARGO_BIN_EXE_imgadm");

/// The folder with the test guest, built when its inputs changed.
pub(crate) fn guest() -> &'static Path {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| {
        let out = target().join("guest");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/build.sh");
        let status = Command::new(script).arg(&out).status().expect("tests/guest/build.sh");
        assert!(status.success(), "the guest could not be built; `make test` installs what that needs");
        out
    })
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    Path::new(ZONEWARD).ancestors().nth(2).expect("target folder").to_owned()
}

/// Words before a program that make it see the newer QEMU as the machine's: laid over its /usr, for it alone. `None` if
/// that can't be done here.
pub(crate) fn with_newer_qemu() -> Option<Vec<String>> {
    static TREE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let unpacked = || {
        if !rustix::process::geteuid().is_root() {
            ignore("not root; a newer QEMU can't be laid over /usr");
            return None;
        }
        let out = target().join("newer-qemu");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/newer-qemu.sh");
        let output = Command::new(script).arg(&out).output().expect("tests/guest/newer-qemu.sh");
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => Some(out.join("usr")),
            Some(3) => {
                ignore(&said);
                None
            }
            _ => panic!("the newer QEMU could not be unpacked: {said}"),
        }
    };
    let tree = TREE.get_or_init(unpacked).as_ref()?;
    let lay = format!("mount -t overlay overlay -o lowerdir={}:/usr /usr && exec \"$@\"", tree.display());
    Some(["unshare", "--mount", "sh", "-c", &lay, "sh"].map(str::to_owned).into())
}

/// Whether all agents are to have the newer QEMU.
const NEWER: &str = "NEWER_QEMU";

/// An agent's folders, and the agent that has them now.
pub(crate) struct Real {
    pub(crate) dir: TempDir,
    wrapper: Vec<String>,
    sets: Vec<String>,
    agent: Option<Child>,
    /// What it may warn of.
    tolerated: Mutex<Vec<&'static str>>,
}

impl Real {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(sets: &[&str]) -> Self {
        Self::start_wrapped(&[], sets).await
    }

    /// The agent is what `wrapper` becomes.
    pub(crate) async fn start_wrapped(wrapper: &[&str], sets: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut all: Vec<String> = ["zones", "state", "run"]
            .iter()
            .map(|name| format!("{name}_dir={}", dir.path().join(name).display()))
            .collect();
        all.push(format!("zone.cgroup={}", group_name(&dir)));
        // Links of the host are made where a test says so, in a network namespace of its own.
        all.push("network.tags.admin.kind=isolated".to_owned());
        // What CI machines can run; the probe of KVM has tests of its own.
        all.push("qemu.accel=tcg".to_owned());
        all.extend(sets.iter().map(|set| (*set).to_owned()));
        let mut wrapper: Vec<String> = wrapper.iter().map(|word| (*word).to_owned()).collect();
        if std::env::var_os(NEWER).is_some() {
            wrapper.extend(with_newer_qemu().expect("a newer QEMU, which was asked for"));
        }
        let mut real = Self { dir, wrapper, sets: all, agent: None, tolerated: Mutex::default() };
        real.resume().await;
        real
    }

    /// The next agent is what these words become.
    pub(crate) fn wrap(&mut self, wrapper: Vec<String>) {
        self.wrapper = wrapper;
    }

    /// The test provokes these warnings and errors; any other in the agent's log fails it.
    pub(crate) fn tolerate(&self, texts: &[&'static str]) {
        self.tolerated.lock().expect("not poisoned").extend(texts);
    }

    /// How its control groups are called.
    pub(crate) fn name(&self) -> String {
        group_name(&self.dir)
    }

    /// The program with these folders.
    pub(crate) fn zoneward(&self) -> Command {
        let mut words = self.wrapper.iter().map(String::as_str).chain([ZONEWARD]);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words);
        for set in &self.sets {
            command.args(["--set", set]);
        }
        command.env_remove("RUST_LOG").env("CRASH_POINTS", self.crash_points());
        command
    }

    /// Starts an agent on the folders that are there.
    pub(crate) async fn resume(&mut self) {
        self.begin_resume();
        eventually("the agent serves", || {
            let serves = std::os::unix::net::UnixStream::connect(self.socket()).is_ok();
            async move { serves.then_some(()) }
        })
        .await;
    }

    /// The same, without waiting until it serves.
    pub(crate) fn begin_resume(&mut self) {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(self.log_path()).expect("log");
        let _ = std::fs::remove_file(self.socket());
        let child = self
            .zoneward()
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("agent");
        self.agent = Some(child);
    }

    /// Where a test says at which point the agent is killed; see `src/crash.rs`.
    pub(crate) fn crash_points(&self) -> PathBuf {
        self.dir.path().join("crash")
    }

    /// The agent's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.agent.as_ref().expect("running").id()
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.path().join("agent.log")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("run/zoneward.sock")
    }

    pub(crate) fn root(&self, uuid: &str) -> PathBuf {
        self.dir.path().join("zones").join(uuid).join("root")
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut agent = self.agent.take().expect("running");
        agent.kill().expect("killed");
        agent.wait().expect("reaped");
    }

    /// Waits until the agent has ended by itself; false when it does not.
    pub(crate) async fn has_died(&mut self, patience: Duration) -> bool {
        let agent = self.agent.as_mut().expect("running");
        let deadline = tokio::time::Instant::now() + patience;
        while agent.try_wait().expect("waited").is_none() {
            if tokio::time::Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }

    /// SIGTERM, and the exit status.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let mut agent = self.agent.take().expect("running");
        let pid = rustix::process::Pid::from_child(&agent);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal");
        agent.wait().expect("reaped")
    }

    pub(crate) async fn clients(&self) -> Clients {
        Clients::new(connect_unix(self.socket()).await)
    }

    /// The operator's command, on the local socket.
    pub(crate) fn vmadm_command(&self) -> Command {
        let mut command = Command::new(VMADM);
        command.env("ZONEWARD_ENDPOINT", format!("unix:{}", self.socket().display()));
        command
    }

    pub(crate) fn vmadm(&self, words: &[&str]) -> Output {
        self.vmadm_with(words, "")
    }

    pub(crate) fn vmadm_with(&self, words: &[&str], input: &str) -> Output {
        run_with(self.vmadm_command().args(words), input)
    }

    /// Runs the command for images.
    pub(crate) fn imgadm(&self, words: &[&str]) -> Output {
        let mut command = Command::new(IMGADM);
        command.env("ZONEWARD_ENDPOINT", format!("unix:{}", self.socket().display()));
        run_with(command.args(words), "")
    }

    /// The same; it must succeed.
    pub(crate) fn imgadm_ok(&self, words: &[&str]) -> (String, String) {
        ok(words, self.imgadm(words))
    }

    /// As [`Self::vmadm`]; the command must succeed. Gives what it printed, data first.
    pub(crate) fn vmadm_ok(&self, words: &[&str]) -> (String, String) {
        ok(words, self.vmadm(words))
    }
}

/// Two agents must not share names.
fn group_name(dir: &TempDir) -> String {
    let name = dir.path().file_name().expect("a name").to_string_lossy();
    format!("zoneward-test-{}", name.trim_start_matches('.'))
}

pub(crate) fn run_with(command: &mut Command, input: &str) -> Output {
    use std::io::Write as _;
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawned");
    // The command may not care for its input.
    let _ = child.stdin.take().expect("stdin").write_all(input.as_bytes());
    child.wait_with_output().expect("finished")
}

pub(crate) fn ok(words: &[&str], output: Output) -> (String, String) {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "vmadm {words:?}: {}\n{stdout}{stderr}", output.status);
    (stdout, stderr)
}

impl Drop for Real {
    /// Leaves nothing running: the agent first, then each hypervisor by what the launcher wrote.
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        self.end_hypervisors();
        let left = left_in(&self.name());
        if std::thread::panicking() {
            eprintln!("--- the agent's log\n{}", self.log());
        } else if env!("CARGO_CRATE_NAME") == "guest" {
            let unexpected = self.unexpected();
            assert!(unexpected.is_empty(), "the agent warns of:\n{}", unexpected.join("\n"));
            assert!(left.is_empty(), "the test leaves behind:\n{}", left.join("\n"));
        }
    }
}

impl Real {
    /// Lines of the log that need an operator, and that no test asked for.
    fn unexpected(&self) -> Vec<String> {
        let tolerated = self.tolerated.lock().expect("not poisoned");
        let is_loud = |line: &&str| line.contains(" WARN ") || line.contains("ERROR ");
        let log = self.log();
        let loud = log.lines().filter(is_loud).map(str::to_owned);
        loud.filter(|line| !tolerated.iter().any(|text| line.contains(text))).collect()
    }

    fn end_hypervisors(&self) {
        let Ok(folders) = std::fs::read_dir(self.dir.path().join("run")) else { return };
        for folder in folders.flatten() {
            let _groups = Groups(folder.path().join("cgroup.json"));
            let Ok(Some(identity)) =
                zoneward::internals::zone::identity::Identity::read(&folder.path().join("process.json"))
            else {
                continue;
            };
            let Some(pid) = rustix::process::Pid::from_raw(identity.pid) else { continue };
            let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
                continue;
            };
            if zoneward::internals::zone::identity::Identity::of(identity.pid)
                .is_ok_and(|found| found == identity)
            {
                let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
            }
        }
    }
}

/// The processes in groups of that name, once those that were killed are gone.
fn left_in(name: &str) -> Vec<String> {
    let all = || {
        let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|folder| folder.path());
        let text = |path: PathBuf| std::fs::read(path).unwrap_or_default();
        let within = |path: &PathBuf| String::from_utf8_lossy(&text(path.join("cgroup"))).contains(name);
        let named = |path: PathBuf| {
            let command = String::from_utf8_lossy(&text(path.join("cmdline"))).replace('\0', " ");
            format!("{}: {command}", path.display())
        };
        folders.filter(within).map(named).collect::<Vec<_>>()
    };
    for _ in 0..200 {
        if all().is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    all()
}

/// Control groups that are removed when what is in them is gone.
struct Groups(PathBuf);

impl Drop for Groups {
    fn drop(&mut self) {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let groups: Vec<PathBuf> = serde_json::from_str(&text).unwrap_or_default();
        for group in groups {
            // A launcher whose agent was killed just then.
            let _ = std::fs::write(group.join("cgroup.kill"), "1");
            for _ in 0..200 {
                match std::fs::remove_dir(&group) {
                    Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    _ => break,
                }
            }
        }
    }
}

/// Waits a moment; only for what must *not* happen.
pub(crate) async fn moment() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}
