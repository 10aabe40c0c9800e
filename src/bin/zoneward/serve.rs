//! `zoneward serve`: the agent with its listeners, until a signal stops it.

use std::{io::IsTerminal as _, net::SocketAddr, path::Path, sync::Arc, time::Duration};

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
    auth::{Files, Listeners, ScreenLinks, Tls},
    boot::{Platform, ZonedConverter, this_host_boot},
    browser::{self, Browser},
    config::{Config, Log, LogFormat},
    hypervisor::qemu::Qemu,
    network::linux::LinuxLinks,
    storage::FileVolumes,
};
use zoneward::spec::Brand;

use super::{AnyError, zone_of};

pub(crate) async fn serve(config: Config) -> Result<(), AnyError> {
    begin_log(&config.log)?;
    raise_descriptors();
    let host_boot = this_host_boot()?;
    let layout = config.layout();
    let qemu = Qemu::new(config.qemu.clone(), layout.kvm_verdict(), &host_boot);
    let zone = Arc::new(zone_of(&config));
    let platform = Platform {
        converter: Arc::new(ZonedConverter::new(zone.clone())),
        zone,
        kvm: Arc::new(qemu.of(Brand::Kvm)),
        bhyve: Arc::new(qemu.of(Brand::Bhyve)),
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
