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
    /// A QUIC Initial packet: a UDP datagram that asks for a new connection.
    pub quic_initial: bool,
    /// A fragment, the first or a later one; an IPv6 fragment header around a whole is none.
    pub fragment: bool,
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
        quic_initial: false,
        fragment: false,
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

    /// SYN without ACK, the one segment that a connection begins with; or a QUIC Initial.
    #[must_use]
    #[inline(always)]
    pub fn opens_connection(&self) -> bool {
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        self.tcp_flags & (SYN | ACK) == SYN || self.quic_initial
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
#[expect(
    clippy::cast_possible_truncation,
    reason = "the field of a fragment header has 16 bits"
)]
fn ipv6<C: Cursor>(mut packet: C, facts: &mut Facts) -> Result<(), Reason> {
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
        // Arithmetic instead of a `match`: with three ways through each of six headers the
        // verifier (6.18) walked 3^6 of them, since offsets into a packet that were added up
        // differently never look the same to it.
        let is_fragment = equal_mask::<C>(next, FRAGMENT);
        let is_authentication = equal_mask::<C>(next, AUTHENTICATION);
        let length = u32::from(length);
        let header_bytes = (8 & is_fragment)
            | (((length + 2) * 4) & is_authentication)
            | (((length + 1) * 8) & !(is_fragment | is_authentication));
        let field = u32::from(u16::from_be_bytes([frag_high, frag_low]));
        let held = u32::from(fragment.offset) << 3 | u32::from(fragment.more);
        let field = (field & is_fragment) | (held & !is_fragment);
        fragment = Fragment {
            offset: (field >> 3) as u16,
            more: field & 1 != 0,
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

/// All ones where the two are equal, else 0, without a branch.
#[inline(always)]
fn equal_mask<C: Cursor>(a: u8, b: u8) -> u32 {
    let difference = C::opaque(u32::from(a ^ b));
    // Only 0 less 1 has its highest bit set; copied down by an arithmetic shift.
    (difference.wrapping_sub(1).cast_signed() >> 31).cast_unsigned()
}

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
    facts.fragment = fragment.offset != 0 || fragment.more;
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
            facts.quic_initial = match packet.take::<9>() {
                Some([_, _, _, _, form, version @ ..]) if left >= 13 => is_initial(form, version),
                _ => false,
            };
            Ok(())
        }
        _ => Err(Reason::OtherProtocol),
    }
}

/// A long header of type Initial, by the numbers of QUIC 1 and its drafts (RFC 9000) and of
/// QUIC 2 (RFC 9369). A server answers any other version by naming its own, and holds nothing.
#[inline(always)]
fn is_initial(form: u8, version_be: [u8; 4]) -> bool {
    let initial = match u32::from_be_bytes(version_be) {
        1 | 0xff00_0000..=0xff00_00ff => 0x80,
        0x6b33_43cf => 0x90,
        _ => return false,
    };
    // The bit between form and type may be anything (RFC 9287).
    form & 0xb0 == initial
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
