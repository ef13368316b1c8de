//! The delivery oracle: Linux itself says which frames reach a protected port.
//!
//! Frames of every class are sent over veth to a host without the filter. What arrives there (a
//! SYN that is answered, a datagram that is received) from a source that is not allowed must not
//! get past the program: the second round sends what the program passes, and nothing arrives.
//! The program is judged by its own verdicts on the very bytes, through `BPF_PROG_TEST_RUN`.

mod classes;
mod host;
mod wire;

use std::collections::BTreeMap;
use std::net::IpAddr;

use clawsec_user::enforcer::{Effect, Judge};
use clawsec_user::policy::{PacketPolicy, PacketRule, RateClass};
use xtask::lab::{CLIENT_OUTSIDE, CLIENT_OUTSIDE_V6};

use self::classes::Case;
use self::host::Hosts;

/// The port that is protected, and listened on.
const PORT: u16 = 8443;

/// Deliveries that a class must have, or the test proves nothing of it.
const AT_LEAST: &[(&str, usize)] = &[
    ("plain", 30),
    ("priority tags", 80),
    ("VLAN tags", 0),
    ("IPv4 options", 30),
    ("IPv6 extensions", 30),
    ("fragments in order", 30),
    ("fragments out of order", 20),
    ("fragments overlapping", 4),
    ("fragments tiny", 8),
    ("mapped source", 1),
    ("other ethertypes", 0),
    ("lengths", 6),
    ("padding", 24),
    ("broadcast and multicast", 8),
    ("mutated", 200),
];

#[test]
fn nothing_that_linux_delivers_gets_past_the_program() {
    let mut judge = Judge::of_policy(&policy(&[])).expect("load the program");
    let hosts = Hosts::new("orc");

    // Each case names itself by its source port, other in each round.
    let unfiltered = classes::all(hosts.gateway_mac, 0);
    let delivered = hosts.send_all(&unfiltered, |_| true);
    let filtered = classes::all(hosts.gateway_mac, unfiltered.len());
    assert_eq!(unfiltered.len(), filtered.len());
    let mut sent = 0_usize;
    let passed = hosts.send_all(&filtered, |frame| {
        let verdict = judge.run(frame).expect("run the program");
        let passes = verdict.is_some_and(|judged| judged.effect == Effect::Passed);
        sent += usize::from(passes);
        passes
    });

    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for case in &unfiltered {
        let count = counts.entry(case.class).or_default();
        count.0 += 1;
        count.1 += usize::from(delivered.contains(&case.id));
    }
    println!("{:<24} {:>6} {:>9}", "class", "cases", "delivered");
    for (class, (cases, delivered)) in &counts {
        println!("{class:<24} {cases:>6} {delivered:>9}");
    }
    let total: usize = counts.values().map(|count| count.1).sum();
    println!("{total} delivered without the filter; the filter passed {sent} frames");

    let through: Vec<&Case> = filtered
        .iter()
        .filter(|case| passed.contains(&case.id))
        .collect();
    assert!(
        through.is_empty(),
        "{} cases got past the program, the first: {:02x?}",
        through.len(),
        through.first()
    );
    for (class, at_least) in AT_LEAST {
        let (cases, delivered) = counts.remove(class).unwrap_or_default();
        assert!(cases > 0, "no case of the class {class}");
        assert!(
            delivered >= *at_least,
            "{class}: {delivered} of {cases} delivered, at least {at_least} expected"
        );
    }
    assert!(counts.is_empty(), "classes without a minimum: {counts:?}");
}

/// The same round with the sender allowed: what the program passes does arrive, so that the test
/// above can fail.
#[test]
fn what_an_allowed_source_sends_is_delivered_through_the_program() {
    let policy = policy(&[CLIENT_OUTSIDE, CLIENT_OUTSIDE_V6]);
    let mut judge = Judge::of_policy(&policy).expect("load the program");
    let hosts = Hosts::new("orcin");
    let mut cases = classes::all(hosts.gateway_mac, 0);
    cases.retain(|case| matches!(case.class, "plain" | "IPv4 options" | "fragments in order"));
    let delivered = hosts.send_all(&cases, |frame| {
        let verdict = judge.run(frame).expect("run the program");
        verdict.is_some_and(|judged| judged.effect == Effect::Passed)
    });
    println!("{} of {} delivered", delivered.len(), cases.len());
    assert!(delivered.len() * 10 >= cases.len() * 9);
}

/// Nobody of the hosts is allowed, but for those named.
fn policy(allowed: &[&str]) -> PacketPolicy {
    let allow = PacketRule::Allow { class: 0 };
    let hosts = allowed.iter().map(|host| {
        let host: IpAddr = host.parse().unwrap();
        (host.into(), allow)
    });
    let others = ["10.0.0.0/8", "2001:db8:aaaa::/48"].map(|net| (net.parse().unwrap(), allow));
    PacketPolicy {
        generation: 1,
        prefixes: others.into_iter().chain(hosts).collect(),
        classes: vec![RateClass {
            burst: 0,
            per_window: 0,
            window_ms: 0,
        }],
        tcp_ports: vec![PORT],
        udp_ports: vec![PORT],
        guarded_tcp_ports: vec![],
        ..PacketPolicy::default()
    }
}
