//! Reading a packet front to back, bounds first.
//!
//! Invariant: no byte is read that was not checked to lie inside the packet.

/// A place in a packet, moved on by reading.
pub trait Cursor {
    /// Reads the next `N` bytes; `None`, and not moved, when fewer are left.
    fn take<const N: usize>(&mut self) -> Option<[u8; N]>;

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
}
