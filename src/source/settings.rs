//! How images are fetched and kept: the section `[images]`.

use std::path::PathBuf;

use serde::Deserialize;

use super::address::Allowed;

/// Images and their sources.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where images are kept: on the file system of `zones_dir`, so that disks can share their blocks. Default:
    /// `images` in `zones_dir`.
    pub dir: Option<PathBuf>,
    /// Largest disk of an image, in GiB.
    pub max_gib: u32,
    /// Addresses that images may come from: networks, and `public` for the whole internet without the networks of sites,
    /// hosts and clouds.
    pub allow: Vec<Allowed>,
    /// Image servers with SmartOS's API, asked for images by UUID, in this order.
    pub servers: Vec<String>,
    /// Folders of this host from which images may come, as `file://` URLs.
    pub folders: Vec<PathBuf>,
    /// Proxy for all requests, like `http://proxy:3128`. Empty: none. Names are then looked up by the proxy, and `allow`
    /// is for its address and for addresses in URLs.
    pub proxy: String,
    /// Certificates of servers that no public CA has signed, a PEM file. Empty: none.
    pub ca: PathBuf,
    /// User names and passwords by host, in the form of Docker's `config.json`. Empty: none. Read at each request.
    pub credentials: PathBuf,
    /// Seconds without a byte after which a connection is given up, and tried again where it broke.
    pub timeout_seconds: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dir: None,
            max_gib: 1024,
            allow: vec![Allowed::Public],
            servers: vec!["https://images.smartos.org".to_owned()],
            folders: Vec::new(),
            proxy: String::new(),
            ca: PathBuf::new(),
            credentials: PathBuf::new(),
            timeout_seconds: 60,
        }
    }
}
