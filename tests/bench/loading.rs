//! How long it takes to put a large policy and a million bans in force, and to judge frames one by
//! one as `clawsec replay` does. The daemon's half is built as this benchmark is: for debugging.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use clawsec_user::config::XdpMode;
use clawsec_user::enforcer::Judge;
use ipnet::IpNet;
use xtask::lab::{Host, Lab};

use super::report::{Row, say};
use super::setup::{REPEATS, enforcer, inside, nanos, policy, remove_enforcer, syn};

pub(crate) const GROUP: &str = "loading, and frames one by one";
pub(crate) const PREFIXES: &str = "100,000 IPv4 and 100,000 IPv6 prefixes switched to";
pub(crate) const BANS: &str = "1,000,000 bans";
const FRAMES: u32 = 100_000;

pub(crate) fn loading(lab: &Lab) -> Result<Vec<Row>> {
    say("loading: prefixes and bans");
    let rows = inside(lab, Host::Gateway, || {
        let mut enforcer = enforcer(XdpMode::Native, &policy(1, 10))?;
        let at_rest = enforcer.memory()?.in_words();
        let mut switches = Vec::new();
        for generation in 2..2 + REPEATS as u64 {
            let large = policy(generation, 100_000);
            let begun = Instant::now();
            enforcer.switch(&large)?;
            switches.push(nanos(begun.elapsed()));
        }
        let until = SystemTime::now() + Duration::from_hours(1);
        let bans: Vec<_> = (1..=1_000_000_u32)
            .map(|n| (IpNet::from(IpAddr::from(Ipv4Addr::from_bits(n))), until))
            .collect();
        let begun = Instant::now();
        enforcer.ban_until(&bans)?;
        let banned = vec![nanos(begun.elapsed())];
        let memory = enforcer.memory()?.in_words();
        Ok(vec![
            seconds(Row::new(GROUP, PREFIXES, switches, 0.0)).noted_too(at_rest),
            seconds(Row::new(GROUP, BANS, banned, 0.0)).noted_too(memory),
        ])
    });
    remove_enforcer();
    let mut rows = rows?;

    say("loading: frames one by one");
    let mut judge = Judge::of_policy(&policy(1, 1_000))?;
    let frames: Vec<_> = (0..256_u32)
        .map(|n| syn(IpAddr::from(Ipv4Addr::from_bits(0x1000_0000 | n << 12))))
        .collect();
    let mut samples = Vec::new();
    for _ in 0..REPEATS {
        let begun = Instant::now();
        for frame in frames.iter().cycle().take(FRAMES as usize) {
            judge.run(frame)?.context("a frame that can be run")?;
        }
        samples.push(nanos(begun.elapsed()) / f64::from(FRAMES));
    }
    let row = Row::new(GROUP, "a frame of `clawsec replay`", samples, 0.0);
    let rate = 1e9 / row.median();
    rows.push(row.noted(format!("{rate:.0} frames a second")));
    Ok(rows)
}

fn seconds(row: Row) -> Row {
    let text = format!("{:.2} s", row.median() / 1e9);
    row.noted(text)
}
