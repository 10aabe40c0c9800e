//! The nic tags of this host.

use std::collections::BTreeMap;

use crate::spec::NicSpec;

use super::settings::{Settings, Tag, TagKind};

/// The nic tags of this host, as configured.
#[derive(Clone, Debug)]
pub struct Tags {
    /// None: every tag is known, and isolated.
    tags: Option<BTreeMap<String, Tag>>,
}

/// A nic tag with its present state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagReport {
    /// Its name.
    pub name: String,
    /// What it is.
    pub tag: Tag,
    /// The bridge that interfaces without a VLAN are plugged into, or the link that they share.
    pub device: Option<String>,
    /// Why no interface can be plugged now; none when one can.
    pub problem: Option<String>,
}

/// Least MTU of a network, unless only guests use it.
const USUAL_MTU: i32 = 1500;

impl Tags {
    /// As configured; `privileged` means that links can be created.
    #[must_use]
    pub fn new(settings: &Settings, privileged: bool) -> Self {
        let mut tags = settings.tags.clone();
        if tags.is_empty() {
            let kind = if privileged { TagKind::Etherstub } else { TagKind::Isolated };
            tags.insert("admin".to_owned(), Tag { kind, link: String::new(), mtu: USUAL_MTU });
        }
        Self { tags: Some(tags) }
    }

    /// As configured, or every requested tag where none is configured.
    #[must_use]
    pub fn any(settings: &Settings) -> Self {
        Self { tags: Some(settings.tags.clone()).filter(|tags| !tags.is_empty()) }
    }

    /// Each, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Tag)> {
        self.tags.iter().flatten()
    }

    /// One by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tag> {
        self.tags.as_ref()?.get(name)
    }

    /// Whether no interface can be connected to anything.
    #[must_use]
    pub fn are_isolated(&self) -> bool {
        self.iter().all(|(_, tag)| tag.kind == TagKind::Isolated)
    }

    /// Returns the tag of an interface.
    #[must_use]
    pub fn of(&self, nic: &NicSpec) -> Option<Tag> {
        match &self.tags {
            Some(tags) => tags.get(nic.nic_tag.as_deref()?).cloned(),
            None => Some(Tag { kind: TagKind::Isolated, link: String::new(), mtu: USUAL_MTU }),
        }
    }

    /// Checks an interface against its tag; an error has the field and vmadm's words.
    pub fn check(&self, nic: &NicSpec) -> Result<Tag, (&'static str, String)> {
        let name = nic.nic_tag.as_deref().unwrap_or_default();
        let Some(tag) = self.of(nic) else {
            let known: Vec<&str> = self.iter().map(|(name, _)| name.as_str()).collect();
            let known = known.join(", ");
            return Err(("nic_tag", format!("Invalid nic tag \"{name}\"; this host has: {known}")));
        };
        if let Some(mtu) = nic.mtu {
            let alone = matches!(tag.kind, TagKind::Etherstub | TagKind::Isolated);
            let least = USUAL_MTU.min(tag.mtu);
            if mtu < least && !alone {
                let why = format!("MTU is below the supported MTU ({least}) of nic tag \"{name}\"");
                return Err(("mtu", why));
            }
            if mtu > tag.mtu && tag.kind != TagKind::Isolated {
                let most = tag.mtu;
                return Err(("mtu", format!("MTU is above the MTU ({most}) of nic tag \"{name}\"")));
            }
        }
        if tag.kind == TagKind::Macvtap && nic.vlan_id.unwrap_or(0) != 0 {
            let why = format!("nic tag \"{name}\" is a macvtap, which has no VLANs");
            return Err(("vlan_id", why));
        }
        let requests_pass = matches!(tag.kind, TagKind::Etherstub | TagKind::Uplink | TagKind::Isolated)
            || (tag.kind == TagKind::Bridge && nic.vlan_id.unwrap_or(0) == 0);
        if nic.is_dynamic() && !nic.allowed_dhcp_cids.is_empty() && !requests_pass {
            let kind = tag.kind.as_str();
            let why = format!(
                "nic tag \"{name}\" is a {kind}, on which the agent can't look at DHCP requests{}",
                if tag.kind == TagKind::Bridge { " of a VLAN" } else { "" }
            );
            return Err(("allowed_dhcp_cids", why));
        }
        Ok(tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags() -> Tags {
        let mut settings = Settings::default();
        for (name, kind, mtu) in [
            ("lan", TagKind::Bridge, 1500),
            ("jumbo", TagKind::Uplink, 9000),
            ("stub", TagKind::Etherstub, 1500),
            ("shared", TagKind::Macvtap, 1500),
        ] {
            settings.tags.insert(name.to_owned(), Tag { kind, link: String::new(), mtu });
        }
        Tags::new(&settings, true)
    }

    fn check(tag: &str, mtu: Option<i32>, vlan_id: Option<i32>) -> Result<TagKind, (&'static str, String)> {
        let nic = NicSpec { nic_tag: Some(tag.to_owned()), mtu, vlan_id, ..NicSpec::default() };
        tags().check(&nic).map(|tag| tag.kind)
    }

    #[test]
    fn what_fits_and_what_does_not() {
        assert_eq!(check("lan", None, Some(20)), Ok(TagKind::Bridge));
        assert_eq!(check("lan", Some(1500), None), Ok(TagKind::Bridge));
        let (field, why) = check("lan", Some(1499), None).unwrap_err();
        assert_eq!(
            (field, why.as_str()),
            ("mtu", "MTU is below the supported MTU (1500) of nic tag \"lan\"")
        );
        assert_eq!(check("lan", Some(1501), None).unwrap_err().0, "mtu");
        assert_eq!(check("jumbo", Some(9000), None), Ok(TagKind::Uplink));
        assert_eq!(check("stub", Some(1000), None), Ok(TagKind::Etherstub));
        assert_eq!(check("shared", None, Some(0)), Ok(TagKind::Macvtap));
        assert_eq!(check("shared", None, Some(2)).unwrap_err().0, "vlan_id");
        let listed = |tag: &str, vlan_id| {
            let nic_tag = Some(tag.to_owned());
            let cids = vec!["0x01".to_owned()];
            tags().check(&NicSpec { nic_tag, vlan_id, allowed_dhcp_cids: cids, ..NicSpec::default() }).is_ok()
        };
        assert!(listed("lan", None) && listed("jumbo", Some(2)) && listed("stub", Some(2)));
        assert!(!listed("lan", Some(2)) && !listed("shared", None));
        let (field, why) = check("wan", None, None).unwrap_err();
        assert_eq!(field, "nic_tag");
        assert_eq!(why, "Invalid nic tag \"wan\"; this host has: jumbo, lan, shared, stub");
    }

    #[test]
    fn without_configuration_there_is_admin() {
        let kind = |privileged| {
            let tags = Tags::new(&Settings::default(), privileged);
            tags.iter().map(|(name, tag)| (name.clone(), tag.kind)).collect::<Vec<_>>()
        };
        assert_eq!(kind(true), [("admin".to_owned(), TagKind::Etherstub)]);
        assert_eq!(kind(false), [("admin".to_owned(), TagKind::Isolated)]);
    }
}
