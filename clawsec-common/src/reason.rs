//! Why a packet was passed or dropped: a closed set, named the same in counters and records.

/// The reason of one verdict. Its number is the index of its counter and stands in pinned maps,
/// so that a new reason goes to the end and a change of meaning needs a new `abi::SCHEMA`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[must_use]
pub enum Reason {
    /// Addressed to a protected port, from an allowed source, within its limits.
    Allowed = 0,
    /// ARP, LLDP and everything else that is neither IPv4 nor IPv6.
    NotIp = 1,
    /// ICMP, ICMPv6, ESP: neither TCP nor UDP.
    OtherProtocol = 2,
    /// TCP or UDP to a port that the policy does not name.
    UnprotectedPort = 3,
    /// A later fragment: it completes nothing when its first fragment was dropped.
    LaterFragment = 4,
    /// The source is in no prefix of the policy.
    NotAllowed = 5,
    /// The longest prefix that holds the source denies it.
    Denied = 6,
    /// The source is banned for a time.
    Banned = 7,
    /// A new connection over its source's limit.
    RateLimited = 8,
    /// The guarded upstream port: nobody may reach it from outside.
    GuardedPort = 9,
    /// A header that is cut short or contradicts itself.
    Malformed = 10,
    /// A first fragment too short to hold ports and flags (RFC 1858).
    TinyFragment = 11,
    /// A TCP fragment at offset 1, which would overwrite the flags (RFC 3128).
    FragmentOverlap = 12,
    /// More VLAN tags than are followed.
    VlanDepth = 13,
    /// More IPv6 extension headers than are followed.
    ExtHeaderDepth = 14,
    /// Too many CPUs changed this source's bucket at once; refused rather than let through.
    Contended = 15,
    /// The policy names a rate class that it does not hold; cannot happen in a verified slot.
    BadPolicy = 16,
    /// A fragment, where the policy says that all are dropped.
    Fragment = 17,
    /// Over its source's limit on packets of any kind.
    PacketCeiling = 18,
}

/// What a reason does to the packet, unless the policy only observes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    Pass,
    Drop,
}

impl Reason {
    /// Every reason; the index of each is its number.
    pub const ALL: [Self; 19] = [
        Self::Allowed,
        Self::NotIp,
        Self::OtherProtocol,
        Self::UnprotectedPort,
        Self::LaterFragment,
        Self::NotAllowed,
        Self::Denied,
        Self::Banned,
        Self::RateLimited,
        Self::GuardedPort,
        Self::Malformed,
        Self::TinyFragment,
        Self::FragmentOverlap,
        Self::VlanDepth,
        Self::ExtHeaderDepth,
        Self::Contended,
        Self::BadPolicy,
        Self::Fragment,
        Self::PacketCeiling,
    ];

    /// The word that stands in counters, events and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::NotIp => "not_ip",
            Self::OtherProtocol => "other_protocol",
            Self::UnprotectedPort => "unprotected_port",
            Self::LaterFragment => "later_fragment",
            Self::NotAllowed => "not_allowed",
            Self::Denied => "denied",
            Self::Banned => "banned",
            Self::RateLimited => "rate_limited",
            Self::GuardedPort => "guarded_port",
            Self::Malformed => "malformed",
            Self::TinyFragment => "tiny_fragment",
            Self::FragmentOverlap => "fragment_overlap",
            Self::VlanDepth => "vlan_depth",
            Self::ExtHeaderDepth => "ext_header_depth",
            Self::Contended => "contended",
            Self::BadPolicy => "bad_policy",
            Self::Fragment => "fragment",
            Self::PacketCeiling => "packet_ceiling",
        }
    }

    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Allowed
            | Self::NotIp
            | Self::OtherProtocol
            | Self::UnprotectedPort
            | Self::LaterFragment => Verdict::Pass,
            Self::NotAllowed
            | Self::Denied
            | Self::Banned
            | Self::RateLimited
            | Self::GuardedPort
            | Self::Malformed
            | Self::TinyFragment
            | Self::FragmentOverlap
            | Self::VlanDepth
            | Self::ExtHeaderDepth
            | Self::Contended
            | Self::BadPolicy
            | Self::Fragment
            | Self::PacketCeiling => Verdict::Drop,
        }
    }

    /// The reason of this number, as it stands in a map or an event.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// Figures about the program itself, each one counter per CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stat {
    /// Buckets made for sources without one; over the map's size, an LRU eviction for each.
    BucketMade = 0,
    /// Drops named to no source: the places for it were taken, or this CPU's budget of new
    /// tallies was spent.
    Unattributed = 1,
    /// Events that found no open perf buffer on this CPU, or a full one.
    EventNotSent = 2,
    /// Packet ceilings made for sources without one; over the map's size, an eviction for each.
    CeilingMade = 3,
}

impl Stat {
    pub const ALL: [Self; 4] = [
        Self::BucketMade,
        Self::Unattributed,
        Self::EventNotSent,
        Self::CeilingMade,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BucketMade => "bucket_made",
            Self::Unattributed => "unattributed",
            Self::EventNotSent => "event_not_sent",
            Self::CeilingMade => "ceiling_made",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_each_reason_is_its_place() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{}", reason.as_str());
            assert_eq!(Reason::from_number(reason as u8), Some(reason));
        }
        assert_eq!(Reason::from_number(19), None);
        for (place, stat) in Stat::ALL.into_iter().enumerate() {
            assert_eq!(stat as usize, place, "{}", stat.as_str());
        }
    }

    #[test]
    fn every_word_is_different() {
        for a in Reason::ALL {
            let same = Reason::ALL.into_iter().filter(|b| a.as_str() == b.as_str());
            assert_eq!(same.count(), 1, "{}", a.as_str());
        }
    }
}
