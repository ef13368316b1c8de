//! `clawsec explain`: what would happen, and which line of the configuration decides.
//!
//! The packet is judged by the very program that is attached, run on maps of its own; the request
//! by the gateway's own policy. Nothing that is asked here spends a token or moves a counter.

mod frame;
mod join;
mod request;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use self::frame::Segment;
use self::join::{Joined, Places};
use self::request::{RequestAnswer, RequestArguments};
use super::run::DEFAULT_PIN_DIR;
use super::{CommandResult, ConfigArgument, Failure, output};
use crate::config::Config;
use crate::enforcer::{Effect, EnforcerError, Judge, Judgement};
use crate::policy::ADMISSION_RULE;

/// Whose filter is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct JudgeArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Ask the filter in force, with its bans; moves nothing
    #[arg(long)]
    live: bool,
    /// Where it is pinned
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR, requires = "live")]
    pin_dir: PathBuf,
}

impl JudgeArguments {
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// Opens the program for a command that needs nothing else of the configuration.
    pub(crate) fn open(&self) -> Result<Judge, Failure> {
        let judge = if self.live {
            Judge::of_live(&self.pin_dir)
        } else {
            Judge::of_policy(&self.config.read()?.packets)
        };
        judge.map_err(refused)
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArguments {
    #[command(flatten)]
    judge: JudgeArguments,
    /// The source, with or without its port.
    #[arg(long, value_name = "IP[:PORT]", value_parser = source)]
    from: SocketAddr,
    /// The port it is sent to [default: the first protected]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// A UDP datagram instead of a TCP segment.
    #[arg(long, conflicts_with = "syn")]
    udp: bool,
    /// A new connection, which the limits concern.
    #[arg(long)]
    syn: bool,
    #[command(flatten)]
    request: RequestArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Explanation {
    answer: Joined,
    packet: PacketAnswer,
    request: RequestAnswer,
}

#[derive(Debug, Serialize)]
struct PacketAnswer {
    verdict: &'static str,
    reason: &'static str,
    /// The configuration path; null where no line of it decides.
    rule: Option<String>,
}

/// Exits 0 when both levels allow, 1 when one denies.
pub(crate) fn explain(arguments: &ExplainArguments) -> CommandResult {
    let config = read_config(arguments)?;
    let port = port(arguments, config.as_ref())?;
    let segment = match (arguments.udp, arguments.syn) {
        (true, _) => Segment::Udp,
        (false, true) => Segment::Syn,
        (false, false) => Segment::Data,
    };
    let judgement = judge(arguments, config.as_ref(), port, segment)?;
    // The filter in force lets in whom the configuration does not: by an admission, which holds
    // at accept too.
    let admitted = arguments.judge.live
        && judgement.reason == "allowed"
        && config
            .as_ref()
            .is_some_and(|config| config.policy.addresses.admit(arguments.from.ip()).is_err());
    let packet = PacketAnswer {
        verdict: effect_word(judgement.effect),
        reason: judgement.reason,
        rule: if admitted {
            Some(ADMISSION_RULE.to_owned())
        } else {
            packet_rule(config.as_ref(), arguments.from.ip(), judgement)
        },
    };
    let request = match &config {
        Some(config) if judgement.effect.is_drop() => {
            request::not_reached(config, arguments.from.ip(), judgement.reason)
        }
        Some(config) => request::judge(
            config,
            arguments.from.ip(),
            port,
            segment,
            &arguments.request,
            admitted,
        ),
        None => request::unknown(),
    };
    let places = Places::of(config.as_ref());
    let explanation = Explanation {
        answer: join::join(&packet, &request, &places),
        packet,
        request,
    };
    if arguments.json {
        let text = serde_json::to_string(&explanation).map_err(Failure::other)?;
        output::print(&format!("{text}\n"));
    } else {
        output::print(&join::describe(&explanation, &places));
    }
    Ok(if explanation.answer.is_denied() {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}

/// With `--live` a configuration only helps: it names rules and judges the request.
fn read_config(arguments: &ExplainArguments) -> Result<Option<Config>, Failure> {
    let named = &arguments.judge.config;
    if arguments.judge.live && named.config.is_none() {
        return Ok(named.read().ok());
    }
    named.read().map(Some)
}

fn port(arguments: &ExplainArguments, config: Option<&Config>) -> Result<u16, Failure> {
    let protected = config.and_then(|config| {
        let ports = if arguments.udp {
            &config.packets.udp_ports
        } else {
            &config.packets.tcp_ports
        };
        ports.first().copied()
    });
    arguments.port.or(protected).ok_or_else(|| {
        let kind = if arguments.udp { "UDP" } else { "TCP" };
        let message = format!("no {kind} port is known to be protected; name one with --port");
        Failure::usage(anyhow::anyhow!(message))
    })
}

fn judge(
    arguments: &ExplainArguments,
    config: Option<&Config>,
    port: u16,
    segment: Segment,
) -> Result<Judgement, Failure> {
    let judge = match config {
        Some(config) if !arguments.judge.live => Judge::of_policy(&config.packets),
        _ => Judge::of_live(&arguments.judge.pin_dir),
    };
    let mut judge = judge.map_err(refused)?;
    judge.set_clock(monotonic_ns()).map_err(Failure::absent)?;
    let frame = frame::build(arguments.from, port, segment);
    let judgement = judge.run(&frame).map_err(Failure::absent)?;
    judgement.ok_or_else(|| Failure::other(anyhow::anyhow!("a frame of ours is too short")))
}

/// Which line of the configuration gave this reason.
fn packet_rule(config: Option<&Config>, source: IpAddr, judgement: Judgement) -> Option<String> {
    let config = config?;
    let prefix = || {
        let rule = config.policy.addresses.find(source)?;
        Some(rule.path.clone())
    };
    match judgement.reason {
        "allowed" | "denied" | "rate_limited" | "contended" => prefix(),
        "not_allowed" => Some("security.network.allowedIPs".to_owned()),
        "unprotected_port" => Some("security.network.ports".to_owned()),
        "guarded_port" => Some("security.network.guardUpstream".to_owned()),
        _ => None,
    }
}

/// The word of a verdict in output.
pub(crate) fn effect_word(effect: Effect) -> &'static str {
    match effect {
        Effect::Passed => "pass",
        Effect::Dropped => "drop",
        Effect::WouldDrop => "would_drop",
    }
}

/// What is missing, where the kernel does not let us ask.
pub(super) fn refused(error: EnforcerError) -> Failure {
    let root = rustix::process::geteuid().is_root();
    let error = match error {
        EnforcerError::TooMany { .. } | EnforcerError::NoSuchClass { .. } => {
            return Failure::usage(error);
        }
        error if root => anyhow::Error::new(error),
        error => anyhow::Error::new(error)
            .context("the packet filter's program runs in the kernel, which takes root"),
    };
    Failure::absent(error)
}

/// `IP`, `IP:PORT` or `[IP]:PORT`.
fn source(text: &str) -> Result<SocketAddr, String> {
    /// As good as any: the program looks at no source port.
    const SOURCE_PORT: u16 = 40_000;
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, SOURCE_PORT));
    }
    text.parse().map_err(|_not_an_address| {
        "expected an address such as 192.0.2.7, 192.0.2.7:5000 or [2001:db8::7]:5000".to_owned()
    })
}

/// The program's own clock, to a tick.
pub(super) fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::MonotonicCoarse)
}

/// The clock that captures are stamped with.
pub(super) fn wall_ns() -> u64 {
    nanoseconds(ClockId::RealtimeCoarse)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_may_have_a_port() {
        for (text, expected) in [
            ("192.0.2.7", Some("192.0.2.7:40000")),
            ("192.0.2.7:5", Some("192.0.2.7:5")),
            ("2001:db8::7", Some("[2001:db8::7]:40000")),
            ("[2001:db8::7]", Some("[2001:db8::7]:40000")),
            ("[2001:db8::7]:5", Some("[2001:db8::7]:5")),
            ("192.0.2.0/24", None),
            ("gateway", None),
        ] {
            let found = source(text).ok();
            let expected = expected.map(|text: &str| text.parse().unwrap());
            assert_eq!(found, expected, "{text}");
        }
    }
}
