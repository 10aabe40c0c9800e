//! Boot letters to boot positions.
//!
//! QEMU's own `-boot order=,once=` works on letters that only a BIOS knows (OVMF ignores them), and
//! can't tell a VM's boot disk from its other ones. So both firmwares get `bootindex` of each device:
//! the positions of `once` on the command line, and those of `order` set over QMP before the guest
//! runs. The firmware's list is built when the machine is created and again at each reset, so the first boot
//! sees the former and every later one the latter automatically.

use super::{
    super::{HypervisorError, Setup},
    builder::{Bootable, Builder},
};
use crate::spec::BootOrder;

/// Returns each device's position in `order`; −1 for devices not to boot from.
fn positions(devices: &[Bootable], order: &BootOrder) -> Vec<i32> {
    let mut positions = vec![-1; devices.len()];
    let mut next = 0;
    for letter in order.letters() {
        let mut chosen: Vec<usize> =
            (0..devices.len()).filter(|i| letter_of(devices[*i]) == letter).collect();
        chosen.sort_by_key(|index| {
            !matches!(devices[*index], Bootable::Disk { first: true } | Bootable::Cd { first: true })
        });
        for index in chosen {
            positions[index] = next;
            next += 1;
        }
    }
    positions
}

/// Puts the first boot's positions on the command line, and returns the later ones.
pub(super) fn set_positions(
    b: &mut Builder,
    order: &BootOrder,
    once: Option<&BootOrder>,
    is_given: bool,
) -> Result<Setup, HypervisorError> {
    let kinds: Vec<Bootable> = b.bootables.iter().map(|(_, kind, _)| *kind).collect();
    let first_order = once.unwrap_or(order);
    let first = positions(&kinds, first_order);
    if !first.is_empty() && first.iter().all(|position| *position < 0) {
        // Firmware without any position boots from whatever it finds: here from the network, if it can.
        if !is_given {
            for (_, _, argument) in b.bootables.iter().filter(|(_, kind, _)| *kind == Bootable::Nic) {
                b.arguments[*argument].push_str(",romfile=");
            }
            return Ok(Setup::default());
        }
        let why = format!(
            "the boot order \"{first_order}\" names nothing that the VM has: c is a disk, d a CD, n the network"
        );
        return Err(HypervisorError::Plan(why));
    }
    for ((_, _, argument), position) in b.bootables.iter().zip(&first) {
        if *position >= 0 {
            b.arguments[*argument].push_str(&format!(",bootindex={position}"));
        }
    }
    let later = positions(&kinds, order);
    if later == first {
        return Ok(Setup::default());
    }
    let names = b.bootables.iter().map(|(id, _, _)| id.clone());
    Ok(Setup { boot_positions: names.zip(later).collect(), ..Setup::default() })
}

fn letter_of(device: Bootable) -> char {
    match device {
        Bootable::Disk { .. } => 'c',
        Bootable::Cd { .. } => 'd',
        Bootable::Nic => 'n',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICES: [Bootable; 4] = [
        Bootable::Disk { first: false },
        Bootable::Disk { first: true },
        Bootable::Cd { first: false },
        Bootable::Nic,
    ];

    #[test]
    fn letters_become_positions() {
        let of = |order: &str| positions(&DEVICES, &order.parse().unwrap());
        assert_eq!(of("cd"), [1, 0, 2, -1]);
        assert_eq!(of("d"), [-1, -1, 0, -1]);
        assert_eq!(of("ndc"), [3, 2, 1, 0]);
        assert_eq!(of("a"), [-1, -1, -1, -1]);
    }
}
