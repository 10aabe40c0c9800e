//! Links: what a guest's interface is plugged into.
//!
//! The seam is [`Links`]. So far there is one kind of link, a port of an empty hub inside the
//! hypervisor: the interface is there, with its MAC address and its carrier, and nobody is at the
//! other end. It needs no socket and no privilege, so it stays possible in a closed zone.

use std::fmt;

use crate::spec::NicSpec;

/// The agent's end of a plugged interface, for the hypervisor.
#[derive(Debug)]
pub enum Plug {
    /// A carrier and nothing else.
    Isolated,
}

/// Makes links.
pub trait Links: Send + Sync + fmt::Debug {
    /// Plugs an interface.
    fn plug(&self, nic: &NicSpec) -> Plug;
}

/// Links that lead nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoUplink;

impl Links for NoUplink {
    fn plug(&self, _nic: &NicSpec) -> Plug {
        Plug::Isolated
    }
}
