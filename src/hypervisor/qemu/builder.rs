//! Builds a QEMU command line: options, descriptors, and devices with their places.

use std::{collections::BTreeSet, fs::File, ops::Range, os::fd::OwnedFd};

use super::super::HypervisorError;
use crate::spec::PciSlot;

/// The agent's first descriptor number; lower ones are standard streams and the launcher's.
const FIRST_DESCRIPTOR: i32 = 10;
/// A device that can be booted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bootable {
    /// `c`, and whether it comes first of them.
    Disk {
        /// It does.
        first: bool,
    },
    /// `d`, likewise.
    Cd {
        /// It does.
        first: bool,
    },
    /// `n`
    Nic,
}

/// A command line under construction.
pub(super) struct Builder {
    pub(super) arguments: Vec<String>,
    pub(super) descriptors: Vec<(OwnedFd, i32)>,
    /// PCI slots that are taken.
    slots: BTreeSet<PciSlot>,
    /// Device, its kind to the firmware, and its argument's index.
    pub(super) bootables: Vec<(String, Bootable, usize)>,
}

impl Builder {
    /// Starts with these PCI slots taken.
    pub(super) fn new(slots: BTreeSet<PciSlot>) -> Self {
        Self { arguments: Vec::new(), descriptors: Vec::new(), slots, bootables: Vec::new() }
    }

    pub(super) fn flag(&mut self, name: &str) {
        self.arguments.push(name.to_owned());
    }

    pub(super) fn option(&mut self, name: &str, value: impl Into<String>) {
        self.arguments.push(name.to_owned());
        self.arguments.push(value.into());
    }

    /// Appends an operator's arguments.
    pub(super) fn words(&mut self, text: &str) {
        self.arguments.extend(text.split_whitespace().map(str::to_owned));
    }

    /// Adds a device that the firmware can boot from.
    pub(super) fn bootable(&mut self, id: &str, kind: Bootable, value: String) {
        self.option("-device", value);
        self.bootables.push((id.to_owned(), kind, self.arguments.len() - 1));
    }

    pub(super) fn descriptor(&mut self, descriptor: impl Into<OwnedFd>) -> i32 {
        // A plan has a few dozen descriptors at most.
        let number = FIRST_DESCRIPTOR + i32::try_from(self.descriptors.len()).unwrap_or(i32::MAX);
        self.descriptors.push((descriptor.into(), number));
        number
    }

    /// Adds a block node on a descriptor, not a path. Its format is explicit, never probed.
    pub(super) fn node(&mut self, name: &str, descriptor: impl Into<OwnedFd>, read_only: bool) {
        let number = self.descriptor(descriptor);
        let mode = if read_only { "rdonly" } else { "rdwr" };
        let read_only = if read_only { "on" } else { "off" };
        self.option("-add-fd", format!("fd={number},set={number},opaque={mode}:{name}"));
        self.option(
            "-blockdev",
            format!("driver=file,node-name={name}-file,filename=/dev/fdset/{number},read-only={read_only},discard=unmap"),
        );
        self.option(
            "-blockdev",
            format!("driver=raw,node-name={name},file={name}-file,read-only={read_only},discard=unmap"),
        );
    }

    /// Adds the node of an overlay over an image. The chain is the agent's: the header of a file that a guest wrote
    /// names nothing.
    pub(super) fn overlay(&mut self, name: &str, overlay: File, image: File) {
        let base = format!("{name}-image");
        self.node(&base, image, true);
        let number = self.descriptor(overlay);
        self.option("-add-fd", format!("fd={number},set={number},opaque=rdwr:{name}"));
        self.option(
            "-blockdev",
            format!("driver=file,node-name={name}-file,filename=/dev/fdset/{number},discard=unmap"),
        );
        self.option(
            "-blockdev",
            format!("driver=qcow2,node-name={name},file={name}-file,backing={base},discard=unmap"),
        );
    }

    /// Takes the highest device of bus 0 in a range that has no function in use.
    pub(super) fn free_device(&mut self, devices: Range<u8>) -> Result<PciSlot, HypervisorError> {
        let found = devices.rev().map(PciSlot::device).find(|slot| self.take(*slot));
        found.ok_or_else(|| {
            let message = "the machine has no free PCI device for another disk, interface or bridge";
            HypervisorError::Plan(message.to_owned())
        })
    }

    /// Takes a device, unless a function of it is in use.
    pub(super) fn take(&mut self, slot: PciSlot) -> bool {
        let is_free = !self.slots.iter().any(|taken| taken.shares_device(slot));
        is_free && self.slots.insert(slot)
    }

    /// Whether another function of the slot's device is in use.
    pub(super) fn is_shared(&self, slot: PciSlot) -> bool {
        self.slots.iter().any(|taken| taken.shares_device(slot) && *taken != slot)
    }
}
