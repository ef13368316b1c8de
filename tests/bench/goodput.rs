//! `cargo xtask bench attack`: what is left for an allowed client while others attack, beside nginx
//! behind nftables, in one run.
//!
//! The client, the server and what is behind it have CPU 0, the attackers CPU 1. Goodput is the
//! client's answers a second by wrk, as a share of those with the same pinning and no attack. Both
//! servers have the same limits for each source: so many connections a minute, 256 at once.
//!
//! A veth takes a packet on the CPU of its sender, where a card interrupts the CPU that serves it.
//! The flood is measured both ways: as it is, and with the receiving end (a NAPI thread) on CPU 0.

mod client;
mod flood;
mod report;
mod servers;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use xtask::lab::{GATEWAY_INSIDE, Host, Lab};

use self::client::{Goodput, SECONDS, answers_a_second};
use self::flood::{Flood, Receiver, least_receiver};
use self::report::Row;
use self::servers::{KEY, Server, Who, World};
use super::attack::{self, Attack, Target};

const ROUNDS: usize = 3;
/// Of attackers that the filter lets in.
const SOURCES: u8 = 4;

/// `CLAWSEC_BENCH_ONLY=flood|attacks` measures one part.
pub(crate) fn measure(out: &Path) -> Result<()> {
    let only = std::env::var("CLAWSEC_BENCH_ONLY").ok();
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let lab = Lab::new("attack").context("make the namespaces")?;
    let world = World::new(lab)?;
    let mut rows = Vec::new();
    if wanted("flood") {
        for receiver in [Receiver::OfTheServer, Receiver::OfTheSender] {
            rows.push(under_flood(&world, receiver)?);
        }
    }
    if wanted("attacks") {
        rows.extend(under_attacks(&world)?);
    }
    report::write(&rows, out)
}

/// Denied SYNs of 24,576 sources.
fn under_flood(world: &World, receiver: Receiver) -> Result<Row> {
    let mut flood = Flood::new(&world.lab)?;
    let mut row = Row::new(receiver.name());
    for who in Who::BOTH {
        let server = Server::start(world, who)?;
        let (goodput, sent, dropped) =
            flooded(world, &mut flood, receiver, || server.dropped(world))?;
        row.note(&format!(
            "{}: {sent} sent a second, {dropped} dropped",
            who.name()
        ));
        row.put(who, goodput);
    }
    // What any XDP program costs here: the frames come from another CPU's caches.
    let _server = Server::start_without_filter(world)?;
    let least = least_receiver(&world.lab)?;
    let (goodput, sent, _) = flooded(world, &mut flood, receiver, || Ok(0))?;
    drop(least);
    row.note(&format!(
        "behind a program that drops at once: {:.0} % kept, {sent} sent a second",
        goodput.share() * 100.0
    ));
    Ok(row)
}

/// The client's answers without and under the flood; packets sent and dropped a second.
fn flooded(
    world: &World,
    flood: &mut Flood,
    receiver: Receiver,
    dropped: impl Fn() -> Result<u64>,
) -> Result<(Goodput, u64, u64)> {
    receiver.set_up(&world.lab)?;
    let mut goodput = Goodput::default();
    let (mut sent, mut counted) = (0, 0);
    for _ in 0..ROUNDS {
        goodput.quiet.push(answers_a_second(world)?);
        let before = dropped()?;
        let (frames, answers) = flood.during(|| answers_a_second(world))?;
        sent += frames;
        counted += dropped()?.saturating_sub(before);
        goodput.under.push(answers?);
    }
    let seconds = SECONDS * u64::try_from(ROUNDS)?;
    Ok((goodput, sent / seconds, counted / seconds))
}

/// Every attack of clients that the filter lets in.
fn under_attacks(world: &World) -> Result<Vec<Row>> {
    let sources: Vec<IpAddr> = (0..SOURCES)
        .map(|n| Ipv4Addr::new(192, 0, 2, 100 + n).into())
        .collect();
    world.add_addresses(&sources)?;
    let mut rows: Vec<Row> = Attack::ALL
        .iter()
        .map(|attack| Row::new(attack.name()))
        .collect();
    for who in Who::BOTH {
        for (attack, row) in Attack::ALL.into_iter().zip(&mut rows) {
            // Each on a server that knows nobody yet.
            let _server = Server::start(world, who)?;
            let address = (GATEWAY_INSIDE.parse::<IpAddr>()?, 8443).into();
            let mut target = Target::new(address, &world.path("cert.pem"), KEY);
            target.sources.clone_from(&sources);
            target.lanes = 8;
            target.cpu = Some(1);
            let mut goodput = Goodput::default();
            goodput.quiet.push(answers_a_second(world)?);
            let stop = Arc::new(AtomicBool::new(false));
            let tally = std::thread::scope(|scope| {
                let attackers =
                    scope.spawn(|| attack::run(attack, &target, &world.lab, Host::Inside, &stop));
                // They are at full height when the client is measured.
                std::thread::sleep(Duration::from_millis(500));
                let answers = answers_a_second(world);
                stop.store(true, Ordering::Relaxed);
                let tally = attackers.join();
                goodput.under.push(answers?);
                tally.map_err(|_panic| anyhow::anyhow!("the attackers panicked"))
            })?;
            row.note(&format!("{}: {}", who.name(), said(&tally)));
            row.put(who, goodput);
        }
    }
    Ok(rows)
}

fn said(tally: &attack::Tally) -> String {
    let each: Vec<String> = tally
        .answers
        .keys()
        .map(|answer| format!("{} {answer}", tally.count(answer)))
        .collect();
    each.join(", ")
}
