//! Who converts: the seam between the agent, which trusts no image, and [`convert`].

use std::{fmt, fs::File, future::Future, io::Write, pin::Pin};

use async_trait::async_trait;

use super::{
    convert::{Conversion, Converted, convert},
    fault::{Fault, FaultKind},
};

/// A conversion to be done.
#[derive(Debug)]
pub struct Job {
    /// How.
    pub(crate) conversion: Conversion,
    /// The disk, open for reading and writing; the origin's content if there is one.
    pub(crate) output: File,
    /// An empty file without a name.
    pub(crate) scratch: File,
}

/// A conversion under way.
pub struct Converting {
    /// Takes the image's bytes; dropped at their end. It breaks when the converter has given up.
    pub(crate) input: Box<dyn Write + Send>,
    /// The result. Dropping it ends the conversion.
    pub(crate) outcome: Pin<Box<dyn Future<Output = Result<Converted, Fault>> + Send>>,
}

impl fmt::Debug for Converting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Converting").finish_non_exhaustive()
    }
}

/// Converts images into disks.
#[async_trait]
pub trait Converter: Send + Sync + fmt::Debug {
    /// Begins a conversion.
    async fn begin(&self, job: Job) -> Result<Converting, Fault>;
}

/// Converts in a thread of this process: for tests, whose images nobody made to attack.
#[derive(Clone, Copy, Debug, Default)]
pub struct InThread;

#[async_trait]
impl Converter for InThread {
    async fn begin(&self, job: Job) -> Result<Converting, Fault> {
        let (content, input) = std::io::pipe().map_err(|error| Fault::host(&error))?;
        let Job { conversion, output, scratch } = job;
        let work = tokio::task::spawn_blocking(move || convert(content, output, scratch, &conversion));
        let outcome = async {
            work.await.unwrap_or_else(|_| Err(Fault::new(FaultKind::Host, "the converter panicked")))
        };
        Ok(Converting { input: Box::new(input), outcome: Box::pin(outcome) })
    }
}

/// Most bytes of a disk that [`is_image`] makes.
const SMALL: u64 = 16 << 20;

/// Converts a content into a file that nobody keeps, as fuzz targets do; whether it is an image.
#[must_use]
pub fn is_image(content: &[u8]) -> bool {
    let file = || tempfile::tempfile();
    let (Ok(output), Ok(scratch)) = (file(), file()) else { return false };
    let conversion = Conversion { limit: SMALL, ..Conversion::default() };
    convert(content, output, scratch, &conversion).is_ok()
}
