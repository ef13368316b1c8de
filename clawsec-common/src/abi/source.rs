//! A source, as one number of 128 bits.

/// One source as limits and bans know it: an IPv4 address in its IPv6-mapped form, or the first
/// 64 bits of an IPv6 address and zeros (one host owns a whole /64). The two never meet: the
/// last 8 bytes are zero in the second form only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C)]
pub struct SourceKey {
    /// The 16 bytes in network order, as words that were read from memory.
    pub words: [u64; 2],
}

impl SourceKey {
    /// No source: the packet ended before one.
    pub const UNKNOWN: Self = Self { words: [0; 2] };

    /// From words that were read from memory.
    #[must_use]
    #[inline(always)]
    pub const fn of_words(words: [u64; 2]) -> Self {
        Self { words }
    }

    /// An IPv4 address, as a word that was read from memory, in IPv6-mapped form.
    #[must_use]
    #[inline(always)]
    pub const fn mapped(address: u32) -> Self {
        const PREFIX: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
        Self {
            words: [0, PREFIX | (address as u64) << 32],
        }
    }

    #[must_use]
    #[inline(always)]
    pub const fn v4(address: [u8; 4]) -> Self {
        Self::mapped(u32::from_ne_bytes(address))
    }

    /// The /64 that an IPv6 address is in.
    #[must_use]
    #[inline(always)]
    pub const fn v6(address: [u8; 16]) -> Self {
        Self::of_bytes(address).network()
    }

    /// The first 64 bits, and zeros.
    #[must_use]
    #[inline(always)]
    pub const fn network(self) -> Self {
        let [network, _] = self.words;
        Self {
            words: [network, 0],
        }
    }

    /// All of an address: what a packet's source is before it is a key.
    #[must_use]
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are meant")]
    pub const fn of_bytes(address_be: [u8; 16]) -> Self {
        // On a little-endian host, which is asserted below, the first byte is the lowest.
        let bits = u128::from_le_bytes(address_be);
        Self {
            words: [bits as u64, (bits >> 64) as u64],
        }
    }

    #[must_use]
    #[inline(always)]
    pub const fn address_be(self) -> [u8; 16] {
        let [first, second] = self.words;
        (first as u128 | (second as u128) << 64).to_le_bytes()
    }
}
