//! A message in the contract's bytes.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, skip_field},
};

/// A message that is encoded once, however many receivers it has. A copy only increments a count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed(Bytes);

impl<M: Message> From<&M> for Packed {
    fn from(message: &M) -> Self {
        Self(message.encode_to_vec().into())
    }
}

impl Message for Packed {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    /// Nobody decodes one: it is only sent.
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buf, context)
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}
