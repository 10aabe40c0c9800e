//! The common part of the agent's and its clients' TLS.

use std::sync::Arc;

/// The one crypto provider of these programs.
#[must_use]
pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
