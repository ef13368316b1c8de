//! Through `BPF_PROG_TEST_RUN`: a verdict of each kind, beside xdp-filter's.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use clawsec_user::config::XdpMode;
use ipnet::IpNet;
use xtask::lab::{Host, Lab};

use super::report::Row;
use super::setup::{
    bench_object, by_id, enforcer, inside, network, policy, program, remove_enforcer, run, syn,
    time, verdict, version,
};

const RUNS: u32 = 1_000_000;
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
        Ok(peers) => {
            rows.extend([clawsec_denied, clawsec_allowed]);
            rows.extend(peers);
        }
        Err(error) => {
            rows.extend([clawsec_denied, clawsec_allowed]);
            rows.push(Row::absent("verdicts", "xdp-filter", format!("{error:#}")));
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

/// The n-th host of a network.
fn host(net: IpNet, n: u32) -> IpAddr {
    match net {
        IpNet::V4(net) => IpAddr::V4((net.network().to_bits() | (n & 0xff)).into()),
        IpNet::V6(net) => IpAddr::V6((net.network().to_bits() | u128::from(n)).into()),
    }
}
