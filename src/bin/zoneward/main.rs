//! The agent.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{
    Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use zoneward::internals::{
    auth::{Role, pki::Pki},
    config::Config,
    doctor::{self, Verdict},
    image, probe,
    zone::{self, Zone as _, launcher, linux::LinuxZone, sandbox::Mechanism},
};

mod serve;

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
    if std::env::args_os().nth(1).is_some_and(|word| word == image::SUBCOMMAND) {
        return ExitCode::from(image::run(&std::env::args().skip(2).collect::<Vec<_>>()));
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
        Command::Serve => runtime.block_on(serve::serve(config)).map(|()| ExitCode::SUCCESS),
        Command::Doctor => runtime.block_on(examine(&config)),
        Command::Probe { without, vm } => runtime.block_on(attempt_all(&config, &without, vm)),
        Command::Pki { action } => manage(&config, action).map(|()| ExitCode::SUCCESS),
    }
}

fn zone_of(config: &Config) -> LinuxZone {
    LinuxZone::new(config.zone.clone(), &config.layout(), config.console.keep_kib << 10)
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
