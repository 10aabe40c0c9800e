//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::{
    connect::Connection,
    options::{EventOptions, ListOptions, LookupOptions, NicTagAction},
};

/// Manage the VMs of a host.
///
/// Uses the local agent's UNIX socket without --endpoint.
#[derive(Debug, Parser)]
#[command(name = "vmadm", version, disable_help_subcommand = false, after_help = EXAMPLES, allow_external_subcommands = true, infer_long_args = true)]
pub(crate) struct Arguments {
    /// Accept properties that do not exist, with a note; for old tools
    #[arg(
        long,
        global = true,
        env = "ZONEWARD_IGNORE_UNKNOWN",
        value_parser = clap::builder::FalseyValueParser::new(),
        hide_env_values = true
    )]
    pub(super) ignore_unknown: bool,
    /// Say more on standard error
    #[arg(short, long, global = true, alias = "debug")]
    pub(super) verbose: bool,
    // After the others: the heading is for all that follow.
    #[command(flatten, next_help_heading = "Connection")]
    pub(super) connection: Connection,
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXAMPLES: &str = "Examples:
  vmadm create < machine.json
  vmadm put-file <uuid> tiny.iso /tiny.iso
  vmadm boot <uuid> order=cd,once=d cdrom=/tiny.iso,ide
  vmadm console <uuid>                  Ctrl-] leaves
  vmadm events --full
  vmadm stop <uuid> -t 60
  eval \"$(vmadm completions bash)\"

Data goes to standard output, everything else to standard error.
Exit codes: 0 done, 1 refused or failed, 2 not understood.";

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a VM from a machine JSON on standard input or in a file
    Create {
        /// The machine JSON; - is standard input
        #[arg(short)]
        file: Option<PathBuf>,
    },
    /// Check a payload without doing anything
    ///
    /// Prints a report of violations on standard output, and each rule on standard error.
    Validate {
        /// create or update
        action: String,
        /// With update: kvm or bhyve
        brand: Option<String>,
        /// The machine JSON; - is standard input
        #[arg(short)]
        file: Option<PathBuf>,
    },
    /// Print a VM as JSON
    #[command(visible_alias = "json")]
    Get {
        /// The VM
        #[arg(default_value = "", hide_default_value = true)]
        uuid: String,
    },
    /// Print a table of VMs
    #[command(disable_help_flag = true)]
    List(ListOptions),
    /// Print the UUIDs of VMs, or the VMs as JSON
    Lookup(LookupOptions),
    /// Change a VM
    ///
    /// Give key=value words, or a JSON payload on standard input or in a file, with
    ///   add_disks, update_disks, remove_disks   disks, found by path
    ///   add_nics, update_nics, remove_nics      interfaces, found by mac
    ///   set_tags, remove_tags                   and so for customer_metadata, internal_metadata, routes
    /// All changes apply, or none. Changes marked "next boot" take effect at the next boot.
    #[command(verbatim_doc_comment)]
    Update {
        /// The VM
        #[arg(default_value = "", hide_default_value = true)]
        uuid: String,
        /// The payload; - is standard input
        #[arg(short)]
        file: Option<PathBuf>,
        /// Take disks, nics, tags, routes and metadata in the payload for all that the VM shall have
        ///
        /// Disks are found by path, interfaces by mac. What is missing is removed, what is new is added.
        #[arg(long)]
        replace_lists: bool,
        /// Like ram=2048 alias=web1
        #[arg(value_name = "KEY=VALUE")]
        changes: Vec<String>,
    },
    /// Start a VM
    ///
    /// Shows each boot phase as it is reached, on a terminal or with -v; vmadm boot-log has them later.
    ///
    /// Options hold for this boot only:
    ///   order=LETTERS[,once=LETTERS]   c disk, d CD, n network; once= until the guest resets
    ///   cdrom=PATH,MODEL               add a CD; MODEL is ide, scsi or virtio (kvm), ahci, nvme or virtio (bhyve)
    ///   disk=PATH,MODEL                add a disk
    /// PATH is inside the zone's root, or one of the VM's own disks.
    #[command(visible_alias = "boot", verbatim_doc_comment)]
    Start {
        /// The VM
        #[arg(default_value = "", hide_default_value = true)]
        uuid: String,
        /// Like order=cd,once=d cdrom=/tiny.iso,ide disk=/data.raw,virtio
        #[arg(value_name = "OPTION")]
        options: Vec<String>,
    },
    /// Stop a VM: power button, then a deadline, then force
    #[command(visible_alias = "halt")]
    Stop {
        /// The VM
        #[arg(default_value = "", hide_default_value = true)]
        uuid: String,
        /// Cut the power at once
        #[arg(short = 'F', long, short_alias = 'f')]
        force: bool,
        /// Seconds until the power is cut [default: 180]
        #[arg(short, long, value_name = "SECONDS")]
        timeout: Option<u32>,
    },
    /// Stop a VM and start it again
    Reboot {
        /// The VM
        #[arg(default_value = "", hide_default_value = true)]
        uuid: String,
        /// Reset the machine instead
        #[arg(short = 'F', long, short_alias = 'f')]
        force: bool,
    },
    /// Remove a VM with its disks
    #[command(visible_alias = "destroy")]
    Delete {
        /// The VM
        #[arg(default_value = "", hide_default_value = true)]
        uuid: String,
    },
    /// Send a signal to a VM's hypervisor
    Kill {
        /// By name or number; also as -KILL or -9
        #[arg(short, value_name = "SIGNAL")]
        signal: Option<String>,
        /// The VM
        #[arg(default_value = "", hide_default_value = true)]
        uuid: String,
    },
    /// Interrupt a guest: nmi or screenshot
    Sysrq {
        /// The VM
        #[arg(default_value = "", hide_default_value = true)]
        uuid: String,
        /// nmi, or screenshot: a picture of the screen as /tmp/vm.ppm in the zone
        #[arg(value_name = "TYPE", default_value = "", hide_default_value = true)]
        kind: String,
    },
    /// Halt the guest's processors
    Pause {
        /// The VM
        #[arg(default_value = "", hide_default_value = true)]
        uuid: String,
    },
    /// Resume a paused, suspended or halted guest
    Resume {
        /// The VM
        #[arg(default_value = "", hide_default_value = true)]
        uuid: String,
    },
    /// Insert an ISO into a CD drive, or eject it; also while the VM runs
    ChangeMedia {
        /// The VM
        #[arg(default_value = "", hide_default_value = true)]
        uuid: String,
        /// The ISO inside the zone [default: none, the drive is emptied]
        path: Option<String>,
        /// The drive, by name or by the path of its current medium [default: the first drive]
        #[arg(long)]
        drive: Option<String>,
    },
    /// Show details of a running hypervisor
    ///
    /// Types: all, block, blockstats, chardev, cpus, kvm, pci, status, version, vnc
    Info {
        /// The VM
        #[arg(default_value = "", hide_default_value = true)]
        uuid: String,
        /// Separated by commas or spaces [default: all]
        types: Vec<String>,
    },
    /// Save a picture of the guest's screen (PNG)
    Screenshot { uuid: String, file: PathBuf },
    /// Attach to the serial console; Ctrl-] leaves
    Console {
        /// The VM
        #[arg(default_value = "", hide_default_value = true)]
        uuid: String,
        /// Print the history and exit
        #[arg(long)]
        log: bool,
        /// Read only
        #[arg(long)]
        read_only: bool,
        /// Take over the console from its current writer, ending that session
        #[arg(long, conflicts_with = "read_only")]
        take_over: bool,
        /// Start at this byte of the output
        #[arg(long, value_name = "OFFSET", default_value_t = 0, hide_default_value = true)]
        since: i64,
    },
    /// Open a local port for a VNC viewer and connect it to the guest's screen
    ///
    /// The connection to the agent carries it, without a TCP port of the host. With --browser, prints a link
    /// that shows the screen in a browser, if the host has a browser console.
    Vnc {
        /// The VM
        #[arg(default_value = "", hide_default_value = true)]
        uuid: String,
        /// Where the viewer connects to
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
        listen: String,
        /// Print a link for a browser; it opens once, within a minute
        #[arg(long, conflicts_with = "listen")]
        browser: bool,
    },
    /// Print events as they happen
    Events(EventOptions),
    /// Show how long each phase of the last boot took
    BootLog {
        /// The VM
        #[arg(default_value = "", hide_default_value = true)]
        uuid: String,
        /// One JSON object
        #[arg(short, long)]
        json: bool,
    },
    /// Put a file into the zone's root; continues an interrupted upload
    PutFile {
        uuid: String,
        /// The local file
        file: PathBuf,
        /// Its path inside the zone [default: / and the file's name]
        path: Option<String>,
        /// Replace an existing file
        #[arg(long)]
        overwrite: bool,
    },
    /// List files in the zone's root
    ListFiles {
        /// The VM
        #[arg(default_value = "", hide_default_value = true)]
        uuid: String,
        #[arg(default_value = "/")]
        path: String,
    },
    /// Remove a file from the zone's root
    DeleteFile { uuid: String, path: String },
    /// Show the host and its capabilities
    Host,
    /// List the networks that interfaces can be attached to
    NicTags {
        /// Print JSON
        #[arg(short, long)]
        json: bool,
    },
    /// List leaked resources: named after a VM, owned by none
    ///
    /// Prints ids on standard output, and why each is a leak on standard error.
    Leaks {
        /// Print JSON
        #[arg(short, long)]
        json: bool,
    },
    /// Remove leaks with the disks in them
    Reclaim {
        /// As `vmadm leaks` prints them
        #[arg(value_name = "ID", conflicts_with = "all")]
        ids: Vec<String>,
        /// Remove every leak that can be removed
        #[arg(long)]
        all: bool,
        /// Show what would be removed
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
    /// Power off every guest because the host is shutting down
    ///
    /// autoboot stays unchanged: the VMs start with the host. No VM starts until then, even after a restart
    /// of the agent, unless --end cancels the shutdown.
    Drain {
        /// Seconds until a guest's power is cut [default: 60]
        #[arg(short, long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
        timeout: Option<u32>,
        /// Cancel the shutdown: VMs may start again
        #[arg(long, conflicts_with = "timeout")]
        end: bool,
    },
    /// Show nic tags as SmartOS's nictagadm does; also as a link of that name
    Nictagadm {
        #[command(subcommand)]
        action: NicTagAction,
    },
    /// Show the host as SmartOS's sysinfo does; also as a link of that name
    Sysinfo,
    /// Print the JSON schema of a machine JSON
    Schema,
    /// Write manual pages into a folder
    Man {
        /// The folder
        dir: PathBuf,
    },
    /// Print the script that makes a shell complete commands, UUIDs, columns and more
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: String,
    },
    #[command(external_subcommand)]
    Other(Vec<String>),
}
