//! Reads guests' requests: headers, and the few options that matter. The crate writes replies but is not
//! trusted to read, since it panics on options that are shorter than their type requires.

use std::net::Ipv4Addr;

use dhcproto::{v4, v6};

use crate::spec::Mac;

const MAGIC: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
const PAD: u8 = 0;
const END: u8 = 255;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ETHERNET: [u8; 2] = [1, 6];

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// A message of DHCP (RFC 2131, section 2), or of BOOTP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message4<'a> {
    bytes: &'a [u8],
    /// MAC address of the interface.
    pub(super) mac: Mac,
}

impl<'a> Message4<'a> {
    /// Reads one about an Ethernet interface.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        // Everything up to the options.
        bytes.get(..236)?;
        let mac = Mac::new(array(bytes, 28)?);
        (array(bytes, 1)? == ETHERNET).then_some(Self { bytes, mac })
    }

    pub(super) fn is_request(&self) -> bool {
        self.bytes.first() == Some(&REQUEST)
    }

    pub(super) fn is_reply(&self) -> bool {
        self.bytes.first() == Some(&REPLY)
    }

    pub(super) fn id(&self) -> u32 {
        array(self.bytes, 4).map(u32::from_be_bytes).unwrap_or_default()
    }

    pub(super) fn flags(&self) -> u16 {
        array(self.bytes, 10).map(u16::from_be_bytes).unwrap_or_default()
    }

    /// The client's address.
    pub(super) fn client(&self) -> Ipv4Addr {
        self.address(12)
    }

    /// The assigned address.
    pub(super) fn yours(&self) -> Ipv4Addr {
        self.address(16)
    }

    /// Its relay.
    pub(super) fn relay(&self) -> Ipv4Addr {
        self.address(24)
    }

    fn address(&self, at: usize) -> Ipv4Addr {
        array::<4>(self.bytes, at).map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from)
    }

    /// `None` means BOOTP.
    pub(super) fn kind(&self) -> Option<v4::MessageType> {
        self.option(v4::OptionCode::MessageType)?.first().map(|kind| v4::MessageType::from(*kind))
    }

    /// Returns the first option of a code.
    pub(super) fn option(&self, code: v4::OptionCode) -> Option<&'a [u8]> {
        let wanted = u8::from(code);
        if array(self.bytes, 236)? != MAGIC {
            return None;
        }
        let mut left = self.bytes.get(240..)?;
        loop {
            match left {
                [PAD, rest @ ..] => left = rest,
                [END, ..] | [] | [_] => return None,
                [code, length, rest @ ..] => {
                    let value = rest.get(..usize::from(*length))?;
                    if *code == wanted {
                        return Some(value);
                    }
                    left = rest.get(value.len()..)?;
                }
            }
        }
    }
}

/// A message of DHCPv6 between client and server (RFC 8415, section 8).
#[derive(Clone, Copy, Debug)]
pub(super) struct Message6<'a> {
    pub(super) kind: v6::MessageType,
    pub(super) id: [u8; 3],
    options: &'a [u8],
}

impl<'a> Message6<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (id, options) = rest.split_first_chunk()?;
        Some(Self { kind: v6::MessageType::from(*kind), id: *id, options })
    }

    /// Returns all options of a code.
    pub(super) fn options(&self, code: v6::OptionCode) -> impl Iterator<Item = &'a [u8]> {
        let (wanted, mut left) = (u16::from(code), self.options);
        let next = move || {
            let (code, length) = (u16::from_be_bytes(array(left, 0)?), u16::from_be_bytes(array(left, 2)?));
            let value = left.get(4..)?.get(..usize::from(length))?;
            left = left.get(4 + value.len()..)?;
            Some((code, value))
        };
        std::iter::from_fn(next).filter(move |(code, _)| *code == wanted).map(|(_, value)| value)
    }

    /// Returns the first option.
    pub(super) fn option(&self, code: v6::OptionCode) -> Option<&'a [u8]> {
        self.options(code).next()
    }
}
