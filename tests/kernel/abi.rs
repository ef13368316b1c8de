//! The layout that pinned maps and events have: a change needs a new `SCHEMA`.

use std::fmt::Write as _;
use std::mem::offset_of;

use clawsec_common::abi::{
    Bucket, Counter, Expiry, PINNED, PacketRecord, PortWord, RateClass, SCHEMA, SlotHeader,
    SourceKey, Tally, TallyKey, TallySet, TimedCounts, TimedPrefix,
};
use clawsec_common::reason::{Reason, Stat, Verdict};
use clawsec_common::tree::TreeNode;

/// Lines of one type: its size, then each field's offset.
macro_rules! layout {
    ($text:ident, $($type:ident { $($field:ident)* })*) => {
        $(
            writeln!($text, "{} {} bytes", stringify!($type), size_of::<$type>()).unwrap();
            $(
                let offset = offset_of!($type, $field);
                writeln!($text, "  {:>2} {}", offset, stringify!($field)).unwrap();
            )*
        )*
    };
}

#[test]
fn the_layout_is_the_golden_one() {
    let mut text = format!("schema {SCHEMA}\n");
    layout!(text,
        SourceKey { words }
        SlotHeader { generation flags filled packet_interval_ns packet_tolerance_ns }
        PortWord { tcp udp guarded_tcp }
        RateClass { interval_ns tolerance_ns kind reserved }
        TreeNode { words }
        Expiry { expires_ns until_ms }
        TimedPrefix { family_be address_be }
        TimedCounts { bans ban_prefixes admissions reserved }
        Bucket { arrival_ns }
        Counter { packets bytes }
        TallyKey { source reason }
        Tally { created_ns key total emitted_ns seen_ns cpu reserved }
        TallySet { ways }
        PacketRecord {
            at_ns generation total created_ns source_be ifindex source_port_be dest_port_be reason
            observed family protocol cpu
        }
    );
    for map in PINNED {
        let (name, key, value) = (map.name, map.key_bytes, map.value_bytes);
        writeln!(
            text,
            "map {name} {key} -> {value}, {} entries",
            map.max_entries
        )
        .unwrap();
    }
    for reason in Reason::ALL {
        let verdict = if reason.verdict() == Verdict::Pass {
            "pass"
        } else {
            "drop"
        };
        writeln!(
            text,
            "reason {} {verdict} {}",
            reason as u8,
            reason.as_str()
        )
        .unwrap();
    }
    for stat in Stat::ALL {
        writeln!(text, "stat {} {}", stat as u8, stat.as_str()).unwrap();
    }
    super::golden::check("abi.txt", &text);
}
