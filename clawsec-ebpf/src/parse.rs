//! A packet's headers, down to what the rules ask for.
//!
//! `Err` carries the reason that ends the matter here: a pass for what is not judged, a drop for
//! what cannot be classified. Whatever could hide a protected port from this parser and show it
//! to the kernel behind it (tags, extension headers, fragments) is followed or dropped, never
//! passed by default. Lengths are the datagram's own, not the frame's: padding is not content.

use clawsec_common::abi::{SourceKey, mapped};
use clawsec_common::reason::Reason;

use crate::packet::Cursor;

const VLAN_TAGS: u32 = 4;
const EXT_HEADERS: u32 = 6;

/// What the rules ask about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// IPv4 in mapped form; zeros while unknown.
    pub source_be: [u8; 16],
    pub source_port_be: [u8; 2],
    pub dest_port_be: [u8; 2],
    /// 4, 6, or 0 while unknown.
    pub family: u8,
    pub protocol: Protocol,
    /// The TCP flags byte; 0 for UDP.
    pub tcp_flags: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    Unknown = 0,
    Tcp = 6,
    Udp = 17,
}

impl Facts {
    pub const UNKNOWN: Self = Self {
        source_be: [0; 16],
        source_port_be: [0; 2],
        dest_port_be: [0; 2],
        family: 0,
        protocol: Protocol::Unknown,
        tcp_flags: 0,
    };

    #[must_use]
    #[inline(always)]
    pub fn dest_port(&self) -> u16 {
        u16::from_be_bytes(self.dest_port_be)
    }

    /// The source as bans, buckets and totals know it.
    #[must_use]
    #[inline(always)]
    pub fn source_key(&self) -> SourceKey {
        match self.family {
            6 => SourceKey::v6(self.source_be),
            _ => SourceKey {
                address_be: self.source_be,
            },
        }
    }

    /// SYN without ACK: the one segment that a connection begins with.
    #[must_use]
    #[inline(always)]
    pub fn opens_connection(&self) -> bool {
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        self.tcp_flags & (SYN | ACK) == SYN
    }
}

/// Reads as far as the ports; `facts` keeps what was read before an early end.
#[inline(always)]
pub fn parse(mut packet: impl Cursor, facts: &mut Facts) -> Result<(), Reason> {
    let mut ethertype = match packet.take::<14>() {
        Some([.., high, low]) => u16::from_be_bytes([high, low]),
        None => return Err(Reason::Malformed),
    };
    for _ in 0..VLAN_TAGS {
        if !is_vlan(ethertype) {
            break;
        }
        let [_, _, high, low] = packet.take::<4>().ok_or(Reason::Malformed)?;
        ethertype = u16::from_be_bytes([high, low]);
    }
    match ethertype {
        0x0800 => ipv4(packet, facts),
        0x86dd => ipv6(packet, facts),
        other if is_vlan(other) => Err(Reason::VlanDepth),
        _ => Err(Reason::NotIp),
    }
}

/// 802.1Q and 802.1ad.
#[inline(always)]
fn is_vlan(ethertype: u16) -> bool {
    ethertype == 0x8100 || ethertype == 0x88a8
}

#[inline(always)]
fn ipv4(mut packet: impl Cursor, facts: &mut Facts) -> Result<(), Reason> {
    let header = packet.take::<20>().ok_or(Reason::Malformed)?;
    let [
        version_ihl,
        _,
        total_high,
        total_low,
        _,
        _,
        frag_high,
        frag_low,
        _,
        protocol,
        _,
        _,
        s0,
        s1,
        s2,
        s3,
        ..,
    ] = header;
    facts.family = 4;
    facts.source_be = mapped([s0, s1, s2, s3]);

    let header_bytes = u32::from(version_ihl & 0x0f) * 4;
    let total_bytes = u32::from(u16::from_be_bytes([total_high, total_low]));
    if version_ihl >> 4 != 4 || header_bytes < 20 || total_bytes < header_bytes {
        return Err(Reason::Malformed);
    }
    packet.skip((header_bytes - 20) as usize);

    let fragment = Fragment {
        offset: u16::from_be_bytes([frag_high, frag_low]) & 0x1fff,
        more: frag_high & 0x20 != 0,
    };
    transport(
        packet,
        facts,
        protocol,
        total_bytes - header_bytes,
        fragment,
    )
}

#[inline(always)]
fn ipv6(mut packet: impl Cursor, facts: &mut Facts) -> Result<(), Reason> {
    let [version, _, _, _, high, low, first, _] = packet.take::<8>().ok_or(Reason::Malformed)?;
    let source = packet.take::<16>().ok_or(Reason::Malformed)?;
    packet.skip(16);
    if version >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    facts.family = 6;
    facts.source_be = source;

    let mut left = u32::from(u16::from_be_bytes([high, low]));
    let mut next = first;
    let mut fragment = Fragment::WHOLE;
    for _ in 0..EXT_HEADERS {
        if !is_extension(next) || fragment.offset != 0 {
            break;
        }
        let [following, length, frag_high, frag_low] =
            packet.take::<4>().ok_or(fragment.cut_short())?;
        let header_bytes = match next {
            FRAGMENT => {
                let field = u16::from_be_bytes([frag_high, frag_low]);
                fragment = Fragment {
                    offset: field >> 3,
                    more: field & 1 != 0,
                };
                8
            }
            AUTHENTICATION => (u32::from(length) + 2) * 4,
            _ => (u32::from(length) + 1) * 8,
        };
        if header_bytes > left {
            return Err(fragment.cut_short());
        }
        left -= header_bytes;
        packet.skip((header_bytes - 4) as usize);
        next = following;
    }
    if is_extension(next) && fragment.offset == 0 {
        return Err(Reason::ExtHeaderDepth);
    }
    transport(packet, facts, next, left, fragment)
}

const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

/// Headers that Linux steps over on its way to TCP: hop-by-hop, routing, fragment,
/// authentication, destination options, mobility.
#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(next, 0 | 43 | FRAGMENT | AUTHENTICATION | 60 | 135)
}

/// `left` is what the datagram says it still holds.
#[inline(always)]
fn transport(
    mut packet: impl Cursor,
    facts: &mut Facts,
    protocol: u8,
    left: u32,
    fragment: Fragment,
) -> Result<(), Reason> {
    if fragment.offset != 0 {
        return Err(match (protocol, fragment.offset) {
            (6, 1) => Reason::FragmentOverlap,
            _ => Reason::LaterFragment,
        });
    }
    match protocol {
        6 => {
            // Up to and with the flags; the kernel checks the rest of the header itself.
            let [p0, p1, p2, p3, .., flags] = packet.take::<14>().ok_or(fragment.cut_short())?;
            if left < 20 {
                return Err(fragment.cut_short());
            }
            facts.protocol = Protocol::Tcp;
            facts.source_port_be = [p0, p1];
            facts.dest_port_be = [p2, p3];
            facts.tcp_flags = flags;
            Ok(())
        }
        17 => {
            let [p0, p1, p2, p3] = packet.take::<4>().ok_or(fragment.cut_short())?;
            if left < 8 {
                return Err(fragment.cut_short());
            }
            facts.protocol = Protocol::Udp;
            facts.source_port_be = [p0, p1];
            facts.dest_port_be = [p2, p3];
            Ok(())
        }
        _ => Err(Reason::OtherProtocol),
    }
}

/// Where in its datagram this packet lies.
#[derive(Clone, Copy)]
struct Fragment {
    /// In units of 8 bytes.
    offset: u16,
    more: bool,
}

impl Fragment {
    const WHOLE: Self = Self {
        offset: 0,
        more: false,
    };

    /// Why a header that does not fit is dropped.
    #[inline(always)]
    fn cut_short(self) -> Reason {
        if self.more {
            Reason::TinyFragment
        } else {
            Reason::Malformed
        }
    }
}
