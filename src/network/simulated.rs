//! Links of no kernel.

use async_trait::async_trait;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{Assigned, LinkError, Links, Plug, Remains, Settings, Tag, TagReport, Tags, Wiring};

/// Links that lead nowhere, on tags as configured; where none is, every tag exists.
#[derive(Debug)]
pub struct SimulatedLinks {
    tags: Tags,
}

impl SimulatedLinks {
    /// On these tags.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self { tags: Tags::any(settings) }
    }
}

#[async_trait]
impl Links for SimulatedLinks {
    fn known(&self) -> &Tags {
        &self.tags
    }

    async fn tags(&self) -> Vec<TagReport> {
        let report = |(name, tag): (&String, &Tag)| TagReport {
            name: name.clone(),
            tag: tag.clone(),
            device: Some(tag.link.clone()).filter(|link| !link.is_empty()),
            problem: None,
        };
        self.tags.iter().map(report).collect()
    }

    async fn plug(&self, wiring: &Wiring) -> Result<Vec<Plug>, LinkError> {
        wiring.nics.iter().map(|nic| super::checked(&self.tags, nic).map(|_| Plug::Isolated)).collect()
    }

    async fn enable(&self, _wiring: &Wiring) -> Result<(), LinkError> {
        Ok(())
    }

    async fn check(&self, _wiring: &Wiring) -> Result<(), LinkError> {
        Ok(())
    }

    async fn guard(&self, _wiring: &Wiring) -> Result<(), LinkError> {
        Ok(())
    }

    async fn astray(&self) -> Result<Vec<Uuid>, LinkError> {
        Ok(Vec::new())
    }

    async fn rejoin(&self, _wiring: &Wiring) -> Result<bool, LinkError> {
        Ok(false)
    }

    async fn attend(&self, _wiring: &Wiring, _told: mpsc::Sender<Assigned>) {}

    async fn unplug(&self, _uuid: Uuid) -> Result<(), LinkError> {
        Ok(())
    }

    async fn sweep(&self) -> Result<(), LinkError> {
        Ok(())
    }

    async fn remains(&self) -> Result<Vec<Remains>, LinkError> {
        Ok(Vec::new())
    }
}
