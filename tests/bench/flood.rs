//! A flood of live frames over veth: what one dropped packet costs the machine.
//!
//! Generator and receiver share a CPU, so that the time of both is the time that passed. The
//! generator's own share is measured against a peer that takes no frame at all.

use std::time::Instant;

use anyhow::{Context as _, Result};
use aya::maps::Array;
use aya::{Ebpf, TestRun as _, TestRunAttrs, TestRunOptions};
use clawsec_user::config::XdpMode;
use clawsec_user::enforcer::Effect;
use xtask::lab::{CLIENT_OUTSIDE, Host, Lab};

use super::report::{Row, say};
use super::setup::{
    REPEATS, bench_object, enforcer, inside, nanos, pin_to_cpu, policy, program, remove_enforcer,
    run, syn, version,
};

const GROUP: &str = "flood over veth, each packet dropped";
const FRAMES: u32 = 1_000_000;
const BATCH: u32 = 64;

const RAW_SET: &str = "table inet bench {
set allowed {
type ipv4_addr
flags interval
elements = { 16.0.0.0/8 }
}
chain pre {
type filter hook prerouting priority raw
tcp dport 8443 ip saddr != @allowed counter drop
}
}
";
const PER_SOURCE: &str = "table inet bench {
set busy {
type ipv4_addr
size 65535
flags dynamic,timeout
timeout 60s
}
chain pre {
type filter hook prerouting priority raw
tcp dport 8443 tcp flags syn update @busy { ip saddr limit rate over 60/minute burst 60 packets } counter drop
}
}
";

pub(crate) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let mut bench = bench_object()?;
    // Without it veth gives the frames to nobody but an XDP program.
    gro(lab, "off")?;
    say("flood: the generator alone");
    let alone = Row::new(
        GROUP,
        "the generator alone: the floor",
        generator(lab, &mut bench)?,
        0.0,
    );
    let floor = alone.median();
    let mut rows = vec![alone];
    say("flood: clawsec");
    for mode in [XdpMode::Native, XdpMode::Tcx, XdpMode::Generic] {
        let held = inside(lab, Host::Gateway, || {
            gro(lab, "on")?;
            enforcer(mode, &policy(1, 1_000))
        })?;
        let count = || {
            let counters = held.counters()?;
            let dropped = counters
                .iter()
                .find(|c| c.reason == "not_allowed" && c.effect == Effect::Dropped);
            dropped.map(|c| c.packets).context("no counter")
        };
        let samples = flood(lab, &mut bench, count)?;
        let name = format!("clawsec, {}, not allowed, 1,000 prefixes", mode_name(mode));
        rows.push(Row::new(GROUP, name, samples, floor));
        drop(held);
        remove_enforcer();
    }
    say("flood: a program that drops at once");
    let samples = least_receiver(lab, &mut bench)?;
    let name = "an XDP program that drops at once, native: the least there is";
    rows.push(Row::new(GROUP, name, samples, floor));
    say("flood: nftables");
    for (name, ruleset) in [
        ("nftables, raw prerouting, not in a set", RAW_SET),
        (
            "nftables, raw prerouting, a limit for each source",
            PER_SOURCE,
        ),
    ] {
        // A program that went took the frames' way into the stack with it: open it anew.
        for state in ["off", "on"] {
            gro(lab, state)?;
        }
        let measured = run(lab, Host::Gateway, "nft", &["flush", "ruleset"])
            .and_then(|_| run(lab, Host::Gateway, "nft", &[ruleset]))
            .and_then(|_| flood(lab, &mut bench, || nft_drops(lab)));
        rows.push(match measured {
            Ok(samples) => Row::new(GROUP, name, samples, floor)
                .noted(format!("nftables {}", version("nftables"))),
            Err(error) => Row::absent(GROUP, name, format!("{error:#}")),
        });
    }
    note_ratios(&mut rows);
    Ok(rows)
}

/// Whether the receiver takes frames that no XDP program took: «on» opens the way into the stack.
fn gro(lab: &Lab, state: &str) -> Result<String> {
    let arguments = ["-K", "outside", "gro", state];
    run(lab, Host::Gateway, "ethtool", &arguments)
        .context("needs ethtool (Debian: apt-get install ethtool)")
}

/// The generator against a program that looks at nothing.
fn least_receiver(lab: &Lab, bench: &mut Ebpf) -> Result<Vec<f64>> {
    let link = inside(lab, Host::Gateway, || {
        gro(lab, "on")?;
        Ok(program(bench, "bench_drop")?.attach("outside", aya::programs::xdp::XdpMode::Driver)?)
    })?;
    let samples = generator(lab, bench);
    program(bench, "bench_drop")?.detach(link)?;
    samples
}

/// How many times what clawsec pays each other row pays.
fn note_ratios(rows: &mut [Row]) {
    let Some(ours) = rows.get(1).map(Row::net) else {
        return;
    };
    for row in rows.iter_mut().skip(2) {
        if row.net().is_nan() {
            continue;
        }
        let times = format!("{:.1} × clawsec native", row.net() / ours);
        row.note = if row.note.is_empty() {
            times
        } else {
            format!("{times}; {}", row.note)
        };
    }
}

/// Nanoseconds for each packet that the receiver counted as dropped, with the generator's.
fn flood(lab: &Lab, bench: &mut Ebpf, dropped: impl Fn() -> Result<u64>) -> Result<Vec<f64>> {
    send(lab, bench, FRAMES / 10)?;
    (0..REPEATS)
        .map(|_| {
            let before = dropped()?;
            let elapsed = send(lab, bench, FRAMES)?;
            let counted = dropped()? - before;
            let counted = u32::try_from(counted).context("more than were sent")?;
            anyhow::ensure!(
                counted > FRAMES / 10 * 9,
                "{counted} of {FRAMES} frames arrived: the queue in between overflowed"
            );
            Ok(elapsed / f64::from(counted))
        })
        .collect()
}

/// The generator against an interface whose peer refuses every frame.
fn generator(lab: &Lab, bench: &mut Ebpf) -> Result<Vec<f64>> {
    send(lab, bench, FRAMES / 10)?;
    (0..REPEATS)
        .map(|_| Ok(send(lab, bench, FRAMES)? / f64::from(FRAMES)))
        .collect()
}

/// Sends frames from the outer host; nanoseconds that passed.
fn send(lab: &Lab, bench: &mut Ebpf, frames: u32) -> Result<f64> {
    let shown = run(lab, Host::Outside, "cat", &["/proc/net/dev_mcast"]).unwrap_or_default();
    let index: u32 = shown
        .lines()
        .find_map(|line| {
            let mut words = line.split_whitespace();
            let index = words.next()?.parse().ok()?;
            (words.next()? == "eth0").then_some(index)
        })
        .context("eth0 has no index")?;
    let map = bench.map_mut("TARGET").context("no target")?;
    let mut target: Array<_, u32> = map.try_into()?;
    target.set(0, index, 0)?;
    let frame = syn(CLIENT_OUTSIDE.parse()?);
    let sender = program(bench, "bench_send")?;
    let sender = &*sender;
    inside(lab, Host::Outside, || {
        pin_to_cpu(0)?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.repeat = frames;
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        let began = Instant::now();
        sender.test_run(options).context("send live frames")?;
        Ok(nanos(began.elapsed()))
    })
}

fn nft_drops(lab: &Lab) -> Result<u64> {
    let shown = run(lab, Host::Gateway, "nft", &["list", "ruleset"])?;
    let mut words = shown
        .split_whitespace()
        .skip_while(|word| *word != "packets");
    // `limit … burst 60 packets` has the word too, without a number behind it.
    loop {
        let word = words.next().context("no counter")?;
        if word == "packets"
            && let Some(Ok(number)) = words.clone().next().map(str::parse)
        {
            return Ok(number);
        }
    }
}

fn mode_name(mode: XdpMode) -> &'static str {
    match mode {
        XdpMode::Native => "native",
        XdpMode::Tcx => "tcx",
        XdpMode::Generic => "generic",
        XdpMode::Auto => "auto",
    }
}
