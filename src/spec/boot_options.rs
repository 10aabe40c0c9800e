//! One-shot boot options: `order=cd,once=d cdrom=/tiny.iso,ide disk=/x.raw,virtio`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    Brand,
    disk::{DiskModel, Media},
    hint::closest,
    validate::zone_path,
    violation::Violation,
};

/// The options of one boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootOptions {
    /// The order, from now until the VM stops.
    pub order: Option<BootOrder>,
    /// The order until the guest resets for the first time.
    pub once: Option<BootOrder>,
    /// More devices, behind the VM's own.
    pub devices: Vec<BootDevice>,
}

/// A CD or disk for one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootDevice {
    /// Inside the zone's root, or one of the VM's own disks.
    pub path: String,
    /// How the guest sees it.
    pub model: DiskModel,
    /// CD or disk.
    pub media: Media,
}

/// Letters of boot devices: `a`, `b` floppy, `c` disk, `d` CD, `n` network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootOrder(String);

impl BootOrder {
    /// The letters.
    pub fn letters(&self) -> impl Iterator<Item = char> + '_ {
        self.0.chars()
    }
}

impl Default for BootOrder {
    fn default() -> Self {
        Self("cd".to_owned())
    }
}

impl fmt::Display for BootOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BootOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let letters = "abcdn";
        if text.is_empty() {
            return Err(format!("a boot order is some of the letters {letters}, like cd"));
        }
        for (index, letter) in text.char_indices() {
            if !letters.contains(letter) {
                return Err(format!(
                    "'{letter}' in the boot order {text:?} is not one of: a, b (floppy), c (disk), d (CD), n (network)"
                ));
            }
            if text[..index].contains(letter) {
                return Err(format!("'{letter}' stands twice in the boot order {text:?}"));
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl BootOptions {
    /// Reads the command line's form: `key=value` words. The error is vmadm's sentence.
    pub fn from_words<S: AsRef<str>>(words: &[S]) -> Result<Self, String> {
        let mut options = Self::default();
        for word in words {
            let word = word.as_ref();
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "order" if options.order.is_some() || options.once.is_some() => {
                    return Err("You can only specify 'order' once when starting a VM.".to_owned());
                }
                "order" => options.read_order(value)?,
                "cdrom" => options.devices.push(device(key, value, Media::Cdrom)?),
                "disk" => options.devices.push(device(key, value, Media::Disk)?),
                other => {
                    let hint = closest(other, ["order", "cdrom", "disk"].into_iter());
                    return Err(format!("Invalid argument to start: {other}{hint}"));
                }
            }
        }
        Ok(options)
    }

    /// `cd` or `cd,once=d`.
    fn read_order(&mut self, value: &str) -> Result<(), String> {
        let mut parts = value.split(',');
        self.order = Some(parts.next().unwrap_or_default().parse()?);
        for part in parts {
            let Some(once) = part.strip_prefix("once=") else {
                return Err(format!(
                    "Invalid argument to start: {part:?} in order={value}; only once= may follow, like order=cd,once=d"
                ));
            };
            if self.once.is_some() {
                return Err(format!("once= stands twice in order={value}"));
            }
            self.once = Some(once.parse()?);
        }
        Ok(())
    }

    /// Checks them for a VM of a brand.
    #[must_use]
    pub fn check(&self, brand: Brand) -> Vec<Violation> {
        let mut found = Vec::new();
        if self.devices.len() > 8 {
            found.push(Violation::value("options.devices", "at most 8 for one boot"));
        }
        for (index, device) in self.devices.iter().enumerate() {
            if let Err(why) = zone_path(&device.path) {
                found.push(Violation::value(format!("options.devices.{index}.path"), why));
            }
            if let Some(why) = device.model.fault(brand) {
                found.push(Violation::value(format!("options.devices.{index}.model"), why));
            }
        }
        found
    }
}

fn device(key: &str, value: &str, media: Media) -> Result<BootDevice, String> {
    let (path, model) = value
        .rsplit_once(',')
        .filter(|(path, model)| !path.is_empty() && !model.is_empty())
        .ok_or_else(|| format!("Parameter to {key} must be: path,model"))?;
    Ok(BootDevice { path: path.to_owned(), model: DiskModel::parse(model)?, media })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journeys_words() {
        let options = BootOptions::from_words(&["order=cd,once=d", "cdrom=/tiny.iso,ide"]).unwrap();
        assert_eq!(options.order.as_ref().unwrap().to_string(), "cd");
        assert_eq!(options.once.as_ref().unwrap().to_string(), "d");
        assert_eq!(
            options.devices,
            [BootDevice { path: "/tiny.iso".into(), model: DiskModel::Ide, media: Media::Cdrom }]
        );
        assert_eq!(options.check(Brand::Kvm), []);
    }

    #[test]
    fn what_vmadm_says() {
        let error = |words: &[&str]| BootOptions::from_words(words).unwrap_err();
        assert_eq!(error(&["order=c", "order=d"]), "You can only specify 'order' once when starting a VM.");
        assert_eq!(error(&["cdrom=/x.iso"]), "Parameter to cdrom must be: path,model");
        assert_eq!(error(&["disk=,ide"]), "Parameter to disk must be: path,model");
        assert_eq!(error(&["odrer=c"]), "Invalid argument to start: odrer; did you mean \"order\"?");
        assert_eq!(error(&["tty"]), "Invalid argument to start: tty");
        assert_eq!(
            error(&["disk=/x,floppy"]),
            "\"floppy\" is not a disk model; there are: virtio, scsi, ide, ahci, nvme"
        );
        for bad in
            ["order=", "order=x", "order=cc", "order=c,twice=d", "order=c,once=", "order=c,once=d,once=c"]
        {
            BootOptions::from_words(&[bad]).unwrap_err();
        }
    }

    #[test]
    fn order_of_devices_is_kept() {
        let options = BootOptions::from_words(&["disk=/b,ide", "cdrom=/a,scsi", "disk=/c,,virtio"]).unwrap();
        let paths: Vec<&str> = options.devices.iter().map(|d| d.path.as_str()).collect();
        assert_eq!(paths, ["/b", "/a", "/c,"]);
    }

    #[test]
    fn paths_are_checked() {
        for bad in ["x.iso", "/a/../b", "/a//b", "/./a"] {
            let options = BootOptions::from_words(&[format!("cdrom={bad},ide")]).unwrap();
            assert_eq!(options.check(Brand::Kvm).len(), 1, "{bad}");
        }
    }
}
