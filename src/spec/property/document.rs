//! The table for people, as Markdown.

use std::fmt::Write as _;

use super::{Brands, DISK, Default, Effect, Given, Kind, NIC, PCI_DEVICE, Property, VM};

/// `docs/properties.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# The properties of a machine\n\n\
         Made from the table that the agent itself uses (`src/spec/property`). Names, units and coercions are\n\
         vmadm's: a number may come as text, a flag as `\"true\"`, a list as `\"a,b\"`; `null` and `\"\"` are nothing.\n\
         What is kept without an effect on this host is told in the reply of the call that gave it.\n",
    );
    for (title, table) in [
        ("Of a VM", VM),
        ("Of an entry of `disks`", DISK),
        ("Of an entry of `nics`", NIC),
        ("Of an entry of `pci_devices`", PCI_DEVICE),
    ] {
        let _ = write!(
            text,
            "\n## {title}\n\n| property | type | brands | given | takes effect | default | |\n|---|---|---|---|---|---|---|\n"
        );
        for property in table {
            let _ = writeln!(text, "{}", row(property));
        }
    }
    text
}

fn row(property: &Property) -> String {
    let brands = match property.brands {
        Brands::Both => "both",
        Brands::Only(brand) => brand.as_str(),
    };
    let given = match property.given {
        Given::Always => "always",
        Given::AtCreation => "at creation",
        Given::InUpdates => "in updates",
        Given::Never => "never: the agent knows it",
        Given::Foreign => "never: SmartOS's objects have it",
        Given::OtherBrands => "without effect: it is for SmartOS's other brands",
    };
    let effect = match property.effect {
        Effect::Live => "at once".to_owned(),
        Effect::NextBoot => "next boot".to_owned(),
        Effect::None(why) => format!("none: {why}"),
        Effect::Label => "a label".to_owned(),
    };
    let default = match property.default {
        Default::Absent => String::new(),
        Default::Value(text) => format!("`{text}`"),
        Default::ByBrand(kvm, bhyve) => format!("`{kvm}` (kvm), `{bhyve}` (bhyve)"),
        Default::Computed(words) => words.to_owned(),
    };
    let kind = kind(&property.kind);
    format!(
        "| `{}` | {kind} | {brands} | {given} | {effect} | {default} | {} |",
        property.name, property.about
    )
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Integer(least, most, unit) => format!("{least} to {most} {unit}").trim_end().to_owned(),
        Kind::IntegerOr(least, most, unit, words) => {
            format!("{least} to {most} {unit}, or {}", words.join(", "))
        }
        Kind::Boolean => "flag".to_owned(),
        Kind::Text(most) => format!("text, {most} bytes"),
        Kind::Secret(most) => format!("secret, {most} bytes"),
        Kind::Word(words) => words.join(", "),
        Kind::Uuid => "UUID".to_owned(),
        Kind::Mac => "MAC address".to_owned(),
        Kind::Ipv4 => "IPv4 address".to_owned(),
        Kind::NicAddress => "IPv4 address or dhcp".to_owned(),
        Kind::Form(_) => "text".to_owned(),
        Kind::List(of, most) => format!("list of at most {most}: {}", self::kind(of)),
        Kind::FlatObject => "keys to strings, numbers, flags".to_owned(),
        Kind::Objects(_) => "list of objects".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    /// `UPDATE=1 cargo test` writes it again.
    #[test]
    fn the_document_is_the_tables() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/properties.md");
        let text = super::markdown();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == text,
            "docs/properties.md is not what the table says; UPDATE=1 cargo test writes it"
        );
    }
}
