//! Why a source gave no image.

/// Why a source gave no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SourceError {
    /// The request is wrong.
    #[error("{field}: {why}")]
    Wrong {
        /// Its field.
        field: &'static str,
        /// Why.
        why: String,
    },
    /// The agent may not reach it, or nothing says what its content should be.
    #[error("{0}")]
    Refused(String),
    /// It has no such image.
    #[error("{0}")]
    Missing(String),
    /// It can't be reached, or does not answer as it should.
    #[error("{0}")]
    Failed(String),
}

impl SourceError {
    pub(super) fn wrong(field: &'static str, why: impl Into<String>) -> Self {
        Self::Wrong { field, why: why.into() }
    }

    /// A failed request; a refusal by our own rules keeps its words.
    pub(super) fn request(what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut source = Some(error);
        let mut innermost = String::new();
        while let Some(cause) = source {
            if let Some(refused) = cause.downcast_ref::<Self>() {
                return refused.clone();
            }
            innermost = cause.to_string();
            source = cause.source();
        }
        Self::Failed(format!("{what}: {innermost}"))
    }
}
