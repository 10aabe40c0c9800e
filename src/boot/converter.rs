//! Conversion of images in a zone of its own: nothing of an image is parsed in the agent.

use std::{
    fs::File,
    io::{Read as _, Seek as _},
    sync::Arc,
};

use async_trait::async_trait;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    image::{self, Converter, Converting, Fault, FaultKind, Job},
    zone::linux::{LinuxZone, Work},
};

/// Bytes of memory of a converter: its decoders need at most 160 MiB, and the rest is for pages on their way to the disk.
const MEMORY: u64 = 512 << 20;

/// Converts each image in a new zone.
#[derive(Debug)]
pub struct ZonedConverter(Arc<LinuxZone>);

impl ZonedConverter {
    /// Uses the host's zones.
    #[must_use]
    pub fn new(zone: Arc<LinuxZone>) -> Self {
        Self(zone)
    }
}

#[async_trait]
impl Converter for ZonedConverter {
    async fn begin(&self, job: Job) -> Result<Converting, Fault> {
        let Job { conversion, output, scratch } = job;
        let (content, input) = std::io::pipe().map_err(|error| host_fault(&error))?;
        let answer = rustix::fs::memfd_create("image-result", rustix::fs::MemfdFlags::CLOEXEC);
        let mut answer = File::from(answer.map_err(|error| host_fault(&error))?);
        let content: std::os::fd::OwnedFd = content.into();
        let work = Work {
            arguments: image::arguments(&conversion),
            input: content.into(),
            output: answer.try_clone().map_err(|error| host_fault(&error))?,
            descriptors: vec![(output.into(), image::OUTPUT), (scratch.into(), image::SCRATCH)],
            memory: MEMORY,
            largest_file: conversion.limit,
        };
        let zone = self.0.clone();
        // Whole, even if nobody waits any more: what is half made is not undone.
        let worker = tokio::spawn(async move { zone.work(work).await }).await;
        let worker = worker.map_err(|error| host_fault(&error))?.map_err(|error| host_fault(&error))?;
        let outcome = AbortOnDropHandle::new(tokio::spawn(async move {
            let ended = worker.process().ended().await;
            let mut text = Vec::new();
            answer
                .rewind()
                .and_then(|()| answer.take(image::MAX_RESULT).read_to_end(&mut text))
                .map_err(|error| host_fault(&error))?;
            image::result(&text, &ended.to_string())
        }));
        let outcome = async { outcome.await.unwrap_or_else(|error| Err(host_fault(&error))) };
        Ok(Converting { input: Box::new(input), outcome: Box::pin(outcome) })
    }
}

fn host_fault(error: &dyn std::fmt::Display) -> Fault {
    Fault::new(FaultKind::Host, format!("the converter's zone: {error}"))
}
