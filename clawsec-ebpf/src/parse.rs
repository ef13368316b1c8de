//! A packet's headers, down to what the rules ask for.
//!
//! `Err` carries the reason that ends the matter here: a pass for what is not judged, a drop for
//! what cannot be classified. Whatever could hide a protected port from this parser and show it
//! to the kernel behind it (tags, extension headers, fragments) is followed or dropped, never
//! passed by default. Lengths are the datagram's own, not the frame's: padding is not content.

use clawsec_common::abi::SourceKey;
use clawsec_common::reason::Reason;

use crate::packet::{Cursor, Header as _};

const VLAN_TAGS: u32 = 4;
const EXT_HEADERS: u32 = 6;

/// What the rules ask about a packet. Few and wide fields: each is a register or a place on the
/// stack of every path through the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// IPv4 in mapped form; zeros while unknown.
    pub source: SourceKey,
    /// Source and destination, as they lie in the packet.
    pub ports: u32,
    /// 4, 6, or 0 while unknown.
    pub family: u8,
    pub protocol: Protocol,
    /// A segment or datagram that a connection begins with.
    pub opens_connection: bool,
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
        source: SourceKey::UNKNOWN,
        ports: 0,
        family: 0,
        protocol: Protocol::Unknown,
        opens_connection: false,
        fragment: false,
    };

    /// Source and destination, in network order.
    #[must_use]
    #[inline(always)]
    pub fn ports_be(&self) -> [[u8; 2]; 2] {
        let [a, b, c, d] = self.ports.to_ne_bytes();
        [[a, b], [c, d]]
    }

    #[must_use]
    #[inline(always)]
    pub fn dest_port(&self) -> u16 {
        u16::from_be_bytes(self.ports_be()[1])
    }

    /// The source as bans, buckets and totals know it.
    #[must_use]
    #[inline(always)]
    pub fn source_key(&self) -> SourceKey {
        match self.family {
            6 => self.source.network(),
            _ => self.source,
        }
    }
}

/// SYN without ACK, the one segment that a connection begins with.
#[inline(always)]
fn is_first_segment(tcp_flags: u8) -> bool {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    tcp_flags & (SYN | ACK) == SYN
}

/// Reads as far as the ports; `facts` keeps what was read before an early end.
#[inline(always)]
pub fn parse(mut packet: impl Cursor, facts: &mut Facts) -> Result<(), Reason> {
    let mut ethertype = packet.take::<14>().ok_or(Reason::Malformed)?.u16::<12>();
    for _ in 0..VLAN_TAGS {
        if !is_vlan(ethertype) {
            break;
        }
        ethertype = packet.take::<4>().ok_or(Reason::Malformed)?.u16::<2>();
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
    facts.family = 4;
    facts.source = SourceKey::mapped(header.four::<12>());

    let version_ihl = header.u8::<0>();
    let header_bytes = u32::from(version_ihl & 0x0f) * 4;
    let total_bytes = u32::from(header.u16::<2>());
    if version_ihl >> 4 != 4 || header_bytes < 20 || total_bytes < header_bytes {
        return Err(Reason::Malformed);
    }
    packet.skip((header_bytes - 20) as usize);

    let field = header.u16::<6>();
    let fragment = Fragment {
        offset: field & 0x1fff,
        more: field & 0x2000 != 0,
    };
    transport(
        packet,
        facts,
        header.u8::<9>(),
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
    let header = packet.take::<40>().ok_or(Reason::Malformed)?;
    if header.u8::<0>() >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    facts.family = 6;
    facts.source = SourceKey::of_words([header.eight::<8>(), header.eight::<16>()]);

    let mut left = u32::from(header.u16::<4>());
    let mut next = header.u8::<6>();
    let mut fragment = Fragment::WHOLE;
    for _ in 0..EXT_HEADERS {
        if !is_extension(next) || fragment.offset != 0 {
            break;
        }
        let header = packet.take::<4>().ok_or(fragment.cut_short())?;
        // Arithmetic instead of a `match`: with three ways through each of six headers the
        // verifier (6.18) walked 3^6 of them, since offsets into a packet that were added up
        // differently never look the same to it.
        let is_fragment = equal_mask::<C>(next, FRAGMENT);
        let is_authentication = equal_mask::<C>(next, AUTHENTICATION);
        let length = u32::from(header.u8::<1>());
        let header_bytes = (8 & is_fragment)
            | (((length + 2) * 4) & is_authentication)
            | (((length + 1) * 8) & !(is_fragment | is_authentication));
        let field = u32::from(header.u16::<2>());
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
        next = header.u8::<0>();
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
            let header = packet.take::<14>().ok_or(fragment.cut_short())?;
            if left < 20 {
                return Err(fragment.cut_short());
            }
            facts.protocol = Protocol::Tcp;
            facts.ports = header.four::<0>();
            facts.opens_connection = is_first_segment(header.u8::<13>());
            Ok(())
        }
        17 => {
            let header = packet.take::<4>().ok_or(fragment.cut_short())?;
            if left < 8 {
                return Err(fragment.cut_short());
            }
            facts.protocol = Protocol::Udp;
            facts.ports = header.four::<0>();
            facts.opens_connection = match packet.take::<9>() {
                Some(header) if left >= 13 => is_initial(header.u8::<4>(), header.u32::<5>()),
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
fn is_initial(form: u8, version: u32) -> bool {
    let initial = match version {
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
