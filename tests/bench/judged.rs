//! Through `BPF_PROG_TEST_RUN`: verdicts against xdp-filter, and lookups against the kernel's trie.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, ProgramArray};
use aya::programs::Xdp;
use clawsec_user::config::XdpMode;
use ipnet::IpNet;
use xtask::lab::{Host, Lab};

use super::report::{Row, say};
use super::setup::{
    bench_object, by_id, enforcer, inside, network, policy, program, remove_enforcer, run, syn,
    time, verdict, version,
};

const RUNS: u32 = 1_000_000;
const SOURCES: u32 = 65_536;
const SIZES: [u32; 3] = [10, 1_000, 100_000];
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// One verdict of each kind, beside xdp-filter's.
pub(crate) fn verdicts(lab: &Lab) -> Result<Vec<Row>> {
    let mut bench = bench_object()?;
    let denied = syn("203.0.113.9".parse()?);
    let allowed = syn(host(network(7, false), 5));
    let floor_row = Row::new(
        "verdicts",
        "an empty XDP program: the floor",
        time(program(&mut bench, "bench_floor")?, &denied, RUNS)?,
        0.0,
    );
    let floor = floor_row.median();
    let mut rows = vec![floor_row];

    let filter = xdp_filter(lab, &denied, &allowed, floor);
    let (clawsec_denied, clawsec_allowed) = inside(lab, Host::Gateway, || {
        let enforcer = enforcer(XdpMode::Native, &policy(1, 1_000))?;
        let ours = by_id(
            enforcer
                .attachments()
                .first()
                .context("attached")?
                .program_id,
        )?;
        anyhow::ensure!(
            verdict(&ours, &denied)? == XDP_DROP,
            "the stranger is dropped"
        );
        anyhow::ensure!(verdict(&ours, &allowed)? == XDP_PASS, "the friend passes");
        let row = |name: &str, samples| Row::new("verdicts", name, samples, floor);
        Ok((
            row(
                "clawsec, denied, 1,000 prefixes",
                time(&ours, &denied, RUNS)?,
            ),
            row(
                "clawsec, allowed new connection, 1,000 prefixes, its bucket",
                time(&ours, &allowed, RUNS)?,
            ),
        ))
    })?;
    remove_enforcer();
    match filter {
        Ok([peer_denied, peer_allowed]) => {
            let ratio = |ours: &Row, theirs: &Row| {
                format!(
                    "{:.2} of xdp-filter's denied packet",
                    ours.net() / theirs.net()
                )
            };
            rows.push(
                clawsec_denied
                    .clone()
                    .noted(ratio(&clawsec_denied, &peer_denied)),
            );
            rows.push(
                clawsec_allowed
                    .clone()
                    .noted(ratio(&clawsec_allowed, &peer_denied)),
            );
            rows.extend([peer_denied, peer_allowed]);
        }
        Err(error) => {
            rows.extend([clawsec_denied, clawsec_allowed]);
            rows.push(Row::absent("verdicts", "xdp-filter", format!("{error:#}")));
        }
    }
    Ok(rows)
}

/// What a verdict costs by the number of prefixes, and the structure alone beside the kernel's.
pub(crate) fn all_lookups(lab: &Lab) -> Result<Vec<Row>> {
    let mut bench = bench_object()?;
    let mut rows = Vec::new();
    for v6 in [false, true] {
        for size in SIZES {
            say(&format!("lookups: {size} prefixes, {}", family(v6)));
            rows.extend(lookups(lab, &mut bench, size, v6)?);
        }
    }
    Ok(rows)
}

/// Debian's xdp-filter with its policy «deny», on an interface of its own.
fn xdp_filter(lab: &Lab, denied: &[u8], allowed: &[u8], floor: f64) -> Result<[Row; 2]> {
    let arguments = ["load", "--policy", "deny", "outside"];
    run(lab, Host::Gateway, "xdp-filter", &arguments)?;
    let measured = inside(lab, Host::Gateway, || {
        let shown = run(lab, Host::Gateway, "ip", &["-d", "link", "show", "outside"])?;
        let mut words = shown
            .split_whitespace()
            .skip_while(|word| *word != "prog/xdp");
        let id: u32 = words.nth(2).context("no XDP program is shown")?.parse()?;
        let name = words.nth(1).unwrap_or("unnamed").to_owned();
        let theirs = by_id(id)?;
        anyhow::ensure!(
            verdict(&theirs, denied)? == XDP_DROP,
            "it drops the stranger"
        );
        let note = format!("xdp-tools {}, program {name}", version("xdp-tools"));
        let row =
            |name: &str, samples| Row::new("verdicts", name, samples, floor).noted(note.clone());
        let first = row("xdp-filter, denied", time(&theirs, denied, RUNS)?);
        let source = host(network(7, false), 5).to_string();
        run(
            lab,
            Host::Gateway,
            "xdp-filter",
            &["ip", "--mode", "src", &source],
        )?;
        anyhow::ensure!(
            verdict(&theirs, allowed)? == XDP_PASS,
            "it passes the friend"
        );
        let second = row(
            "xdp-filter, allowed by its address",
            time(&theirs, allowed, RUNS)?,
        );
        Ok([first, second])
    });
    // Whatever was measured, nothing stays.
    let unloaded = run(lab, Host::Gateway, "xdp-filter", &["unload", "outside"]);
    let rows = measured?;
    unloaded?;
    Ok(rows)
}

/// One size and family: a hot source and 65,536 random ones, hits and misses, ours and the trie.
fn lookups(lab: &Lab, bench: &mut Ebpf, size: u32, v6: bool) -> Result<Vec<Row>> {
    const GROUP: &str = "lookups";
    let hit = host(network(3, v6), 9);
    let frame = syn(hit);
    fill_trie(bench, size, v6)?;
    let names = if v6 {
        ["bench_random6", "bench_trie6"]
    } else {
        ["bench_random4", "bench_trie4"]
    };
    let mut rows = Vec::new();
    let (ours, held) = inside(lab, Host::Gateway, || {
        match enforcer(XdpMode::Native, &policy(1, size)) {
            Ok(enforcer) => {
                let id = enforcer
                    .attachments()
                    .first()
                    .context("attached")?
                    .program_id;
                Ok((Some(by_id(id)?), Some(enforcer)))
            }
            Err(error) => {
                say(&format!("clawsec with {size} prefixes: {error:#}"));
                Ok((None, None))
            }
        }
    })?;
    let trie = by_id(program(bench, names[1])?.info()?.id())?;
    let empty = by_id(program(bench, "bench_floor")?.info()?.id())?;
    let random = by_id(program(bench, names[0])?.info()?.id())?;
    let hot_floor = median(time(&empty, &frame, RUNS)?);
    let miss = host(outside_network(3, v6), 9);
    let label = |what: &str| format!("{what}, {size} prefixes, {}", family(v6));
    let refused = "more than this build holds".to_owned();

    for (kind, source) in [("hit", hit), ("miss", miss)] {
        let frame = syn(source);
        let name = label(&format!("one source, {kind}: clawsec"));
        rows.push(match &ours {
            Some(ours) => Row::new(GROUP, name, time(ours, &frame, RUNS)?, hot_floor),
            None => Row::absent(GROUP, name, refused.clone()),
        });
        let name = label(&format!("one source, {kind}: the kernel's trie alone"));
        rows.push(Row::new(GROUP, name, time(&trie, &frame, RUNS)?, hot_floor));
    }
    for kind in ["hits", "misses"] {
        fill_sources(bench, size, v6, kind == "hits")?;
        let run = |bench: &mut Ebpf, next: &Xdp| {
            let map = bench.map_mut("NEXT").context("no program array")?;
            let mut table = ProgramArray::try_from(map)?;
            table.set(0, next.fd()?, 0)?;
            time(&random, &frame, RUNS)
        };
        let floor = median(run(bench, &empty)?);
        let name = label(&format!("65,536 sources, {kind}: clawsec"));
        rows.push(match &ours {
            Some(ours) => Row::new(GROUP, name, run(bench, ours)?, floor),
            None => Row::absent(GROUP, name, refused.clone()),
        });
        let name = label(&format!("65,536 sources, {kind}: the kernel's trie alone"));
        rows.push(Row::new(GROUP, name, run(bench, &trie)?, floor));
    }
    drop(held);
    remove_enforcer();
    Ok(rows)
}

fn fill_trie(bench: &mut Ebpf, size: u32, v6: bool) -> Result<()> {
    if v6 {
        let mut trie: LpmTrie<_, [u8; 16], u32> =
            bench.map_mut("TRIE6").context("no trie")?.try_into()?;
        for n in 0..size {
            if let IpNet::V6(net) = network(n, true) {
                trie.insert(&Key::new(48, net.network().octets()), 1, 0)?;
            }
        }
    } else {
        let mut trie: LpmTrie<_, [u8; 4], u32> =
            bench.map_mut("TRIE4").context("no trie")?.try_into()?;
        for n in 0..size {
            if let IpNet::V4(net) = network(n, false) {
                trie.insert(&Key::new(24, net.network().octets()), 1, 0)?;
            }
        }
    }
    Ok(())
}

/// Sources in random order of the allowed networks, or of as many others.
fn fill_sources(bench: &mut Ebpf, size: u32, v6: bool, hits: bool) -> Result<()> {
    let mut sources: Array<_, [u8; 16]> =
        bench.map_mut("SOURCES").context("no sources")?.try_into()?;
    for n in 0..SOURCES {
        let nth = n.wrapping_mul(0x9e37_79b1) % size;
        let net = if hits {
            network(nth, v6)
        } else {
            outside_network(n, v6)
        };
        let mut bytes = [0; 16];
        match host(net, n) {
            IpAddr::V4(address) => {
                for (to, from) in bytes.iter_mut().zip(address.octets()) {
                    *to = from;
                }
            }
            IpAddr::V6(address) => bytes = address.octets(),
        }
        sources.set(n, bytes, 0)?;
    }
    Ok(())
}

/// A network that no policy here allows, of the same shape.
fn outside_network(n: u32, v6: bool) -> IpNet {
    match network(n, v6) {
        IpNet::V4(net) => {
            let bits = net.network().to_bits() | 0x8000_0000;
            IpNet::V4(ipnet::Ipv4Net::new_assert(bits.into(), 24))
        }
        IpNet::V6(net) => {
            let bits = net.network().to_bits() | (1 << 127);
            IpNet::V6(ipnet::Ipv6Net::new_assert(bits.into(), 48))
        }
    }
}

fn host(net: IpNet, n: u32) -> IpAddr {
    match net {
        IpNet::V4(net) => IpAddr::V4((net.network().to_bits() | (n & 0xff)).into()),
        IpNet::V6(net) => IpAddr::V6((net.network().to_bits() | u128::from(n)).into()),
    }
}

fn family(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

fn median(samples: Vec<f64>) -> f64 {
    Row::new("", "", samples, 0.0).median()
}
