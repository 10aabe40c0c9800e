//! The properties of a passed-through device. `path` is what an update finds it by.

use super::{Kind, NO_DEVICES, Property, property};
use crate::spec::forms;

/// Of a device of the host.
#[rustfmt::skip]
pub const PCI_DEVICE: &[Property] = &[
    property("path", Kind::Form(forms::device_path), "The device, below /devices. Required.").bhyve().effect(NO_DEVICES),
    property("pci_slot", Kind::Form(forms::pci_slot), "Where the guest finds it: slot, bus:slot or bus:slot:function. Required.").bhyve().effect(NO_DEVICES),
    property("model", Kind::Word(&["passthru"]), "How the guest has it.").bhyve().effect(NO_DEVICES),
];
