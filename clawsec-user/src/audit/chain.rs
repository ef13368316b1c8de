//! The hash chain: each record's hash covers the record and the hash before it.
//!
//! `hash = SHA-256(prev ‖ canonical)`, or HMAC-SHA256 under `audit.chainKey`, where `prev` is the
//! 64 hexadecimal characters of the record before (zeros for the first) and `canonical` is the
//! line's bytes without its last field, `hash`, and without the newline. Being bytes of the file,
//! it can be recomputed with `sha256sum` alone.

use std::fmt;

use aws_lc_rs::{digest, hmac};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::config::Secret;

/// How links are made.
#[derive(Debug, Clone)]
pub struct Chain(Link);

#[derive(Debug, Clone)]
enum Link {
    Plain,
    Keyed(Box<hmac::Key>),
}

impl Chain {
    pub(super) const KEYED: &str = "hmac-sha256";

    /// Keyed when there is a key: then only its holder can make a chain that verifies.
    pub fn new(key: Option<&Secret>) -> Self {
        Self(match key {
            None => Link::Plain,
            Some(key) => Link::Keyed(Box::new(hmac::Key::new(
                hmac::HMAC_SHA256,
                key.reveal().as_bytes(),
            ))),
        })
    }

    /// The hash of a record that follows `prev`.
    pub fn link(&self, prev: &Digest, canonical: &[u8]) -> Digest {
        let prev = prev.to_hex();
        let mut out = [0; 32];
        match &self.0 {
            Link::Plain => {
                let mut context = digest::Context::new(&digest::SHA256);
                context.update(&prev);
                context.update(canonical);
                out.copy_from_slice(context.finish().as_ref());
            }
            Link::Keyed(key) => {
                let mut context = hmac::Context::with_key(key);
                context.update(&prev);
                context.update(canonical);
                out.copy_from_slice(context.sign().as_ref());
            }
        }
        Digest(out)
    }

    /// The name that stands in the head file.
    pub fn name(&self) -> &'static str {
        match self.0 {
            Link::Plain => "sha256",
            Link::Keyed(_) => Self::KEYED,
        }
    }
}

/// 32 bytes, written as 64 lower-case hexadecimal characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// What stands in the first record's `prev`.
    pub const ZERO: Self = Self([0; 32]);

    pub fn to_hex(self) -> [u8; 64] {
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        hex
    }

    /// Reads exactly what `to_hex` writes; capitals are refused, they would be a second spelling.
    pub fn from_hex(hex: &[u8]) -> Option<Self> {
        let nibble = |character: u8| match character {
            b'0'..=b'9' => Some(character - b'0'),
            b'a'..=b'f' => Some(character - b'a' + 10),
            _ => None,
        };
        let mut out = [0; 32];
        if hex.len() != 64 {
            return None;
        }
        for (byte, pair) in out.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self(out))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.to_hex()) {
            Ok(hex) => serializer.serialize_str(hex),
            Err(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Hex)
    }
}

/// Reads the characters where they stand, without a copy.
struct Hex;

impl de::Visitor<'_> for Hex {
    type Value = Digest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("64 lower-case hexadecimal characters")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Digest, E> {
        Digest::from_hex(text.as_bytes())
            .ok_or_else(|| E::custom("not 64 lower-case hexadecimal characters"))
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_what_sha256sum_says() {
        // printf '%064d{"v":1}' 0 | sha256sum
        let hash = Chain::new(None).link(&Digest::ZERO, b"{\"v\":1}");
        assert_eq!(hash.to_string(), PLAIN);
        let next = Chain::new(None).link(&hash, b"{\"v\":1}");
        assert_ne!(next, hash);
    }

    #[test]
    fn a_key_changes_every_link() {
        // printf '%064d{"v":1}' 0 | openssl dgst -sha256 -hmac key
        let keyed = Chain::new(Some(&Secret::new("key".to_owned())));
        assert_eq!(keyed.link(&Digest::ZERO, b"{\"v\":1}").to_string(), KEYED);
        let other = Chain::new(Some(&Secret::new("kez".to_owned())));
        assert_ne!(other.link(&Digest::ZERO, b"{\"v\":1}").to_string(), KEYED);
    }

    #[test]
    fn hex_has_one_spelling() {
        let hash = Chain::new(None).link(&Digest::ZERO, b"x");
        assert_eq!(Digest::from_hex(hash.to_string().as_bytes()), Some(hash));
        assert_eq!(
            Digest::from_hex(hash.to_string().to_uppercase().as_bytes()),
            None
        );
        assert_eq!(Digest::from_hex(b"00"), None);
    }

    const PLAIN: &str = "9d3f7943f9ccffbb7314e9cb68bd1177dcdf09638e4d05e1bff56e50346c95de";
    const KEYED: &str = "421ade8421cbe2c229882f207b7fff9808819bebb8ee66d718d41fad9bb62043";
}
