//! A record of a ZFS send stream: a header of 312 bytes, and the payload that its own fields announce.

use crate::image::fault::{Fault, FaultKind};

/// Bytes of a header.
pub(super) const HEADER: usize = 312;
/// The record's checksum begins here.
pub(super) const CHECKSUM_AT: usize = 280;
/// Largest payload of a record.
const MAX_PAYLOAD: u64 = 16 << 20;
/// Largest list of properties before a stream: the order of what ZFS's own tools take.
const MAX_LIST: u64 = 64 << 20;
/// Largest bonus of an object.
const MAX_BONUS: u32 = 64 << 10;
/// What a header with a name begins with.
const MAGIC: u64 = 0x2_f5ba_cbac;

/// The order of the sender's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
}

impl Order {
    pub(super) fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    pub(super) fn u64(self, bytes: [u8; 8]) -> u64 {
        match self {
            Self::Little => u64::from_le_bytes(bytes),
            Self::Big => u64::from_be_bytes(bytes),
        }
    }
}

/// The kinds of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Begin,
    Object,
    FreeObjects,
    Write,
    Free,
    End,
    WriteByRef,
    Spill,
    WriteEmbedded,
    ObjectRange,
    Redact,
}

const KINDS: [Kind; 11] = [
    Kind::Begin,
    Kind::Object,
    Kind::FreeObjects,
    Kind::Write,
    Kind::Free,
    Kind::End,
    Kind::WriteByRef,
    Kind::Spill,
    Kind::WriteEmbedded,
    Kind::ObjectRange,
    Kind::Redact,
];

/// A header, with the order to read it by.
#[derive(Clone, Debug)]
pub(super) struct Header {
    bytes: [u8; HEADER],
    order: Order,
    /// Where it begins in the content.
    pub(super) at: u64,
}

impl Header {
    pub(super) fn new(bytes: [u8; HEADER], order: Order, at: u64) -> Self {
        Self { bytes, order, at }
    }

    /// Reads the order of a first header by its magic number.
    pub(super) fn first(bytes: [u8; HEADER], at: u64) -> Result<Self, Fault> {
        let orders = [Order::Little, Order::Big];
        let header = orders.map(|order| Self::new(bytes, order, at)).into_iter();
        header.filter(|header| header.u64(8) == MAGIC).find(|header| header.u32(0) == 0).ok_or_else(|| {
            Fault::at(FaultKind::UnknownFormat, at, "this is no ZFS stream: its magic number is wrong")
        })
    }

    pub(super) fn order(&self) -> Order {
        self.order
    }

    pub(super) fn bytes(&self) -> &[u8; HEADER] {
        &self.bytes
    }

    /// Bytes at a place of the header; zeros beyond it, which no caller asks for.
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }

    pub(super) fn u8(&self, at: usize) -> u8 {
        u8::from_le_bytes(self.array(at))
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        self.order.u32(self.array(at))
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        self.order.u64(self.array(at))
    }

    /// Four numbers of a checksum.
    pub(super) fn checksum(&self, at: usize) -> [u64; 4] {
        [0, 8, 16, 24].map(|word| self.u64(at + word))
    }

    pub(super) fn kind(&self) -> Result<Kind, Fault> {
        let number = self.u32(0);
        let kind = usize::try_from(number).ok().and_then(|number| KINDS.get(number)).copied();
        kind.ok_or_else(|| self.fault(format!("there is no record of type {number}")))
    }

    /// A fault of this record.
    pub(super) fn fault(&self, what: impl Into<String>) -> Fault {
        Fault::at(FaultKind::BadRecord, self.at, what)
    }

    /// Bytes behind the header.
    pub(super) fn payload(&self, kind: Kind) -> Result<usize, Fault> {
        let (length, limit) = match kind {
            Kind::Begin => (u64::from(self.u32(4)), MAX_LIST),
            Kind::Object => {
                let (raw, bonus) = (self.u32(36), self.u32(28));
                if raw > MAX_BONUS || bonus > MAX_BONUS {
                    return Err(self.fault(format!("an object with a bonus of {} bytes", raw.max(bonus))));
                }
                (if raw == 0 { u64::from(bonus).next_multiple_of(8) } else { raw.into() }, MAX_PAYLOAD)
            }
            Kind::Write if self.u8(50) != 0 => (self.u64(96), MAX_PAYLOAD),
            Kind::Write => (self.u64(32), MAX_PAYLOAD),
            Kind::Spill if self.u64(40) != 0 => (self.u64(40), MAX_PAYLOAD),
            Kind::Spill => (self.u64(16), MAX_PAYLOAD),
            Kind::WriteEmbedded => (u64::from(self.u32(52)).next_multiple_of(8), MAX_PAYLOAD),
            Kind::FreeObjects
            | Kind::Free
            | Kind::End
            | Kind::WriteByRef
            | Kind::ObjectRange
            | Kind::Redact => (0, 0),
        };
        match usize::try_from(length) {
            Ok(length) if length as u64 <= limit => Ok(length),
            _ => Err(self.fault(format!("a record with {length} bytes of payload"))),
        }
    }
}
