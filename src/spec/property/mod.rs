//! Every property of a machine, in one table: the only place that defines a property's name, type, brands,
//! the actions that accept it, when it takes effect, its default, and its display. Coercion, validation,
//! updates, columns, `vmadm help properties`, the JSON schema and `docs/properties.md` derive from it.

mod disk;
mod document;
mod nic;
mod pci;
mod schema;
mod vm;

pub use disk::DISK;
pub use document::markdown;
pub use nic::NIC;
pub use pci::PCI_DEVICE;
pub use schema::schema;
pub use vm::VM;

use super::Brand;

/// One property.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// In a machine JSON.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// What it means, in one sentence.
    pub about: &'static str,
    /// Which brands have it.
    pub brands: Brands,
    /// When it may be given.
    pub given: Given,
    /// When it takes effect.
    pub effect: Effect,
    /// Its default.
    pub default: Default,
    /// Header and width in `vmadm list`; `None`: not a column.
    pub column: Option<(&'static str, usize)>,
}

/// The type of a property. Text forms are accepted as in vmadm: `"1024"` for a number, `"true"` for a flag,
/// `"a,b"` for a list.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A whole number between two, in a unit.
    Integer(i64, i64, &'static str),
    /// A whole number between two, or one of some words.
    IntegerOr(i64, i64, &'static str, &'static [&'static str]),
    /// `true` or `false`.
    Boolean,
    /// Text of at most so many bytes, without control characters.
    Text(usize),
    /// The same, never shown.
    Secret(usize),
    /// One of some words.
    Word(&'static [&'static str]),
    /// A UUID in lower case.
    Uuid,
    /// A MAC address.
    Mac,
    /// An IPv4 address.
    Ipv4,
    /// An IPv4 address or `dhcp`.
    NicAddress,
    /// Text with a form of its own, checked by a function.
    Form(fn(&str) -> Result<(), String>),
    /// Some of these, at most so many.
    List(&'static Kind, usize),
    /// Keys to strings, numbers and flags.
    FlatObject,
    /// Objects with properties of their own; the first names the one by which an update finds them.
    Objects(&'static [Property]),
}

/// Which brands have a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brands {
    /// All.
    Both,
    /// One.
    Only(Brand),
}

/// When a property may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// At creation and later.
    Always,
    /// At creation only: it can't be changed.
    AtCreation,
    /// In updates only.
    InUpdates,
    /// Never: the agent knows it.
    Never,
    /// Never: SmartOS's objects have it, and here it is shown as its default says.
    Foreign,
    /// Accepted, and not kept: it is a property of SmartOS's other brands.
    OtherBrands,
}

/// When a property takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// At once, also while the VM runs.
    Live,
    /// When the VM is started next.
    NextBoot,
    /// It is kept and shown but has no effect here, for this reason.
    None(&'static str),
    /// It is a label: it never does anything.
    Label,
}

/// The default of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// Nothing.
    Absent,
    /// This JSON.
    Value(&'static str),
    /// This JSON for kvm, and that for bhyve.
    ByBrand(&'static str, &'static str),
    /// A computed value, in words.
    Computed(&'static str),
}

const ZFS: Effect = Effect::None("volumes are files on this host, not ZFS");
const ILLUMOS: Effect = Effect::None("it is a setting of illumos");
const NO_DEVICES: Effect =
    Effect::None("this agent passes no devices of the host through: a VM that has some does not start");

const fn property(name: &'static str, kind: Kind, about: &'static str) -> Property {
    Property {
        name,
        kind,
        about,
        brands: Brands::Both,
        given: Given::Always,
        effect: Effect::NextBoot,
        default: Default::Absent,
        column: None,
    }
}

impl Property {
    const fn kvm(self) -> Self {
        Self { brands: Brands::Only(Brand::Kvm), ..self }
    }

    const fn bhyve(self) -> Self {
        Self { brands: Brands::Only(Brand::Bhyve), ..self }
    }

    const fn fixed(self) -> Self {
        Self { given: Given::AtCreation, ..self }
    }

    const fn in_updates(self) -> Self {
        Self { given: Given::InUpdates, ..self }
    }

    const fn known(self) -> Self {
        Self { given: Given::Never, effect: Effect::Label, ..self }
    }

    /// Shown as this JSON.
    const fn foreign(self, shown: &'static str) -> Self {
        Self { given: Given::Foreign, effect: Effect::Label, default: Default::Value(shown), ..self }
    }

    /// Not shown: SmartOS's objects have it only while something is amiss.
    const fn foreign_hidden(self) -> Self {
        Self { default: Default::Absent, ..self.foreign("null") }
    }

    /// Shown as this JSON, too.
    const fn of_other_brands(self, shown: &'static str) -> Self {
        Self { given: Given::OtherBrands, ..self.foreign(shown) }
    }

    /// Not shown: it is a verb.
    const fn of_other_brands_hidden(self) -> Self {
        Self { default: Default::Absent, ..self.of_other_brands("null") }
    }

    /// The value that each VM shows of a property that no VM here has.
    pub(crate) fn shown_as(&self) -> Option<&'static str> {
        match (self.given, self.default) {
            (Given::Foreign | Given::OtherBrands, Default::Value(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether VMs show it.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        !matches!(self.kind, Kind::Secret(_))
            && self.given != Given::InUpdates
            && (!matches!(self.given, Given::Foreign | Given::OtherBrands) || self.shown_as().is_some())
    }

    /// Whether a payload may contain it but it is ignored, as in the output of `vmadm get`.
    pub(crate) fn is_never_given(&self) -> bool {
        matches!(self.given, Given::Never | Given::Foreign | Given::OtherBrands)
    }

    const fn effect(self, effect: Effect) -> Self {
        Self { effect, ..self }
    }

    const fn default(self, default: Default) -> Self {
        Self { default, ..self }
    }

    const fn column(self, header: &'static str, width: usize) -> Self {
        Self { column: Some((header, width)), ..self }
    }

    /// Whether VMs of that brand have it.
    #[must_use]
    pub fn is_for(&self, brand: Brand) -> bool {
        match self.brands {
            Brands::Both => true,
            Brands::Only(only) => only == brand,
        }
    }
}

/// Finds a property by name.
#[must_use]
pub fn find<'t>(table: &'t [Property], name: &str) -> Option<&'t Property> {
    table.iter().find(|property| property.name == name)
}

/// Powers of two in a range.
fn power_of_two(value: i64, least: i64, most: i64) -> bool {
    (least..=most).contains(&value) && value & (value - 1) == 0
}

/// vmadm's rule for block sizes.
#[must_use]
pub fn is_block_size(value: i64) -> bool {
    power_of_two(value, 512, 131_072)
}
