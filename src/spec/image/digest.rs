//! The digest of an image's file, as registries write it: `sha256:` and hexadecimal digits.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de::Error as _};

/// A digest with its algorithm.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Digest {
    /// 64 digits.
    Sha256(String),
    /// 128 digits.
    Sha512(String),
    /// 40 digits, of manifests of imgadm.
    Sha1(String),
}

impl Digest {
    fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Sha256(digits) => ("sha256", digits),
            Self::Sha512(digits) => ("sha512", digits),
            Self::Sha1(digits) => ("sha1", digits),
        }
    }

    /// The digits.
    #[must_use]
    pub fn digits(&self) -> &str {
        self.parts().1
    }
}

impl FromStr for Digest {
    type Err = String;

    /// Digits without an algorithm are told apart by their number.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, digits) = text.split_once(':').unwrap_or(("", text));
        let digits = digits.to_ascii_lowercase();
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        match (name, digits.len()) {
            ("" | "sha256", 64) if is_hex => Ok(Self::Sha256(digits)),
            ("" | "sha512", 128) if is_hex => Ok(Self::Sha512(digits)),
            ("" | "sha1", 40) if is_hex => Ok(Self::Sha1(digits)),
            _ => Err("not a digest: sha256: and 64 hexadecimal digits, or sha512: and 128".to_owned()),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, digits) = self.parts();
        write!(f, "{name}:{digits}")
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for text in [format!("sha256:{}", "a1".repeat(32)), format!("sha512:{}", "0f".repeat(64))] {
            assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        }
        assert_eq!(
            "AB".repeat(20).parse::<Digest>().unwrap().to_string(),
            format!("sha1:{}", "ab".repeat(20))
        );
        for wrong in
            ["", "sha256:", "sha256:a1", "md5:00", &"g".repeat(64), &format!("sha512:{}", "a1".repeat(32))]
        {
            wrong.parse::<Digest>().unwrap_err();
        }
    }
}
