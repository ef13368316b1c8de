//! Reads capture files, frame by frame: pcap (micro- and nanoseconds, both byte orders) and
//! pcapng (several sections, interfaces and time resolutions).
//!
//! Captures are input from anywhere. Invariant: memory is bounded by `MAX_FRAME_BYTES` whatever a
//! file says of itself, and each error names the byte of the file at which it was found.

mod pcap;
mod pcapng;
mod source;

use std::io::{self, Read};

use self::pcap::Pcap;
use self::pcapng::PcapNg;
use self::source::Source;

/// Ethernet, in the numbering of the pcap link types.
pub const LINK_ETHERNET: u16 = 1;
/// The longest frame that is read; four times what capture tools write at most.
pub const MAX_FRAME_BYTES: u32 = 1024 * 1024;

/// A capture file being read.
pub struct Capture<R> {
    source: Source<R>,
    format: Format,
}

enum Format {
    Pcap(Pcap),
    PcapNg(PcapNg),
}

/// One frame of a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured<'a> {
    /// Nanoseconds since 1970 began; `None` where the file keeps no time for it.
    pub at_ns: Option<u64>,
    /// One of the pcap link types.
    pub link: u16,
    /// How long the frame was on the wire.
    pub wire_bytes: u32,
    /// What the capture kept of it.
    pub bytes: &'a [u8],
}

#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("this is neither pcap nor pcapng: it begins with {begins}")]
    Format { begins: String },
    #[error("byte {offset}: {what}")]
    Malformed { offset: u64, what: &'static str },
    #[error("byte {offset}: the file ends inside {what}")]
    Cut { offset: u64, what: &'static str },
    #[error("cannot read at byte {offset}")]
    Read {
        offset: u64,
        #[source]
        source: io::Error,
    },
}

impl<R: Read> Capture<R> {
    /// Reads the head of a file and finds out which of the formats it is.
    pub fn open(read: R) -> Result<Self, CaptureError> {
        let mut source = Source::new(read);
        let Some(magic) = source.first::<4>()? else {
            return Err(CaptureError::Format {
                begins: "nothing: the file is empty".to_owned(),
            });
        };
        let format = if magic == pcapng::SECTION_HEADER {
            Format::PcapNg(PcapNg::open(&mut source)?)
        } else if let Some(head) = Pcap::recognise(magic) {
            Format::Pcap(head.open(&mut source)?)
        } else {
            let [a, b, c, d] = magic;
            let begins = format!("{a:02x} {b:02x} {c:02x} {d:02x}");
            return Err(CaptureError::Format { begins });
        };
        Ok(Self { source, format })
    }

    /// The next frame; `None` at the end. After an error nothing more can be read.
    pub fn next_frame(&mut self) -> Result<Option<Captured<'_>>, CaptureError> {
        match &mut self.format {
            Format::Pcap(pcap) => pcap.next(&mut self.source),
            Format::PcapNg(pcapng) => pcapng.next(&mut self.source),
        }
    }

    /// The one link type of a pcap file; pcapng has one for each interface.
    pub fn link(&self) -> Option<u16> {
        match &self.format {
            Format::Pcap(pcap) => Some(pcap.link()),
            Format::PcapNg(_) => None,
        }
    }
}

/// In which order a file holds its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    fn i64(self, bytes: [u8; 8]) -> i64 {
        match self {
            Self::Little => i64::from_le_bytes(bytes),
            Self::Big => i64::from_be_bytes(bytes),
        }
    }
}

#[cfg(test)]
mod tests;
