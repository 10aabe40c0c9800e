//! A place on a guest's PCI buses.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct PciSlot {
    /// 0 is the machine's own.
    pub bus: u8,
    /// 0 to 31.
    pub device: u8,
    /// 0 to 7.
    pub function: u8,
}

impl PciSlot {
    /// The first function of a device on bus 0.
    #[must_use]
    pub const fn device(device: u8) -> Self {
        Self { bus: 0, device, function: 0 }
    }

    /// Another function of the same device.
    #[must_use]
    pub const fn with_function(self, function: u8) -> Self {
        Self { function, ..self }
    }

    /// Whether both are of one device.
    #[must_use]
    pub fn shares_device(self, other: Self) -> bool {
        (self.bus, self.device) == (other.bus, other.device)
    }
}

/// In a record: the number of a device on bus 0, or all three.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Device(u8),
    Whole(String),
}

impl From<PciSlot> for Written {
    fn from(slot: PciSlot) -> Self {
        match slot {
            PciSlot { bus: 0, device, function: 0 } => Self::Device(device),
            _ => Self::Whole(slot.to_string()),
        }
    }
}

impl TryFrom<Written> for PciSlot {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Device(device) => device.to_string().parse(),
            Written::Whole(text) => text.parse(),
        }
    }
}

impl fmt::Display for PciSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.bus, self.device, self.function)
    }
}

/// As vmadm reads it: `device`, `device:function` or `bus:device:function`.
impl FromStr for PciSlot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<Option<u8>> = text.split(':').map(|part| part.parse().ok()).collect();
        let slot = match parts[..] {
            [Some(device)] => Some((0, device, 0)),
            [Some(device), Some(function)] => Some((0, device, function)),
            [Some(bus), Some(device), Some(function)] => Some((bus, device, function)),
            _ => None,
        };
        let slot = slot.filter(|(_, device, function)| *device < 32 && *function < 8);
        let (bus, device, function) = slot.ok_or_else(|| format!("pci_slot \"{text}\" is not valid"))?;
        Ok(Self { bus, device, function })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_as_short_as_before() {
        let written = |slot: PciSlot| serde_json::to_string(&slot).unwrap();
        assert_eq!(written(PciSlot::device(5)), "5");
        assert_eq!(written("0:4:1".parse().unwrap()), "\"0:4:1\"");
        for text in ["7", "\"0:4:1\"", "\"3:0:0\""] {
            assert_eq!(written(serde_json::from_str(text).unwrap()), text);
        }
        assert!(serde_json::from_str::<PciSlot>("\"0:32:0\"").is_err());
    }
}
