//! How consoles are configured: the section `[console]`.

use serde::Deserialize;

/// Serial consoles.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// KiB of output kept for each VM.
    pub keep_kib: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { keep_kib: 4096 }
    }
}
