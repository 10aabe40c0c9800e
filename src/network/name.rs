//! Names of links: at most 15 characters, derived from what they are for, so that they can be found again.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::spec::Mac;

/// Characters that the kernel takes.
const MOST: usize = 15;

/// A VM's link.
pub(super) fn tap(prefix: &str, uuid: Uuid, mac: Mac) -> String {
    let digest = Sha256::new().chain_update(uuid.as_bytes()).chain_update(mac.octets()).finalize();
    hashed(prefix, &digest, MOST - prefix.len().min(4) - 1)
}

/// Names the agent's bridge for a tag and a VLAN.
pub(super) fn bridge(prefix: &str, tag: &str, vlan: i32) -> String {
    let plain = match vlan {
        0 => format!("{prefix}-{tag}"),
        _ => format!("{prefix}-{tag}.{vlan}"),
    };
    if plain.len() <= MOST && !tag.contains('/') {
        return plain;
    }
    hashed(&format!("{prefix}-"), &Sha256::digest(plain), 8)
}

/// Names a VLAN of a host interface.
pub(super) fn vlan(prefix: &str, link: &str, vlan: i32) -> String {
    let plain = format!("{link}.{vlan}");
    if plain.len() <= MOST {
        return plain;
    }
    hashed(&format!("{prefix}."), &Sha256::digest(plain), 8)
}

fn hashed(prefix: &str, digest: &[u8], digits: usize) -> String {
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}{}", digest.get(..digits).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_tell_apart() {
        let mac = |last| Mac::local([2, 0, 0, 0, 0, last]);
        for prefix in ["z", "zone"] {
            let a = tap(prefix, Uuid::from_u128(1), mac(1));
            assert!(a.len() <= 15 && a.starts_with(prefix), "{a}");
            assert_ne!(a, tap(prefix, Uuid::from_u128(1), mac(2)));
            assert_ne!(a, tap(prefix, Uuid::from_u128(2), mac(1)));
        }
        assert_eq!(bridge("zw", "admin", 0), "zw-admin");
        assert_eq!(bridge("zw", "admin", 20), "zw-admin.20");
        for long in
            [bridge("zw", "a_very_long_tag", 0), bridge("zw", "a/b", 0), bridge("zone", "external", 4095)]
        {
            assert!(long.len() <= 15 && !long.contains('/'), "{long}");
        }
        assert_ne!(bridge("zw", "a/b", 1), bridge("zw", "a/b", 2));
        assert_eq!(vlan("zw", "eth0", 20), "eth0.20");
        assert!(vlan("zw", "enp0s31f6abcd", 4095).len() <= 15);
    }
}
