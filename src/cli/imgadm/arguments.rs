//! imgadm's command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::cli::connect::Connection;

/// Manage the images of a host.
///
/// An image is a disk from which disks of VMs begin ("image_uuid" in a machine JSON). Uses the local agent's UNIX socket
/// without --endpoint.
#[derive(Debug, Parser)]
#[command(name = "imgadm", version, after_help = EXAMPLES, infer_long_args = true)]
pub(crate) struct Arguments {
    #[command(flatten, next_help_heading = "Connection")]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "Examples:
  imgadm import https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-nocloud-amd64.qcow2
  imgadm import oci://registry.example/images/debian:12
  imgadm import --name mine ./disk.qcow2
  imgadm import 01b2c898-945f-11e1-a523-af1afbe22822
  imgadm list
  imgadm delete 01b2c898-945f-11e1-a523-af1afbe22822

Data goes to standard output, progress and errors to standard error.
Exit codes: 0 done, 1 refused or failed, 2 not understood, 3 no such image on this host.";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Import an image from a source, or from a local file
    ///
    /// Raw disks, qcow2, and ZFS send streams of volumes are read, packed by gzip, bzip2, xz, zstd or not at all. The
    /// agent goes on when this command is interrupted; imgadm delete cancels.
    Import(Import),
    /// Install an image from a manifest and a file, as imgadm create makes them
    Install(Install),
    /// List the images of this host
    List(List),
    /// Print an image of this host as JSON
    Get {
        /// UUID or digest
        uuid: String,
    },
    /// Print the manifest of an image of an image server
    Show {
        /// Its UUID
        uuid: String,
        /// The server [default: those of the configuration]
        #[arg(short = 'S', long, value_name = "URL", default_value = "", hide_default_value = true)]
        source: String,
    },
    /// List the images that image servers offer
    Avail(Avail),
    /// List image servers
    ///
    /// The agent's configuration names them (images.servers).
    Sources(Sources),
    /// Write an image's disk into a file, raw and packed by zstd, with its manifest beside it
    Export {
        /// UUID or digest
        uuid: String,
        /// A new file, or a folder for UUID.raw.zst, with FILE.imgmanifest beside it for imgadm install; - for standard
        /// output
        #[arg(short, value_name = "PATH", default_value = ".")]
        output: PathBuf,
    },
    /// Delete images, or cancel their imports
    ///
    /// An image stays while VMs have disks of it, or images are a difference from it.
    Delete {
        /// A pool; there is one place for images here
        #[arg(short = 'P', value_name = "POOL", hide = true)]
        pool: Option<String>,
        /// UUIDs
        #[arg(required = true)]
        uuids: Vec<String>,
    },
    /// Print a script that completes imgadm's commands in a shell, like eval "$(imgadm completions bash)"
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        dir: PathBuf,
    },
    /// Delete every image that nothing uses
    Vacuum {
        /// Only say which
        #[arg(short = 'n', long)]
        dry_run: bool,
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
}

/// Options of `import`.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// A pool; there is one place for images here
    #[arg(short = 'P', value_name = "POOL", hide = true)]
    pub(crate) pool: Option<String>,
    /// The image server, for an image that is named by UUID [default: those of the configuration]
    #[arg(short = 'S', long, value_name = "URL")]
    pub(crate) source: Option<String>,
    /// Digest of the file, like sha256:…; needed for a URL without SHA256SUMS or SHA512SUMS beside it
    #[arg(long)]
    pub(crate) digest: Option<String>,
    /// UUID of the image [default: made from the digest]
    #[arg(long, value_name = "UUID")]
    pub(crate) uuid: Option<String>,
    /// Name of the image [default: the last part of the source]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The file is a raw disk, whatever it looks like
    #[arg(long)]
    pub(crate) raw: bool,
    /// UUIDs of images of an image server, URLs (https://, http://, oci://, imgapi+https://, file:// below a folder of the
    /// agent's host), or local files
    #[arg(required = true, value_name = "UUID|URL|FILE")]
    pub(crate) images: Vec<String>,
}

/// Options of `install`.
#[derive(Debug, Args)]
pub(crate) struct Install {
    /// The manifest
    #[arg(short, value_name = "FILE")]
    pub(crate) manifest: PathBuf,
    /// The image's file
    #[arg(short, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// A pool; there is one place for images here
    #[arg(short = 'P', value_name = "POOL", hide = true)]
    pub(crate) pool: Option<String>,
}

/// Options of `list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// JSON
    #[arg(short, long)]
    pub(crate) json: bool,
    /// No header
    #[arg(short = 'H')]
    pub(crate) no_header: bool,
    /// Images that are being imported, too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Columns, separated by commas: any key of the manifest, and state, source, digest, size and used (MiB), clones
    #[arg(short = 'o', value_name = "FIELDS", default_value = "uuid,name,version,os,type,pub")]
    pub(crate) order: String,
    /// Sort by fields; -FIELD: the largest first
    #[arg(short, value_name = "FIELDS", default_value = "published_at,name", allow_hyphen_values = true)]
    pub(crate) sort: String,
    /// Only images that match: field=value, or field=~text for a part of it, like os=linux name=~debian
    pub(crate) filters: Vec<String>,
}

/// Options of `avail`.
#[derive(Debug, Args)]
pub(crate) struct Avail {
    /// The server [default: those of the configuration]
    #[arg(short = 'S', long, value_name = "URL", default_value = "", hide_default_value = true)]
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) list: List,
}

/// Options of `sources`.
#[derive(Debug, Args)]
pub(crate) struct Sources {
    /// JSON
    #[arg(short, long)]
    pub(crate) json: bool,
    /// Say whether a server is configured
    #[arg(short, value_name = "URL")]
    pub(crate) add: Option<String>,
    /// Say whether a server is not configured
    #[arg(short, value_name = "URL")]
    pub(crate) delete: Option<String>,
    /// The server's kind
    #[arg(short = 't', value_name = "TYPE", default_value = "imgapi")]
    pub(crate) kind: String,
    /// Accepted without effect
    #[arg(short, hide = true)]
    pub(crate) force: bool,
}
