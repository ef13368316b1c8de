//! clawsec's one entry for building, running, testing and shipping: `cargo xtask <what>`.
//!
//! A command is a module with one function; this file only says which there are.

mod bench;
mod bench_gateway;
mod build;
mod ci;
mod demo;
mod deny;
mod dist;
mod fuzz;
mod peer;
mod reproduce;
mod screens;
mod setup;
mod tidy;
mod tiers;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::say;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Builds, runs, tests and ships clawsec",
    version
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building the kernel half needs; changes nothing that is there already
    Setup,
    /// Build the kernel half, then the daemon with it inside
    Build {
        /// Optimise the daemon; the kernel half always is
        #[arg(long)]
        release: bool,
    },
    /// Set up, build and run clawsec in a network of its own, with something to try
    Run {
        /// A gateway to protect, as seen from the demo's network, in place of the stand-in
        #[arg(long, value_name = "URL")]
        upstream: Option<String>,
    },
    /// Run the tests that can run here; name and count those that cannot
    Test {
        #[arg(long)]
        tier: Option<tiers::Tier>,
        /// Fail if a tier cannot run
        #[arg(long)]
        strict: bool,
        /// How long the soak tier goes on; a minute without it
        #[arg(long, value_name = "N")]
        minutes: Option<u32>,
        /// Only tests whose path begins with this, below the tier
        filter: Option<String>,
    },
    /// Fuzz what reads strangers' bytes; a crash is an error that names the input
    Fuzz {
        /// One target of fuzz/fuzz_targets; without it each in turn
        target: Option<String>,
        /// For each target
        #[arg(long, default_value_t = fuzz::SECONDS)]
        seconds: u32,
    },
    /// Measure side by side with the peers: JSON in target/bench, a table on standard output
    Bench {
        /// What is measured
        #[arg(default_value = "kernel")]
        what: bench::What,
    },
    /// The whole gate: format, lints, tidy, dependencies, docs, the fuzz targets, every tier
    Ci {
        /// Everything but the tests
        #[arg(long)]
        skip_tests: bool,
    },
    /// Hold the dependencies against deny.toml: licences, sources, duplicates, advisories
    Deny,
    /// Build the BPF object a second time, in another folder: it must have the same bytes
    Reproduce,
    /// Take the screens of docs/screens anew, of a real daemon in a network of its own
    Screens {
        /// The browser that shows the page
        #[arg(long, default_value = "chromium")]
        chromium: String,
    },
    /// Make a Debian package and an archive, with an SBOM and checksums, in target/dist
    Dist {
        /// Of the programs as tests run them: quick, and larger
        #[arg(long)]
        debug: bool,
        /// Install, start, upgrade, hang, kill and remove it on a Debian 12 in qemu
        #[arg(long = "try")]
        tried: bool,
    },
    /// The stand-in gateway of the demo
    #[command(hide = true)]
    StandIn,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Setup => setup::setup().map(|_| ()),
        Command::Build { release } => build::build(release).map(|_| ()),
        Command::Run { upstream } => demo::run(upstream.as_deref()),
        Command::Test {
            tier,
            strict,
            minutes,
            filter,
        } => tiers::run(tiers::Wanted {
            only: tier,
            filter: filter.as_deref(),
            strict,
            minutes,
        }),
        Command::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Command::Bench { what } => bench::run(what),
        Command::Ci { skip_tests } => ci::run(skip_tests),
        Command::Deny => deny::run(),
        Command::Reproduce => reproduce::run(),
        Command::Screens { chromium } => screens::run(&chromium),
        Command::Dist { debug, tried } => dist::dist(debug, tried),
        Command::StandIn => demo::stand_in(),
    }
}
