//! Reading of streams and packages, record by record.

use std::io::Read;

use super::{
    Begin,
    block::{self, MAX_BLOCK},
    fletcher::Fletcher,
    properties,
    record::{CHECKSUM_AT, HEADER, Header, Kind},
};
use crate::image::{
    disk::Disk,
    fault::{Fault, FaultKind},
};

/// The object of the data, and its type.
const DATA: (u64, u32) = (1, 23);
/// The object of the properties, and its type.
const PROPERTIES: (u64, u32) = (2, 24);
/// Most bytes of the properties.
const MAX_PROPERTIES: u64 = 1 << 20;
/// A FREE of this length goes to the end of the object.
const TO_THE_END: u64 = u64::MAX;
/// Sectors of a volume.
const SECTOR: u64 = 512;

/// Content that is read forward, with a count of its bytes.
#[derive(Debug)]
pub(crate) struct Input<R> {
    inner: R,
    at: u64,
}

impl<R: Read> Input<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, at: 0 }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Fault> {
        self.inner.read_exact(bytes).map_err(|error| Fault::input(&error, self.at))?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// Takes what the streams contain.
pub(crate) trait Receiver {
    /// A volume's stream begins. Gives the size of the content that it builds on, 0 if that is nothing; from here on
    /// [`Self::disk`] is that content.
    fn begin(&mut self, begin: &Begin) -> Result<u64, Fault>;
    /// The disk to write.
    fn disk(&mut self) -> &mut dyn Disk;
    /// The stream is complete and right, and the volume has this size.
    fn end(&mut self, begin: &Begin, size: u64) -> Result<(), Fault>;
    /// A file system was passed over.
    fn passed_over(&mut self, begin: &Begin);
    /// Most bytes of a volume.
    fn limit(&self) -> u64;
}

/// Reads a stream or a package, and not a byte behind it.
pub(crate) fn read(input: &mut Input<impl Read>, receiver: &mut dyn Receiver) -> Result<(), Fault> {
    let header = first_header(input)?;
    if !is_package(&header)? {
        return Stream::new(header).read(input, receiver);
    }
    skip_list(input, &header)?;
    loop {
        let at = input.at;
        let mut bytes = [0; HEADER];
        input.fill(&mut bytes)?;
        // Between streams: END, of zeros but for its type.
        if Header::new(bytes, header.order(), at).kind()? == Kind::End {
            return Ok(());
        }
        let header = Header::first(bytes, at)?;
        if is_package(&header)? {
            return Err(header.fault("a package in a package"));
        }
        Stream::new(header).read(input, receiver)?;
    }
}

/// Reads one volume, and its last snapshot of several.
pub(crate) fn read_volume(content: impl Read, receiver: &mut dyn Receiver) -> Result<(), Fault> {
    read(&mut Input::new(content), receiver)
}

fn first_header(input: &mut Input<impl Read>) -> Result<Header, Fault> {
    let (at, mut bytes) = (input.at, [0; HEADER]);
    input.fill(&mut bytes)?;
    Header::first(bytes, at)
}

fn is_package(header: &Header) -> Result<bool, Fault> {
    match header.u64(16) & 3 {
        1 => Ok(false),
        2 => Ok(true),
        kind => Err(header.fault(format!("a ZFS stream of kind {kind}"))),
    }
}

/// Passes over the list of what a package contains, and checks the sum behind it.
fn skip_list(input: &mut Input<impl Read>, header: &Header) -> Result<(), Fault> {
    let mut sum = Fletcher::default();
    sum.add(header.bytes(), header.order());
    let mut left = header.payload(Kind::Begin)?;
    let mut buffer = vec![0; left.min(1 << 16)];
    while left > 0 {
        let count = left.min(buffer.len());
        let piece = buffer.get_mut(..count).unwrap_or_default();
        input.fill(piece)?;
        sum.add(piece, header.order());
        left -= count;
    }
    let (at, mut bytes) = (input.at, [0; HEADER]);
    input.fill(&mut bytes)?;
    let end = Header::new(bytes, header.order(), at);
    if end.kind()? != Kind::End {
        return Err(end.fault("no end behind the list of the package"));
    }
    match end.checksum(8) == sum.sums() {
        true => Ok(()),
        false => Err(wrong_sum(at)),
    }
}

fn wrong_sum(at: u64) -> Fault {
    Fault::at(FaultKind::Checksum, at, "the stream is damaged: a checksum is wrong")
}

/// Features of a stream, as bits of its version.
mod feature {
    /// What this reader knows, or need not know.
    pub(super) const KNOWN: u64 = bits(&[0, 1, 2, 16, 17, 19, 22, 23, 25, 26, 27, 28, 29]);
    pub(super) const RESUMING: u64 = bits(&[20]);
    pub(super) const REDACTED: u64 = bits(&[21]);
    pub(super) const RAW: u64 = bits(&[24]);

    const fn bits(numbers: &[u32]) -> u64 {
        let (mut all, mut index) = (0, 0);
        while index < numbers.len() {
            all |= 1 << numbers[index];
            index += 1;
        }
        all
    }
}

/// One stream, from BEGIN to END.
struct Stream {
    header: Header,
    begin: Begin,
    sum: Fletcher,
    /// The data's object was announced.
    has_data: bool,
    /// End of the data that were written.
    end: u64,
    size: Option<u64>,
    payload: Vec<u8>,
}

impl Stream {
    fn new(header: Header) -> Self {
        let name = header.bytes().get(56..HEADER).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let begin = Begin {
            name: String::from_utf8_lossy(name).into_owned(),
            guid: header.u64(40),
            base: header.u64(48),
            is_file_system: header.u32(32) == 2,
        };
        Self {
            header,
            begin,
            sum: Fletcher::default(),
            has_data: false,
            end: 0,
            size: None,
            payload: Vec::new(),
        }
    }

    fn read(mut self, input: &mut Input<impl Read>, receiver: &mut dyn Receiver) -> Result<(), Fault> {
        self.check_features()?;
        let order = self.header.order();
        self.sum.add(self.header.bytes(), order);
        let length = self.header.payload(Kind::Begin)?;
        self.read_payload(input, length)?;
        let carried = if self.begin.is_file_system { 0 } else { receiver.begin(&self.begin)? };
        loop {
            let (at, mut bytes) = (input.at, [0; HEADER]);
            input.fill(&mut bytes)?;
            let header = Header::new(bytes, order, at);
            let kind = header.kind()?;
            let before = self.sum.sums();
            self.check_sum(&header)?;
            if kind == Kind::End {
                if header.checksum(8) != before {
                    return Err(wrong_sum(at));
                }
                return self.finish(&header, carried, receiver);
            }
            let length = header.payload(kind)?;
            self.read_payload(input, length)?;
            if self.begin.is_file_system {
                continue;
            }
            self.obey(kind, &header, receiver)?;
        }
    }

    fn check_features(&self) -> Result<(), Fault> {
        let features = self.header.u64(16) >> 2;
        let refuse = |kind, what: &str| Err(Fault::at(kind, self.header.at, what));
        if features & feature::RAW != 0 {
            return refuse(FaultKind::Encrypted, "the stream is encrypted; send it without -w");
        }
        if features & feature::RESUMING != 0 {
            return refuse(
                FaultKind::Resuming,
                "this is the rest of an interrupted stream; send it from the beginning",
            );
        }
        if features & feature::REDACTED != 0 {
            return refuse(FaultKind::Redacted, "parts of the stream are left out (redacted)");
        }
        let unknown = features & !feature::KNOWN & (u64::MAX >> 6);
        if unknown != 0 {
            let what = format!(
                "the stream has feature {}, which this agent does not know",
                unknown.trailing_zeros()
            );
            return refuse(FaultKind::Unsupported, &what);
        }
        match self.header.u32(32) {
            2 | 3 => Ok(()),
            kind => Err(self.header.fault(format!("a stream of a dataset of kind {kind}"))),
        }
    }

    /// Streams made before 2015 have sums in END only.
    fn check_sum(&mut self, header: &Header) -> Result<(), Fault> {
        let (fields, own) = header.bytes().split_at(CHECKSUM_AT);
        self.sum.add(fields, header.order());
        let told = header.checksum(CHECKSUM_AT);
        if told != [0; 4] && told != self.sum.sums() {
            return Err(wrong_sum(header.at));
        }
        self.sum.add(own, header.order());
        Ok(())
    }

    fn read_payload(&mut self, input: &mut Input<impl Read>, length: usize) -> Result<(), Fault> {
        self.payload.clear();
        // In pieces: a length that is a lie must not cost its memory.
        while self.payload.len() < length {
            let from = self.payload.len();
            self.payload.resize((from + (1 << 20)).min(length), 0);
            input.fill(self.payload.get_mut(from..).unwrap_or_default())?;
        }
        self.sum.add(&self.payload, self.header.order());
        Ok(())
    }

    fn obey(&mut self, kind: Kind, header: &Header, receiver: &mut dyn Receiver) -> Result<(), Fault> {
        match kind {
            Kind::Begin => Err(header.fault("a second beginning within a stream")),
            Kind::Object => self.announce(header),
            Kind::Write => self.write(header, receiver),
            Kind::WriteEmbedded => self.write_embedded(header, receiver),
            Kind::WriteByRef => self.copy(header, receiver),
            Kind::Free => self.free(header, receiver),
            Kind::FreeObjects | Kind::Spill => Ok(()),
            Kind::ObjectRange | Kind::Redact | Kind::End => {
                Err(header.fault("a record that no volume's stream has"))
            }
        }
    }

    fn announce(&mut self, header: &Header) -> Result<(), Fault> {
        let (object, kind, block) = (header.u64(8), header.u32(16), header.u32(24));
        if block as usize > MAX_BLOCK || block < 512 || block % 512 != 0 {
            return Err(header.fault(format!("an object with blocks of {block} bytes")));
        }
        let wanted = [DATA, PROPERTIES].into_iter().find(|(number, _)| *number == object);
        match wanted {
            Some((_, wanted)) if wanted != kind => {
                Err(header
                    .fault(format!("object {object} is of type {kind}, not of a volume's type {wanted}")))
            }
            Some(DATA) => {
                self.has_data = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Checks the range of a record of the data.
    fn range(&self, header: &Header, offset: u64, length: u64, limit: u64) -> Result<(), Fault> {
        if !self.has_data {
            return Err(header.fault("data before their object"));
        }
        match offset.checked_add(length) {
            Some(end) if end <= limit => Ok(()),
            _ => Err(header
                .fault(format!("{length} bytes at offset {offset}, beyond the most that a disk may have"))),
        }
    }

    fn write(&mut self, header: &Header, receiver: &mut dyn Receiver) -> Result<(), Fault> {
        let (object, offset, length) = (header.u64(8), header.u64(24), header.u64(32));
        if object != DATA.0 && object != PROPERTIES.0 {
            return Ok(());
        }
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size == 0 || size > MAX_BLOCK {
            return Err(header.fault(format!("a write of {length} bytes")));
        }
        let method = header.u8(50);
        if method != 0 && self.payload.len() > size {
            return Err(header.fault("a compressed block that is larger than the block"));
        }
        if method == 0 {
            let payload = std::mem::take(&mut self.payload);
            let done = self.put(header, object, offset, &payload, receiver);
            self.payload = payload;
            return done;
        }
        let block = block::unpack(method, &self.payload, size, header.at)?;
        self.put(header, object, offset, &block, receiver)
    }

    fn write_embedded(&mut self, header: &Header, receiver: &mut dyn Receiver) -> Result<(), Fault> {
        let (object, offset, length) = (header.u64(8), header.u64(16), header.u64(24));
        let (method, kind) = (header.u8(40), header.u8(41));
        let (size, packed) = (header.u32(48) as usize, header.u32(52) as usize);
        if kind != 0 {
            return Err(header.fault(format!("embedded data of kind {kind}")));
        }
        if length == 0 || length > MAX_BLOCK as u64 || size as u64 > length || packed > 112 || size == 0 {
            return Err(header.fault(format!("{packed} bytes embedded for a block of {length}")));
        }
        let data = self.payload.get(..packed).unwrap_or_default();
        let mut block = block::unpack(method, data, size, header.at)?;
        block.resize(usize::try_from(length).unwrap_or(MAX_BLOCK), 0);
        self.put(header, object, offset, &block, receiver)
    }

    fn put(
        &mut self,
        header: &Header,
        object: u64,
        offset: u64,
        block: &[u8],
        receiver: &mut dyn Receiver,
    ) -> Result<(), Fault> {
        if object == PROPERTIES.0 {
            if offset >= MAX_PROPERTIES {
                return Err(header.fault("properties of over 1 MiB"));
            }
            if offset == 0 {
                self.size = properties::volume_size(block, header.order()).or(self.size);
            }
            return Ok(());
        }
        if object != DATA.0 {
            return Ok(());
        }
        self.range(header, offset, block.len() as u64, receiver.limit())?;
        receiver.disk().write(offset, block)?;
        self.end = self.end.max(offset + block.len() as u64);
        Ok(())
    }

    /// Copies what this stream wrote before: only old senders did that.
    fn copy(&mut self, header: &Header, receiver: &mut dyn Receiver) -> Result<(), Fault> {
        let (object, offset, length) = (header.u64(8), header.u64(16), header.u64(24));
        if object != DATA.0 {
            return Ok(());
        }
        let (guid, from_object, from) = (header.u64(40), header.u64(48), header.u64(56));
        if guid != self.begin.guid || from_object != DATA.0 {
            let what = "a block is a reference to another snapshot; send it without -D, or expand it with zstream redup";
            return Err(Fault::at(FaultKind::Unsupported, header.at, what));
        }
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size == 0 || size > MAX_BLOCK {
            return Err(header.fault(format!("a copy of {length} bytes")));
        }
        self.range(header, from, length, receiver.limit())?;
        let mut block = vec![0; size];
        receiver.disk().read(from, &mut block)?;
        self.put(header, object, offset, &block, receiver)
    }

    fn free(&mut self, header: &Header, receiver: &mut dyn Receiver) -> Result<(), Fault> {
        let (object, offset, length) = (header.u64(8), header.u64(16), header.u64(24));
        if object != DATA.0 {
            return Ok(());
        }
        if length != TO_THE_END && offset.checked_add(length).is_none() {
            return Err(header.fault(format!("{length} bytes freed at offset {offset}")));
        }
        receiver.disk().zero(offset, length.min(u64::MAX - offset))
    }

    fn finish(self, end: &Header, carried: u64, receiver: &mut dyn Receiver) -> Result<(), Fault> {
        let guid = end.u64(40);
        // Very old senders wrote none.
        if guid != 0 && guid != self.begin.guid {
            return Err(end.fault("the end of another stream"));
        }
        if self.begin.is_file_system {
            receiver.passed_over(&self.begin);
            return Ok(());
        }
        // A stream repeats the size only when it has changed.
        let size = self.size.unwrap_or(carried);
        if size == 0 {
            let what = "nothing in the stream says how large the disk is";
            return Err(Fault::at(FaultKind::NoSize, end.at, what));
        }
        if !size.is_multiple_of(SECTOR) || size > receiver.limit() {
            return Err(end.fault(format!("a disk of {size} bytes")));
        }
        if self.end > size {
            return Err(end.fault(format!("data at byte {}, beyond the disk of {size} bytes", self.end)));
        }
        receiver.end(&self.begin, size)
    }
}
