//! How networks are configured: the section `[network]`.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

/// The networks of interfaces.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Prefix of the agent's link names, and the name of its table of rules. Two agents on one host need
    /// different ones.
    pub prefix: String,
    /// The program that installs packet rules.
    pub nft: PathBuf,
    /// The networks, by nic tag. None: `admin`, an etherstub for root and isolated for an ordinary user.
    pub tags: BTreeMap<String, Tag>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { prefix: "zw".to_owned(), nft: "/usr/sbin/nft".into(), tags: BTreeMap::new() }
    }
}

/// A network of the host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    /// What it is.
    pub kind: TagKind,
    /// The host's link that it uses; etherstubs and isolated networks have none.
    #[serde(default)]
    pub link: String,
    /// Largest packet, in bytes.
    #[serde(default = "usual_mtu")]
    pub mtu: i32,
}

fn usual_mtu() -> i32 {
    1500
}

/// The kind of a nic tag on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TagKind {
    /// Each interface has a carrier and nobody at the other end. Needs no privilege.
    Isolated,
    /// A bridge that the agent creates, for guests alone.
    Etherstub,
    /// A bridge that exists.
    Bridge,
    /// A bridge that the agent creates, with an interface of the host as its uplink.
    Uplink,
    /// Each interface shares an interface of the host.
    Macvtap,
}

impl TagKind {
    /// Its name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Isolated => "isolated",
            Self::Etherstub => "etherstub",
            Self::Bridge => "bridge",
            Self::Uplink => "uplink",
            Self::Macvtap => "macvtap",
        }
    }

    /// Whether it uses a link of the host.
    #[must_use]
    pub fn needs_link(self) -> bool {
        matches!(self, Self::Bridge | Self::Uplink | Self::Macvtap)
    }
}
