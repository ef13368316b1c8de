//! The old format: one head with link type and byte order, then records.
//!
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html>

use std::io::Read;

use super::source::Source;
use super::{CaptureError, Captured, Order};

#[derive(Debug, Clone, Copy)]
pub(super) struct Pcap {
    order: Order,
    /// Nanoseconds in one unit of a record's fraction of a second.
    unit_ns: u64,
    link: u16,
}

impl Pcap {
    /// By the first four bytes of the file.
    pub(super) fn recognise(magic: [u8; 4]) -> Option<Self> {
        let (order, unit_ns) = match magic {
            [0xa1, 0xb2, 0xc3, 0xd4] => (Order::Big, 1_000),
            [0xd4, 0xc3, 0xb2, 0xa1] => (Order::Little, 1_000),
            [0xa1, 0xb2, 0x3c, 0x4d] => (Order::Big, 1),
            [0x4d, 0x3c, 0xb2, 0xa1] => (Order::Little, 1),
            _ => return None,
        };
        Some(Self {
            order,
            unit_ns,
            link: 0,
        })
    }

    /// Reads the rest of the head.
    pub(super) fn open<R: Read>(mut self, source: &mut Source<R>) -> Result<Self, CaptureError> {
        let version = self.order.u16(source.take("the file's head")?);
        if version != 2 {
            return Err(source.malformed("a version of pcap other than 2"));
        }
        // Minor version, time zone, accuracy, snap length: of no use to the reader.
        source.skip(2 + 4 + 4 + 4, "the file's head")?;
        // The upper half says how long a frame check sequence follows each frame; behind the
        // datagram it is padding.
        let link = self.order.u32(source.take("the file's head")?) & 0xffff;
        self.link = u16::try_from(link).unwrap_or(u16::MAX);
        Ok(self)
    }

    pub(super) fn link(self) -> u16 {
        self.link
    }

    pub(super) fn next<R: Read>(
        self,
        source: &mut Source<R>,
    ) -> Result<Option<Captured<'_>>, CaptureError> {
        let Some(seconds) = source.first::<4>()? else {
            return Ok(None);
        };
        let seconds = u64::from(self.order.u32(seconds));
        let fraction = u64::from(self.order.u32(source.take("a record's head")?));
        let kept_bytes = self.order.u32(source.take("a record's head")?);
        let wire_bytes = self.order.u32(source.take("a record's head")?);
        source.take_frame(kept_bytes)?;
        Ok(Some(Captured {
            // 2^32 seconds and fractions of them are below 2^63 ns.
            at_ns: Some(seconds * 1_000_000_000 + fraction * self.unit_ns),
            link: self.link,
            wire_bytes,
            bytes: source.frame(),
        }))
    }
}
