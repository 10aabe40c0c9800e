//! The properties of a volume: a small table of names and numbers, of which `size` is needed.

use super::record::Order;

/// What the only kind of table begins with that a volume has.
const MICRO: u64 = 0x8000_0000_0000_0003;
/// Bytes of an entry, and of the header before them.
const ENTRY: usize = 64;

/// Returns the volume's size in bytes; `None` if the table has none, or is of another kind.
pub(super) fn volume_size(table: &[u8], order: Order) -> Option<u64> {
    let number = |bytes: &[u8]| Some(order.u64(bytes.get(..8)?.try_into().ok()?));
    if number(table)? != MICRO {
        return None;
    }
    let (entries, _) = table.get(ENTRY..)?.as_chunks::<ENTRY>();
    let size = entries.iter().find(|entry| name(entry.get(14..).unwrap_or_default()) == b"size")?;
    number(size)
}

fn name(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_is_found_in_any_place() {
        let mut table = vec![0; 512];
        table[..8].copy_from_slice(&MICRO.to_le_bytes());
        assert_eq!(volume_size(&table, Order::Little), None);
        for (place, name, value) in [(2, "sizes", 1_u64), (4, "size", 4 << 20)] {
            let at = ENTRY * place;
            table[at..at + 8].copy_from_slice(&value.to_le_bytes());
            table[at + 14..at + 14 + name.len()].copy_from_slice(name.as_bytes());
        }
        assert_eq!(volume_size(&table, Order::Little), Some(4 << 20));
        assert_eq!(volume_size(&table, Order::Big), None);
        assert_eq!(volume_size(&[], Order::Little), None);
    }
}
