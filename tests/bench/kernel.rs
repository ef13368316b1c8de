//! `cargo xtask bench kernel`: the packet filter side by side with its peers, in one run; and
//! `cargo xtask bench attack`, which is the daemon's part (`goodput`).
//!
//! All load stays in network namespaces made here, and every flood has a fixed number of frames.

#[path = "../attack/mod.rs"]
#[expect(clippy::expect_used, reason = "attackers panic, as tests do")]
mod attack;
mod flood;
mod goodput;
mod loading;
mod lookups;
mod report;
mod setup;
mod verdicts;

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    // Under plain `cargo test --benches` nobody asked for minutes of measuring.
    let Some(out) = std::env::var_os("CLAWSEC_BENCH_OUT") else {
        report::say("run by `cargo xtask bench kernel` or `attack`");
        return Ok(());
    };
    setup::mount_bpffs()?;
    if std::env::var_os("CLAWSEC_LOAD").is_some() {
        return goodput::measure(out.as_ref());
    }
    let lab = xtask::lab::Lab::new("bench").context("make the namespaces")?;
    setup::pin_to_cpu(0)?;
    // One part alone, while something is being tried.
    let only = std::env::var("CLAWSEC_BENCH_ONLY").ok();
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let mut rows = Vec::new();
    if wanted("verdicts") {
        rows.extend(verdicts::verdicts(&lab)?);
    }
    if wanted("lookups") {
        rows.extend(lookups::lookups(&lab)?);
    }
    if wanted("loading") {
        rows.extend(loading::loading(&lab)?);
    }
    if wanted("flood") {
        rows.extend(flood::measure(&lab)?);
    }
    report::write(&rows, out.as_ref())
}
