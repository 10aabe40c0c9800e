//! Options of the commands that have many: tables, filters, events, nic tags.

use clap::{Args, Subcommand};

/// What `nictagadm` does here.
#[derive(Debug, Subcommand)]
pub(super) enum NicTagAction {
    /// List nic tags
    List(NicTagListOptions),
    /// Succeed if all of these nic tags exist
    Exists {
        /// Print those that do not, on standard error
        #[arg(short)]
        list: bool,
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Options of `nictagadm list`.
#[derive(Debug, Args)]
pub(super) struct NicTagListOptions {
    /// One tag a line, with colons between fields
    #[arg(short)]
    pub(super) parsable: bool,
    /// Instead of colons
    #[arg(short, value_name = "TEXT", default_value = ":")]
    pub(super) delimiter: String,
    /// Only networks for guests alone
    #[arg(short = 'l')]
    pub(super) stubs: bool,
    /// Only other networks
    #[arg(short = 'L', conflicts_with = "stubs")]
    pub(super) no_stubs: bool,
}

/// Options of `list`.
#[derive(Debug, Args)]
pub(super) struct ListOptions {
    /// Colons between fields, no header
    #[arg(short)]
    pub(super) parsable: bool,
    /// No header
    #[arg(short = 'H')]
    pub(super) no_header: bool,
    /// A header, also with -p
    #[arg(short = 'h')]
    pub(super) header: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub(super) help: Option<bool>,
    /// Columns, separated by commas
    #[arg(short = 'o', value_name = "FIELDS", default_value = "uuid,type,ram,state,alias")]
    pub(super) order: String,
    /// Sort by fields; - before a field reverses it
    #[arg(short, value_name = "FIELDS", default_value = "ram,uuid", allow_hyphen_values = true)]
    pub(super) sort: String,
    /// Only VMs that match: field=value, field=~expression, like ram=1024 alias=~^web nics.*.ip=10.0.0.1
    pub(super) filters: Vec<String>,
}

/// Options of `lookup`.
#[derive(Debug, Args)]
pub(super) struct LookupOptions {
    /// JSON objects
    #[arg(short, conflicts_with = "unique")]
    pub(super) json: bool,
    /// Fail unless exactly one is found
    #[arg(short = '1')]
    pub(super) unique: bool,
    /// With -j: only these fields, separated by commas
    #[arg(short = 'o', value_name = "FIELDS")]
    pub(super) order: Option<String>,
    /// Only VMs that match: field=value, field=~expression
    pub(super) filters: Vec<String>,
}

/// Options of `events`.
#[derive(Debug, Args)]
pub(super) struct EventOptions {
    /// Whole time stamps and UUIDs
    #[arg(short, long)]
    pub(super) full: bool,
    /// One JSON object a line
    #[arg(short, long)]
    pub(super) json: bool,
    /// With -j: also boot phases, files, calls and panics; without, only create, modify and delete
    #[arg(short, long, requires = "json")]
    pub(super) all: bool,
    /// Say when the stream has caught up with the journal; with -j, with every VM as it is
    #[arg(short, long)]
    pub(super) ready: bool,
    /// Begin with the oldest event in the journal
    #[arg(long, conflicts_with_all = ["cursor", "snapshot"])]
    pub(super) from_start: bool,
    /// Begin with every VM as it is
    #[arg(long, conflicts_with = "cursor")]
    pub(super) snapshot: bool,
    /// Begin at this time, like 2026-11-23T10:00:00Z, or so long ago, like 90s, 10m, 2h
    #[arg(long, value_name = "TIME", conflicts_with_all = ["cursor", "snapshot", "from_start"])]
    pub(super) since: Option<String>,
    /// Continue after the event with this cursor
    #[arg(long)]
    pub(super) cursor: Option<String>,
    /// Continue as events happen, as without --no-follow
    #[arg(long)]
    pub(super) follow: bool,
    /// Exit once the whole journal is printed
    #[arg(long, conflicts_with = "follow")]
    pub(super) no_follow: bool,
    /// Only VMs that match, like tags.role=web; as in list
    #[arg(long = "filter", value_name = "FILTER")]
    pub(super) filters: Vec<String>,
    /// Only this VM
    pub(super) uuid: Option<String>,
}
