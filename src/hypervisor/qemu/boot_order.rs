//! Boot letters to boot positions.
//!
//! QEMU's own `-boot order=,once=` works on letters that only a BIOS knows (OVMF ignores them), and
//! can't tell a VM's boot disk from its other ones. So both firmwares get `bootindex` of each device:
//! the positions of `once` on the command line, and those of `order` set over QMP before the guest
//! runs. The firmware's list is made when the machine is made and again at each reset, so the first
//! boot sees the former and every later one the latter, with nobody's help.

use crate::spec::BootOrder;

/// A device that can be booted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bootable {
    /// `c`, and whether it comes first of them.
    Disk {
        /// It does.
        first: bool,
    },
    /// `d`
    Cd,
    /// `n`
    Nic,
}

/// The position of each device for `order`; −1 for what is not to be booted from.
pub(super) fn positions(devices: &[Bootable], order: &BootOrder) -> Vec<i32> {
    let mut positions = vec![-1; devices.len()];
    let mut next = 0;
    for letter in order.letters() {
        let mut chosen: Vec<usize> =
            (0..devices.len()).filter(|i| letter_of(devices[*i]) == letter).collect();
        chosen.sort_by_key(|index| devices[*index] != Bootable::Disk { first: true });
        for index in chosen {
            positions[index] = next;
            next += 1;
        }
    }
    positions
}

fn letter_of(device: Bootable) -> char {
    match device {
        Bootable::Disk { .. } => 'c',
        Bootable::Cd => 'd',
        Bootable::Nic => 'n',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICES: [Bootable; 4] =
        [Bootable::Disk { first: false }, Bootable::Disk { first: true }, Bootable::Cd, Bootable::Nic];

    #[test]
    fn letters_become_positions() {
        let of = |order: &str| positions(&DEVICES, &order.parse().unwrap());
        assert_eq!(of("cd"), [1, 0, 2, -1]);
        assert_eq!(of("d"), [-1, -1, 0, -1]);
        assert_eq!(of("ndc"), [3, 2, 1, 0]);
        assert_eq!(of("a"), [-1, -1, -1, -1]);
    }
}
