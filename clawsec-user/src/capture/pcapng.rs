//! The new format: sections of blocks; each section has a byte order and interfaces of its own.
//!
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>

use std::io::Read;

use super::source::Source;
use super::{CaptureError, Captured, Order};

/// A block type that reads the same in both byte orders.
pub(super) const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
const INTERFACE: u32 = 1;
/// The packet block that came before the enhanced one.
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const OPTION_END: u16 = 0;
const OPTION_TIME_RESOLUTION: u16 = 9;
const OPTION_TIME_OFFSET: u16 = 14;

/// Interfaces in one section; a file that names more is not a capture of this world.
const MAX_INTERFACES: usize = 65_536;
/// Type and length before the body, length after it.
const AROUND_BYTES: u32 = 12;

#[derive(Debug)]
pub(super) struct PcapNg {
    order: Order,
    interfaces: Vec<Interface>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Interface {
    link: u16,
    /// 0 for no limit.
    snap_bytes: u32,
    resolution: Resolution,
    offset_seconds: i64,
}

/// The length of one tick of an interface's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolution {
    /// 10 to the power of minus this.
    Decimal(u32),
    /// 2 to the power of minus this.
    Binary(u32),
}

/// A block's body as it is read; what is left of it is skipped at its end.
struct Block {
    total_bytes: u32,
    left: u32,
}

impl PcapNg {
    /// The section header's type has been read.
    pub(super) fn open<R: Read>(source: &mut Source<R>) -> Result<Self, CaptureError> {
        let mut file = Self {
            order: Order::Little,
            interfaces: Vec::new(),
        };
        file.begin_section(source)?;
        Ok(file)
    }

    pub(super) fn next<'a, R: Read>(
        &mut self,
        source: &'a mut Source<R>,
    ) -> Result<Option<Captured<'a>>, CaptureError> {
        loop {
            let Some(kind) = source.first::<4>()? else {
                return Ok(None);
            };
            if kind == SECTION_HEADER {
                self.begin_section(source)?;
                continue;
            }
            let length = self.order.u32(source.take(BLOCK)?);
            let mut block = Block::new(length, source)?;
            let packet = match self.order.u32(kind) {
                INTERFACE => {
                    self.read_interface(&mut block, source)?;
                    None
                }
                ENHANCED_PACKET => Some(self.read_packet(&mut block, source, false)?),
                OBSOLETE_PACKET => Some(self.read_packet(&mut block, source, true)?),
                SIMPLE_PACKET => Some(self.read_simple(&mut block, source)?),
                _ => None,
            };
            block.end(self.order, source)?;
            if let Some((at_ns, link, wire_bytes)) = packet {
                return Ok(Some(Captured {
                    at_ns,
                    link,
                    wire_bytes,
                    bytes: source.frame(),
                }));
            }
        }
    }

    /// Everything of the section before, its byte order first, is forgotten.
    fn begin_section<R: Read>(&mut self, source: &mut Source<R>) -> Result<(), CaptureError> {
        let length = source.take::<4>("a section header")?;
        self.order = match source.take::<4>("a section header")? {
            [0x1a, 0x2b, 0x3c, 0x4d] => Order::Big,
            [0x4d, 0x3c, 0x2b, 0x1a] => Order::Little,
            _ => return Err(source.malformed("a section header without its byte order mark")),
        };
        self.interfaces.clear();
        let mut block = Block::new(self.order.u32(length), source)?;
        block.spend(4, source)?;
        let major = self.order.u16(block.take(source)?);
        if major != 1 {
            return Err(source.malformed("a version of pcapng other than 1"));
        }
        block.end(self.order, source)
    }

    fn read_interface<R: Read>(
        &mut self,
        block: &mut Block,
        source: &mut Source<R>,
    ) -> Result<(), CaptureError> {
        if self.interfaces.len() >= MAX_INTERFACES {
            return Err(source.malformed("more than 65,536 interfaces in a section"));
        }
        let link = self.order.u16(block.take(source)?);
        block.skip(2, source)?;
        let snap_bytes = self.order.u32(block.take(source)?);
        let mut interface = Interface {
            link,
            snap_bytes,
            resolution: Resolution::Decimal(6),
            offset_seconds: 0,
        };
        while block.left >= 4 {
            let code = self.order.u16(block.take(source)?);
            let length = self.order.u16(block.take(source)?);
            let padded = u32::from(length).next_multiple_of(4);
            match (code, length) {
                (OPTION_END, _) => break,
                (OPTION_TIME_RESOLUTION, 1) => {
                    let [value, ..] = block.take::<4, R>(source)?;
                    let exponent = u32::from(value & 0x7f);
                    interface.resolution = if value & 0x80 == 0 {
                        Resolution::Decimal(exponent)
                    } else {
                        Resolution::Binary(exponent)
                    };
                }
                (OPTION_TIME_OFFSET, 8) => {
                    interface.offset_seconds = self.order.i64(block.take(source)?);
                }
                _ => block.skip(padded, source)?,
            }
        }
        self.interfaces.push(interface);
        Ok(())
    }

    /// Time, link type and length on the wire; the frame itself stays in the source.
    fn read_packet<R: Read>(
        &self,
        block: &mut Block,
        source: &mut Source<R>,
        obsolete: bool,
    ) -> Result<(Option<u64>, u16, u32), CaptureError> {
        let number = if obsolete {
            let number = self.order.u16(block.take(source)?);
            // How many packets were lost before this one.
            block.skip(2, source)?;
            u32::from(number)
        } else {
            self.order.u32(block.take(source)?)
        };
        let interface = self.interface(number, source)?;
        let high = self.order.u32(block.take(source)?);
        let low = self.order.u32(block.take(source)?);
        let kept_bytes = self.order.u32(block.take(source)?);
        let wire_bytes = self.order.u32(block.take(source)?);
        block.take_frame(kept_bytes, source)?;
        let ticks = u64::from(high) << 32 | u64::from(low);
        Ok((
            Some(interface.nanoseconds(ticks)),
            interface.link,
            wire_bytes,
        ))
    }

    /// A packet without a time, of the section's first interface.
    fn read_simple<R: Read>(
        &self,
        block: &mut Block,
        source: &mut Source<R>,
    ) -> Result<(Option<u64>, u16, u32), CaptureError> {
        let interface = self.interface(0, source)?;
        let wire_bytes = self.order.u32(block.take(source)?);
        let kept_bytes = match interface.snap_bytes {
            0 => wire_bytes,
            snap_bytes => wire_bytes.min(snap_bytes),
        };
        block.take_frame(kept_bytes, source)?;
        Ok((None, interface.link, wire_bytes))
    }

    fn interface<R: Read>(
        &self,
        number: u32,
        source: &Source<R>,
    ) -> Result<Interface, CaptureError> {
        usize::try_from(number)
            .ok()
            .and_then(|number| self.interfaces.get(number))
            .copied()
            .ok_or_else(|| source.malformed("a packet of an interface that was not described"))
    }
}

impl Interface {
    /// Nanoseconds since 1970; times before it or after 2554 are moved to its bounds.
    fn nanoseconds(self, ticks: u64) -> u64 {
        let ticks = u128::from(ticks);
        let elapsed = match self.resolution {
            Resolution::Decimal(exponent @ 0..=9) => ticks * 10_u128.pow(9 - exponent),
            Resolution::Decimal(exponent) => 10_u128
                .checked_pow(exponent - 9)
                .map_or(0, |divisor| ticks / divisor),
            // 64 bits times 30 bits, so that a shift by 127 is the last that can be asked for.
            Resolution::Binary(exponent) => (ticks * 1_000_000_000) >> exponent,
        };
        let elapsed = i128::try_from(elapsed).unwrap_or(i128::MAX);
        let offset = i128::from(self.offset_seconds) * 1_000_000_000;
        let at = elapsed.saturating_add(offset).max(0);
        u64::try_from(at).unwrap_or(u64::MAX)
    }
}

/// For messages.
const BLOCK: &str = "a block";

impl Block {
    /// Type and length have been read.
    fn new<R: Read>(total_bytes: u32, source: &Source<R>) -> Result<Self, CaptureError> {
        if total_bytes < AROUND_BYTES || !total_bytes.is_multiple_of(4) {
            return Err(source.malformed("a block whose length cannot be"));
        }
        Ok(Self {
            total_bytes,
            left: total_bytes - AROUND_BYTES,
        })
    }

    fn spend<R: Read>(&mut self, bytes: u32, source: &Source<R>) -> Result<(), CaptureError> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(source.malformed("a block shorter than what it holds")),
        }
    }

    fn take<const N: usize, R: Read>(
        &mut self,
        source: &mut Source<R>,
    ) -> Result<[u8; N], CaptureError> {
        self.spend(u32::try_from(N).unwrap_or(u32::MAX), source)?;
        source.take(BLOCK)
    }

    fn take_frame<R: Read>(
        &mut self,
        bytes: u32,
        source: &mut Source<R>,
    ) -> Result<(), CaptureError> {
        self.spend(bytes, source)?;
        source.take_frame(bytes)
    }

    fn skip<R: Read>(&mut self, bytes: u32, source: &mut Source<R>) -> Result<(), CaptureError> {
        self.spend(bytes, source)?;
        source.skip(u64::from(bytes), BLOCK)
    }

    /// Passes over options and padding; the length must stand here once more.
    fn end<R: Read>(self, order: Order, source: &mut Source<R>) -> Result<(), CaptureError> {
        source.skip(u64::from(self.left), BLOCK)?;
        if order.u32(source.take(BLOCK)?) == self.total_bytes {
            Ok(())
        } else {
            Err(source.malformed("a block whose two lengths differ"))
        }
    }
}
