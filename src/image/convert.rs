//! From an image's bytes to a disk.

use std::{
    cell::Cell,
    fs::File,
    io::{self, Read},
    rc::Rc,
};

use serde::{Deserialize, Serialize};

use super::{
    container::{self, Container, Content},
    disk::{Disk, SparseFile},
    fault::{Fault, FaultKind},
    qcow2, raw,
    zfs::{self, Begin},
};

/// The form of a disk in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// The bytes as they are.
    Raw,
    /// QEMU's.
    Qcow2,
    /// A ZFS send stream of a volume.
    Zfs,
}

/// What is to be converted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Conversion {
    /// Most bytes of the disk.
    pub(crate) limit: u64,
    /// The number of the origin's snapshot, whose content the output has already.
    pub(crate) origin: Option<u64>,
    /// The content is a raw disk, whatever it looks like.
    pub(crate) is_raw: bool,
    /// The disk may be in a tar archive, in the folder `disk`.
    pub(crate) in_archive: bool,
}

/// A disk that was made of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Converted {
    /// Bytes.
    pub(crate) size: u64,
    /// What the image was.
    pub(crate) format: Format,
    /// What it was packed into.
    pub(crate) container: Container,
    /// The number of its ZFS snapshot: later streams may build on it.
    pub(crate) guid: Option<u64>,
}

/// Data of more than so many bytes for each byte of the content, beyond 256 MiB, is a bomb: no compressor of honest
/// data reaches it.
const MOST_GROWTH: u64 = 1100;
const UNSUSPICIOUS: u64 = 256 << 20;

/// Bytes of zeros that may follow a stream: a tape's block, or a file that was made in advance.
const MOST_PADDING: usize = 64 << 20;

/// Converts a content into a file. `scratch` is for formats that can't be read forward.
pub(crate) fn convert(
    content: impl Read,
    output: File,
    scratch: File,
    conversion: &Conversion,
) -> Result<Converted, Fault> {
    let packed = Rc::new(Cell::new(0));
    let content = Counted { content, read: packed.clone(), most: u64::MAX };
    let read = packed.clone();
    let is_bomb = move |written| written > UNSUSPICIOUS && written / MOST_GROWTH > read.get();
    let file = |file| {
        let mut file = SparseFile::new(file, conversion.limit).map_err(|error| Fault::host(&error))?;
        file.bound(is_bomb.clone());
        Ok(file)
    };
    let (head, content) = container::peek(content)?;
    let (container, content) = container::unpack(&head, content)?;
    // Zeros and what is passed over take no room, but time.
    let most = conversion.limit.saturating_mul(2).saturating_add(UNSUSPICIOUS);
    let (head, content) = container::peek(Counted { content, read: Rc::default(), most })?;
    let mut target = Target {
        disk: file(output)?,
        whole: file(scratch.try_clone().map_err(|error| Fault::host(&error))?)?,
        scratch,
    };
    if conversion.in_archive && container::is_tar(&head) {
        return from_archive(content, target, conversion);
    }
    let converted = one_disk(&head, content, &mut target, conversion)?;
    Ok(Converted { container, ..converted })
}

/// Where an image goes.
struct Target {
    disk: SparseFile,
    /// For a file that can't be read forward, and the same file to read.
    whole: SparseFile,
    scratch: File,
}

/// Counts what is read, up to a limit.
struct Counted<R> {
    content: R,
    read: Rc<Cell<u64>>,
    most: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(bytes)?;
        self.read.set(self.read.get() + count as u64);
        match self.read.get() <= self.most {
            true => Ok(count),
            false => Err(Fault::new(
                FaultKind::TooLarge,
                "the content, unpacked, is more than twice as large as an image may be here",
            )
            .into()),
        }
    }
}

fn one_disk(
    head: &[u8],
    mut content: Content<'_>,
    target: &mut Target,
    conversion: &Conversion,
) -> Result<Converted, Fault> {
    let disk = &mut target.disk;
    let of = |format, size| Converted { size, format, container: Container::None, guid: None };
    if zfs::is_stream(head) && !conversion.is_raw {
        let origin = conversion.origin.map_or(Ok(0), |_| disk.length())?;
        let mut volume = Volume { disk, conversion, size: origin, guid: None, ends: None };
        zfs::read_volume(&mut content, &mut volume)?;
        let (Some(size), guid) = (volume.ends, volume.guid) else {
            let what = "the ZFS stream is of a file system (a zone's), not of a disk";
            return Err(Fault::new(FaultKind::NotADisk, what));
        };
        // The compressed file's own checksum lies behind the stream.
        nothing_follows(&mut content)?;
        return Ok(Converted { guid, ..of(Format::Zfs, size) });
    }
    if conversion.origin.is_some() {
        let what = "an image with an origin is a ZFS stream, and this is none";
        return Err(Fault::new(FaultKind::NeedsOrigin, what));
    }
    if qcow2::is_it(head) && !conversion.is_raw {
        let header = qcow2::check(head, conversion.limit)?;
        let length = raw::copy(content, &mut target.whole)?;
        let scratch = target.scratch.try_clone().map_err(|error| Fault::host(&error))?;
        return Ok(of(Format::Qcow2, qcow2::copy(scratch, header, length, disk)?));
    }
    if !conversion.is_raw {
        raw::check(head)?;
    }
    let size = raw::copy(content, disk)?;
    if size == 0 {
        return Err(Fault::new(FaultKind::Truncated, "the content is empty"));
    }
    Ok(of(Format::Raw, size))
}

/// The disk of a container image: the one file in its folder `disk`.
fn from_archive(
    content: Content<'_>,
    mut target: Target,
    conversion: &Conversion,
) -> Result<Converted, Fault> {
    let damaged = |error: io::Error| match Fault::input(&error, 0) {
        fault if fault.kind == FaultKind::Host => {
            Fault::new(FaultKind::BadContainer, format!("the tar archive is damaged: {error}"))
        }
        fault => fault,
    };
    let mut archive = tar::Archive::new(content);
    let mut converted = None;
    for entry in archive.entries().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        let is_disk = path.strip_prefix("./").unwrap_or(&path).starts_with("disk");
        if !is_disk || !entry.header().entry_type().is_file() {
            continue;
        }
        if converted.is_some() {
            let what = "the container image has several files in its folder disk";
            return Err(Fault::new(FaultKind::NotADisk, what));
        }
        let (head, content) = container::peek(entry)?;
        converted = Some(one_disk(&head, content, &mut target, conversion)?);
    }
    let none = "the container image has no file in its folder disk";
    converted.ok_or_else(|| Fault::new(FaultKind::NotADisk, none))
}

/// Reads a content to its end, at which only zeros may be left.
fn nothing_follows(content: &mut Content<'_>) -> Result<(), Fault> {
    let mut buffer = vec![0; 1 << 16];
    let mut left = MOST_PADDING;
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) if count > left => {
                let what = "zeros without an end follow the ZFS stream";
                return Err(Fault::new(FaultKind::TooLarge, what));
            }
            Ok(count) if buffer.iter().take(count).all(|byte| *byte == 0) => left -= count,
            Ok(_) => {
                let what = "something follows the ZFS stream; is it a machine sent by vmadm?";
                return Err(Fault::new(FaultKind::BadRecord, what));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Fault::input(&error, 0)),
        }
    }
}

/// The one volume of an image.
struct Volume<'a> {
    disk: &'a mut SparseFile,
    conversion: &'a Conversion,
    size: u64,
    guid: Option<u64>,
    /// Its size once a stream of it is complete.
    ends: Option<u64>,
}

impl zfs::Receiver for Volume<'_> {
    fn begin(&mut self, begin: &Begin) -> Result<u64, Fault> {
        let here = self.guid.or(self.conversion.origin).unwrap_or(0);
        if begin.base == here {
            return Ok(self.size);
        }
        let what = match (begin.base, here) {
            (0, _) => {
                "the ZFS stream is of several volumes, or complete though the image has an origin".to_owned()
            }
            (base, 0) => format!(
                "the ZFS stream builds on the snapshot with guid {base}; name the image that has it as the origin"
            ),
            (base, here) => {
                format!("the ZFS stream builds on the snapshot with guid {base}, and the origin's is {here}")
            }
        };
        let kind = if begin.base == 0 { FaultKind::NotADisk } else { FaultKind::NeedsOrigin };
        Err(Fault::new(kind, what))
    }

    fn disk(&mut self) -> &mut dyn Disk {
        self.disk
    }

    fn end(&mut self, begin: &Begin, size: u64) -> Result<(), Fault> {
        self.disk.zero(size, u64::MAX - size)?;
        (self.size, self.guid, self.ends) = (size, Some(begin.guid), Some(size));
        Ok(())
    }

    fn passed_over(&mut self, _: &Begin) {}

    fn limit(&self) -> u64 {
        self.conversion.limit
    }
}
