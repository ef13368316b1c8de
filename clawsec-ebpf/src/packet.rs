//! Reading a packet front to back, bounds first.
//!
//! Invariant: no byte is read that was not checked to lie inside the packet. A `Cursor` checks
//! a header's length once; what it then gives reads fields at places that are checked when this
//! is compiled.

/// A place in a packet, moved on by reading.
pub trait Cursor {
    type Header<const N: usize>: Header<N>;

    /// Gives the next `N` bytes; `None`, and not moved, when fewer are left.
    fn take<const N: usize>(&mut self) -> Option<Self::Header<N>>;

    /// Moves on by `bytes`, at most 2048. The bytes may be past the end: the next `take` says so.
    fn skip(&mut self, bytes: usize);

    /// The same number, of which the compiler may assume nothing. In the kernel it keeps a
    /// choice that is written as arithmetic from becoming a branch.
    #[must_use]
    #[inline(always)]
    fn opaque(number: u32) -> u32 {
        number
    }
}

/// `N` bytes inside the packet.
pub trait Header<const N: usize>: Copy {
    fn u8<const AT: usize>(self) -> u8;
    /// A number in network order.
    fn u16<const AT: usize>(self) -> u16;
    /// A number in network order.
    fn u32<const AT: usize>(self) -> u32;
    /// Four bytes as they lie in memory.
    fn four<const AT: usize>(self) -> u32;
    /// Eight bytes as they lie in memory.
    fn eight<const AT: usize>(self) -> u64;
}

/// Headers held as bytes: the host's, and those that a helper of the kernel has copied.
impl<const N: usize> Header<N> for [u8; N] {
    #[inline(always)]
    fn u8<const AT: usize>(self) -> u8 {
        let [byte] = bytes::<N, AT, 1>(&self);
        byte
    }

    #[inline(always)]
    fn u16<const AT: usize>(self) -> u16 {
        u16::from_be_bytes(bytes::<N, AT, 2>(&self))
    }

    #[inline(always)]
    fn u32<const AT: usize>(self) -> u32 {
        u32::from_be_bytes(bytes::<N, AT, 4>(&self))
    }

    #[inline(always)]
    fn four<const AT: usize>(self) -> u32 {
        u32::from_ne_bytes(bytes::<N, AT, 4>(&self))
    }

    #[inline(always)]
    fn eight<const AT: usize>(self) -> u64 {
        u64::from_ne_bytes(bytes::<N, AT, 8>(&self))
    }
}

/// `M` bytes of `N` from `AT` on; does not compile where there are fewer.
#[inline(always)]
fn bytes<const N: usize, const AT: usize, const M: usize>(from: &[u8; N]) -> [u8; M] {
    const { assert!(AT + M <= N) };
    let mut bytes = [0; M];
    for (to, from) in bytes.iter_mut().zip(from.iter().skip(AT)) {
        *to = *from;
    }
    bytes
}

/// A packet held as a slice: tests, replay and everything else on the host.
#[derive(Debug, Clone)]
pub struct Frame<'a> {
    rest: &'a [u8],
}

impl<'a> Frame<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl Cursor for Frame<'_> {
    type Header<const N: usize> = [u8; N];

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or(&[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_no_byte_past_the_end() {
        let mut frame = Frame::new(&[1, 2, 3, 4, 5]);
        assert_eq!(frame.take::<2>(), Some([1, 2]));
        assert_eq!(frame.take::<4>(), None);
        assert_eq!(frame.take::<1>(), Some([3]), "a refused take moves nothing");
        frame.skip(9);
        assert_eq!(frame.take::<1>(), None);
    }

    #[test]
    fn reads_fields_by_their_place() {
        let header = [0, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(header.u8::<8>(), 8);
        assert_eq!(header.u16::<7>(), 0x0708);
        assert_eq!(header.u32::<1>(), 0x0102_0304);
        assert_eq!(header.four::<5>(), u32::from_ne_bytes([5, 6, 7, 8]));
        let eight = u64::from_ne_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(header.eight::<1>(), eight);
    }
}
