//! The running checksum of a ZFS send stream, Fletcher-4.

use super::record::Order;

/// Four sums over the stream's 32-bit words, in the sender's order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fletcher {
    sums: [u64; 4],
}

impl Fletcher {
    /// Adds bytes, whole words.
    pub(super) fn add(&mut self, bytes: &[u8], order: Order) {
        let [mut a, mut b, mut c, mut d] = self.sums;
        let (words, _) = bytes.as_chunks::<4>();
        for word in words {
            a = a.wrapping_add(order.u32(*word).into());
            b = b.wrapping_add(a);
            c = c.wrapping_add(b);
            d = d.wrapping_add(c);
        }
        self.sums = [a, b, c, d];
    }

    pub(super) fn sums(&self) -> [u64; 4] {
        self.sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_summed_in_the_senders_order() {
        let mut little = Fletcher::default();
        little.add(&[1, 0, 0, 0, 2, 0, 0, 0], Order::Little);
        assert_eq!(little.sums(), [3, 4, 5, 6]);
        let mut big = Fletcher::default();
        big.add(&[0, 0, 0, 1, 0, 0, 0, 2], Order::Big);
        assert_eq!(big.sums(), little.sums());
        let mut wraps = Fletcher { sums: [u64::MAX; 4] };
        wraps.add(&[1, 0, 0, 0], Order::Little);
        assert_eq!(wraps.sums(), [0, u64::MAX, u64::MAX - 1, u64::MAX - 2]);
    }
}
