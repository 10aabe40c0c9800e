//! What the agent's TLS and its clients' have in common.

use std::sync::Arc;

/// The one crypto provider of these programs.
#[must_use]
pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
