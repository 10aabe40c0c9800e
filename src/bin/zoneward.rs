//! The agent.

use std::{
    io::{IsTerminal as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{
    Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use rustix::{
    fs::Mode,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use zoneward::internals::{
    agent::Agent,
    api,
    auth::{Files, Listeners, Role, ScreenLinks, Tls, pki::Pki},
    boot::{Platform, this_host_boot},
    browser::{self, Browser},
    config::{Config, Log, LogFormat},
    doctor::{self, Verdict},
    hypervisor::qemu::Qemu,
    network::linux::LinuxLinks,
    probe,
    storage::FileVolumes,
    zone::{self, Zone as _, launcher, linux::LinuxZone, sandbox::Mechanism},
};

/// The agent of a VM host.
#[derive(Debug, Parser)]
#[command(name = "zoneward", version)]
struct Arguments {
    /// The configuration file (TOML) [default: /etc/zoneward/zoneward.toml if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set a key of the configuration, like qemu.accel=tcg
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent
    Serve,
    /// Make certificates for development and small sites
    Pki {
        #[command(subcommand)]
        action: PkiAction,
    },
    /// Report what this host can do, and how to fix what it can't
    Doctor,
    /// Run a hostile program in a real zone, and print what stopped each of its acts
    ///
    /// Each act runs in a process of its own, in the hypervisor's place, after everything is in force. The
    /// exit status is not 0 if anything forbidden succeeded.
    Probe {
        /// Leave these out of the zone to see their effect; no VM ever gets such a zone
        #[arg(long, value_parser = mechanism(), value_delimiter = ',', value_name = "MECHANISM", conflicts_with = "vm")]
        without: Vec<Mechanism>,
        /// Run in the zone of this VM, which must be running; what would harm the VM is left out
        #[arg(long, value_name = "UUID")]
        vm: Option<uuid::Uuid>,
    },
}

#[derive(Debug, Subcommand)]
enum PkiAction {
    /// Make a CA, the agent's certificate, and one for an admin
    Init {
        /// Folder of the certificates
        #[arg(long, default_value = "certs")]
        dir: PathBuf,
        /// Names and addresses of the agent, besides localhost
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
        /// Days that certificates are valid
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
    /// Make a client's certificate
    Issue {
        /// Folder of the certificates
        #[arg(long, default_value = "certs")]
        dir: PathBuf,
        /// viewer, operator or admin
        #[arg(long)]
        role: Role,
        /// The client's name, also of the files
        #[arg(long)]
        name: String,
        /// Days that the certificate is valid
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
    /// Put a client's certificate on the revocation list
    Revoke {
        /// Folder of the certificates
        #[arg(long, default_value = "certs")]
        dir: PathBuf,
        /// The client's name
        #[arg(long)]
        name: String,
    },
}

fn mechanism() -> impl TypedValueParser<Value = Mechanism> {
    let names = Mechanism::ALL.iter().map(|mechanism| mechanism.as_str());
    let find = |name: String| Mechanism::ALL.iter().copied().find(|mechanism| mechanism.as_str() == name);
    PossibleValuesParser::new(names).try_map(move |name| find(name).ok_or("unknown mechanism"))
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    // Before anything else: the launcher must have one thread.
    if std::env::args_os().nth(1).is_some_and(|word| word == launcher::SUBCOMMAND) {
        return ExitCode::from(launcher::run());
    }
    if std::env::args_os().nth(1).is_some_and(|word| word == zone::LOGGER) {
        return ExitCode::from(zone::log());
    }
    if std::env::args_os().nth(1).is_some_and(|word| word == probe::SUBCOMMAND) {
        return ExitCode::from(probe::act(&std::env::args().skip(2).collect::<Vec<_>>()));
    }
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("zoneward: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, AnyError> {
    let default = Path::new("/etc/zoneward/zoneward.toml");
    let file = arguments.config.clone().or_else(|| default.exists().then(|| default.to_owned()));
    // Variables that are not UTF-8 are not ours.
    let words = std::env::vars_os();
    let words = words.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = Config::load(file.as_deref(), words, &arguments.set)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match arguments.command {
        Command::Serve => runtime.block_on(serve(config)).map(|()| ExitCode::SUCCESS),
        Command::Doctor => runtime.block_on(examine(&config)),
        Command::Probe { without, vm } => runtime.block_on(attempt_all(&config, &without, vm)),
        Command::Pki { action } => manage(&config, action).map(|()| ExitCode::SUCCESS),
    }
}

/// As many descriptors as this user may have: connections, disks and consoles need them.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
}

fn begin_log(log: &Log) -> Result<(), AnyError> {
    let filter = match EnvFilter::try_from_default_env() {
        Ok(filter) => filter,
        Err(_) => EnvFilter::try_new(&log.filter).map_err(|error| format!("log.filter: {error}"))?,
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

async fn serve(config: Config) -> Result<(), AnyError> {
    begin_log(&config.log)?;
    raise_descriptors();
    let host_boot = this_host_boot()?;
    let layout = config.layout();
    let kvm = Qemu::new(config.qemu.clone()).remembering(layout.kvm_verdict(), &host_boot);
    let platform = Platform {
        zone: Arc::new(zone_of(&config)),
        kvm: Arc::new(kvm),
        volumes: Arc::new(FileVolumes),
        links: Arc::new(LinuxLinks::new(&config.network, &layout)),
        host_boot,
    };
    let tls = load_tls(&config)?;
    // Adopts an earlier agent's VMs before any client can call.
    let agent = Agent::start(config.clone(), platform).await?;
    let served = serve_agent(&agent, &config, tls).await;
    // Accepted work continues as long as streams may, also if the agent could not serve.
    let drain = Duration::from_secs(config.drain_seconds);
    if tokio::time::timeout(drain, agent.stop()).await.is_err() {
        tracing::warn!("work was still under way; the next start finishes it");
    }
    served
}

fn zone_of(config: &Config) -> LinuxZone {
    LinuxZone::new(config.zone.clone(), &config.layout(), config.console.keep_kib << 10)
}

async fn serve_agent(
    agent: &Agent,
    config: &Config,
    tls: Option<(SocketAddr, Arc<Tls>)>,
) -> Result<(), AnyError> {
    let tcp = match tls {
        None => None,
        Some((address, tls)) => {
            let listener =
                TcpListener::bind(address).await.map_err(|error| format!("listen {address}: {error}"))?;
            tracing::info!(address = %listener.local_addr()?, "serving TLS");
            Some((listener, tls))
        }
    };
    let stop = CancellationToken::new();
    let links = match &tcp {
        Some((_, tls)) if !config.browser.listen.is_empty() => {
            Some(serve_browser(agent, tls.clone(), stop.clone()).await?)
        }
        _ => None,
    };
    let socket = config.socket_path();
    let unix = Some(bind_socket(&socket)?);
    tracing::info!(socket = %socket.display(), "serving");

    tokio::spawn(handle_signals(stop.clone(), tcp.as_ref().map(|(_, tls)| tls.clone())));
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    if let Some(period) = sd_notify::watchdog_enabled() {
        tokio::spawn(feed_watchdog(period / 3));
    }
    api::serve(agent.clone(), Listeners { unix, tcp, links }, stop).await?;
    let _ = std::fs::remove_file(&socket);
    tracing::info!("stopped; guests go on");
    Ok(())
}

fn load_tls(config: &Config) -> Result<Option<(SocketAddr, Arc<Tls>)>, AnyError> {
    if config.listen.is_empty() {
        return Ok(None);
    }
    let address = config.listen.parse()?;
    Ok(Some((address, Tls::load(Files::new(&config.tls), config.tls.trust_domain.clone())?)))
}

/// Shows screens in browsers that have a link.
async fn serve_browser(
    agent: &Agent,
    tls: Arc<Tls>,
    stop: CancellationToken,
) -> Result<Arc<ScreenLinks>, AnyError> {
    let config = &agent.config().browser;
    if !config.novnc.join("core/rfb.js").exists() {
        let folder = config.novnc.display();
        return Err(
            format!("browser.novnc: there is no noVNC in {folder}; dist/install-novnc.sh gets it").into()
        );
    }
    let listener = TcpListener::bind(&config.listen)
        .await
        .map_err(|error| format!("browser.listen {}: {error}", config.listen))?;
    let base = match config.url.as_str() {
        "" => format!("https://{}", listener.local_addr()?),
        url => url.to_owned(),
    };
    tracing::info!(address = %listener.local_addr()?, "serving browsers");
    let links = Arc::new(ScreenLinks::new(&base, Duration::from_secs(config.link_seconds.into())));
    tokio::spawn(browser::serve(Browser::new(agent.clone(), links.clone(), tls), listener, stop));
    Ok(links)
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Binds the local operator's socket, which only its owner can use. An existing one is an earlier agent's: a
/// live agent would hold the lock of the state folder.
fn bind_socket(path: &Path) -> Result<UnixListener, AnyError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("{}: {error}", path.display()).into());
        }
        _ => {}
    }
    // The socket has its mode from the start, without changing the umask of other threads.
    let bind = || -> std::io::Result<UnixListener> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        UnixListener::from_std(socket.into())
    };
    Ok(bind().map_err(|error| format!("{}: {error}", path.display()))?)
}

/// SIGTERM and SIGINT stop the agent, not its guests. SIGHUP reads the certificates again.
async fn handle_signals(stop: CancellationToken, tls: Option<Arc<Tls>>) {
    let signals =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = signals else {
        tracing::error!("signals can't be handled");
        return;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => match tls.as_ref().map(|tls| tls.reload()) {
                Some(Ok(cut)) => tracing::info!(cut, "certificates reloaded"),
                Some(Err(error)) => tracing::error!(%error, "cannot reload; old certificates stay in use"),
                None => {}
            },
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    stop.cancel();
}

/// Feeds the watchdog while the agent makes progress: its tasks run, and so does work that may block.
async fn feed_watchdog(period: Duration) {
    loop {
        tokio::time::sleep(period).await;
        if tokio::task::spawn_blocking(|| ()).await.is_ok() {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }
}

async fn examine(config: &Config) -> Result<ExitCode, AnyError> {
    let zone = zone_of(config);
    let findings = doctor::examine(config, &zone).await;
    let mut out = anstream::stdout().lock();
    for finding in &findings {
        let (word, style) = match finding.verdict {
            Verdict::Good => ("ok  ", anstyle::AnsiColor::Green),
            Verdict::Weak => ("weak", anstyle::AnsiColor::Yellow),
            Verdict::Bad => ("BAD ", anstyle::AnsiColor::Red),
        };
        let style = style.on_default();
        writeln!(out, "{style}{word}{style:#}  {:<16} {}", finding.what, finding.found)?;
        if !finding.advice.is_empty() {
            writeln!(out, "{:22} {}", "", finding.advice)?;
        }
    }
    let bad = findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Prints the expected and actual result of each act; fails if anything forbidden worked.
async fn attempt_all(
    config: &Config,
    without: &[Mechanism],
    vm: Option<uuid::Uuid>,
) -> Result<ExitCode, AnyError> {
    let zone = zone_of(config);
    let attempts = match vm {
        Some(uuid) => probe::run_inside(&zone, &config.layout().vm(uuid), uuid).await?,
        None => probe::run(&zone, without).await?,
    };
    let mut out = anstream::stdout().lock();
    let wrong = probe::print(&mut out, &attempts, without)?;
    for found in zone.enforcements().await {
        writeln!(out, "{:<18} {}{}", found.restriction.as_str(), found.mechanisms.join(", "), found.reason)?;
    }
    for found in zone.limits().await {
        writeln!(out, "{:<20} {}{}", found.property, found.mechanism, found.reason)?;
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn manage(config: &Config, action: PkiAction) -> Result<(), AnyError> {
    let pki = |dir| Pki::new(dir, config.tls.trust_domain.clone());
    match action {
        PkiAction::Init { dir, names, days } => {
            let mut all = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            all.extend([host].into_iter().filter(|host| !host.is_empty() && !host.contains('(')));
            all.extend(names);
            all.dedup();
            pki(dir.clone()).init(&all, days)?;
            anstream::eprintln!("Made a CA, server.pem and admin.pem in {}", dir.display());
        }
        PkiAction::Issue { dir, role, name, days } => {
            let identity = pki(dir.clone()).issue(role, &name, days)?;
            anstream::eprintln!("Made {}/{name}.pem and {name}.key for {identity}", dir.display());
        }
        PkiAction::Revoke { dir, name } => {
            pki(dir.clone()).revoke(&name)?;
            anstream::eprintln!("Put {name}.pem on {}/crl.pem", dir.display());
        }
    }
    Ok(())
}
