//! What an image is packed into, by its first bytes.

use std::io::{self, BufReader, Cursor, Read};

use serde::{Deserialize, Serialize};

use super::fault::{Fault, FaultKind};

/// Bytes that are looked at.
pub(crate) const HEAD: usize = 64 << 10;
/// Memory that an xz decoder may need: what `xz -9` files do, and some more.
const XZ_MEMORY: u64 = 80 << 20;
/// The largest window of a zstd file, as a power of two: what zstd itself takes by default.
const ZSTD_WINDOW: u32 = 27;

/// A kind of compressed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Container {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Container {
    fn of(head: &[u8]) -> Self {
        const MAGIC: [(&[u8], Container); 4] = [
            (&[0x1f, 0x8b, 0x08], Container::Gzip),
            (b"BZh", Container::Bzip2),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Container::Xz),
            (&[0x28, 0xb5, 0x2f, 0xfd], Container::Zstd),
        ];
        MAGIC.iter().find(|(magic, _)| head.starts_with(magic)).map_or(Self::None, |(_, found)| *found)
    }
}

/// Content of which the first bytes are known.
pub(crate) type Content<'a> = Box<dyn Read + 'a>;

/// Reads the head of a content; returns it, and the content from its beginning.
pub(crate) fn peek<'a>(mut content: impl Read + 'a) -> Result<(Vec<u8>, Content<'a>), Fault> {
    let mut head = Vec::with_capacity(HEAD);
    content.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(|error| Fault::input(&error, 0))?;
    let whole = Cursor::new(head.clone()).chain(content);
    Ok((head, Box::new(whole)))
}

/// Unpacks a content that is compressed; all parts of a file that has several.
pub(crate) fn unpack<'a>(head: &[u8], content: Content<'a>) -> Result<(Container, Content<'a>), Fault> {
    let container = Container::of(head);
    let failed = |error: io::Error| Fault::new(FaultKind::Host, format!("starting a decoder: {error}"));
    let content: Content<'a> = match container {
        Container::None => return Ok((container, content)),
        Container::Gzip => Box::new(flate2::read::MultiGzDecoder::new(content)),
        Container::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(content)),
        Container::Xz => {
            let stream =
                liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED);
            let stream = stream.map_err(|error| failed(error.into()))?;
            Box::new(liblzma::read::XzDecoder::new_stream(content, stream))
        }
        Container::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(content).map_err(failed)?;
            decoder.window_log_max(ZSTD_WINDOW).map_err(failed)?;
            Box::new(decoder)
        }
    };
    Ok((container, Box::new(BufReader::with_capacity(1 << 17, Unpacked { content, container, at: 0 }))))
}

/// Unpacked content, whose errors are about the compressed file.
struct Unpacked<'a> {
    content: Content<'a>,
    container: Container,
    at: u64,
}

impl Read for Unpacked<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self.content.read(bytes) {
            Ok(count) => {
                self.at += count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            // A fault of the content below, such as a connection that broke.
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Fault>()) => Err(error),
            Err(error) => {
                let name = format!("{:?}", self.container).to_lowercase();
                let what = match error.kind() {
                    io::ErrorKind::UnexpectedEof => format!("the {name} file ends too early"),
                    _ => format!("the {name} file is damaged, or needs too much memory: {error}"),
                };
                Err(Fault::at(FaultKind::BadContainer, self.at, what).into())
            }
        }
    }
}

/// The disk in a container image: the one file in its folder `disk`, as KubeVirt has them.
pub(crate) fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}
