//! `security.network`: who may connect, at which ports, and how the packet plane is attached.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::super::model::{KernelConfig, OnExit, XdpMode};
use super::super::reader::{Field, Section};
use super::{COUNT, WINDOW_MS};
use crate::policy::{AddressRule, PrefixRule, RateClass};

/// What `security.network` says.
pub(super) struct Network {
    pub(super) kernel: KernelConfig,
    /// `rules` before `allowedIPs`: of two rules of one prefix the first wins, and the more
    /// particular one is meant.
    pub(super) rules: Vec<PrefixRule>,
    /// Index 0 is the default.
    pub(super) classes: Vec<RateClass>,
    pub(super) tcp_ports: Vec<u16>,
    pub(super) udp_ports: Vec<u16>,
    pub(super) observe: bool,
    pub(super) drop_fragments: bool,
}

pub(super) fn read(section: &mut Section<'_, '_>, connections: RateClass) -> Network {
    let mode = section
        .at("mode")
        .choice(MODES)
        .unwrap_or(Mode::Attach(XdpMode::Auto));
    if mode == Mode::Observe {
        section
            .at("mode")
            .warn("packets are counted and recorded, and none is dropped");
    }
    let fragments = section
        .at("fragments")
        .choice(&[("classify", false), ("drop", true)]);
    let allowed = allowed(section);
    let mut classes = vec![connections];
    let mut rules = section.at("rules").list(rule).unwrap_or_default();
    refuse_openings(section, &rules, &allowed);
    rules.extend(allowed);
    let rules = rules
        .into_iter()
        .map(|entry| entry.compile(&mut classes))
        .collect();

    let ports = section.at("ports").list(port).unwrap_or_default();
    let of = |wanted: Protocol| {
        let mut ports: Vec<u16> = ports
            .iter()
            .filter(|(_, p)| *p == wanted)
            .map(|(port, _)| *port)
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    };
    let on_exit = [("enforce", OnExit::Enforce), ("detach", OnExit::Detach)];
    Network {
        kernel: KernelConfig {
            interfaces: section.at("interfaces").list(interface).unwrap_or_default(),
            mode: match mode {
                Mode::Attach(mode) => mode,
                Mode::Observe => XdpMode::Auto,
            },
            on_exit: section
                .at("onExit")
                .choice(&on_exit)
                .unwrap_or(OnExit::Enforce),
            guard_upstream: section.at("guardUpstream").boolean().unwrap_or(true),
        },
        rules,
        classes,
        tcp_ports: of(Protocol::Tcp),
        udp_ports: of(Protocol::Udp),
        observe: mode == Mode::Observe,
        drop_fragments: fragments == Some(true),
    }
}

/// One prefix of the document.
struct Entry {
    offset: usize,
    path: String,
    prefix: IpNet,
    action: Action,
}

enum Action {
    Allow(Option<RateClass>),
    Deny,
    /// A rate on its own says how many, not who: it admits nobody.
    RateOnly(RateClass),
}

impl Entry {
    fn compile(self, classes: &mut Vec<RateClass>) -> PrefixRule {
        let mut allow = |class: Option<RateClass>| AddressRule::Allow {
            class: class.map_or(0, |class| index_of(class, classes)),
        };
        let rule = match self.action {
            Action::Allow(class) => allow(class),
            Action::RateOnly(class) => allow(Some(class)),
            Action::Deny => AddressRule::Deny,
        };
        PrefixRule {
            prefix: self.prefix,
            rule,
            path: self.path,
        }
    }
}

/// `allowedIPs`: left out it is every address, and empty it is a mistake.
fn allowed(section: &mut Section<'_, '_>) -> Vec<Entry> {
    let field = section.at("allowedIPs");
    let path = field.path().to_owned();
    if !field.is_present() {
        field.warn("left out: every address may connect");
        let every = [
            IpNet::from(Ipv4Net::default()),
            IpNet::from(Ipv6Net::default()),
        ];
        let entry = |prefix| Entry {
            offset: 0,
            path: path.clone(),
            prefix,
            action: Action::Allow(None),
        };
        return every.into_iter().map(entry).collect();
    }
    let entries = field.list(|element| {
        let path = element.path().to_owned();
        let offset = element.offset();
        Some(Entry {
            offset,
            path,
            prefix: prefix(element)?,
            action: Action::Allow(None),
        })
    });
    let entries = entries.unwrap_or_default();
    if entries.is_empty() && !section.report.has_problem_under(&path) {
        section.at("allowedIPs").problem(
            "an empty list: nobody could connect; name the addresses, or leave the key out",
        );
    }
    for entry in entries
        .iter()
        .filter(|entry| entry.prefix.prefix_len() == 0)
    {
        let message = format!("{} is every address of its family", entry.prefix);
        section.report.warn(&entry.path, message);
    }
    entries
}

fn rule(field: Field<'_, '_>) -> Option<Entry> {
    let path = field.path().to_owned();
    let offset = field.offset();
    field.object(|rule| {
        let prefix = prefix(rule.at("cidr").required("an address or a prefix"));
        let deny = rule
            .at("action")
            .choice(&[("allow", false), ("deny", true)]);
        let rate = rule.at("rateLimit").object(|rate| {
            let requests = rate.at("requests").required("a whole number").small(COUNT);
            let window_ms = rate.at("window").millis_number(WINDOW_MS).unwrap_or(60_000);
            let requests = requests?;
            Some(RateClass {
                burst: requests,
                per_window: requests,
                window_ms,
            })
        });
        let action = match (deny, rate.flatten()) {
            (Some(true), Some(_)) => {
                rule.at("rateLimit")
                    .problem("of no use beside `action: \"deny\"`");
                return None;
            }
            (Some(true), None) => Action::Deny,
            (Some(false), class) => Action::Allow(class),
            (None, Some(class)) => Action::RateOnly(class),
            (None, None) => {
                if !rule.has("action") && !rule.has("rateLimit") {
                    rule.at("action")
                        .required("\"allow\", \"deny\", or a `rateLimit`");
                }
                return None;
            }
        };
        Some(Entry {
            offset,
            path,
            prefix: prefix?,
            action,
        })
    })?
}

/// A rule with a rate alone must lie inside what is allowed, else it would be a hole nobody saw.
fn refuse_openings(section: &mut Section<'_, '_>, rules: &[Entry], allowed: &[Entry]) {
    let mut decided: HashMap<IpNet, bool> = HashMap::new();
    for entry in rules.iter().chain(allowed) {
        let allows = match entry.action {
            Action::Allow(_) => true,
            Action::Deny => false,
            Action::RateOnly(_) => continue,
        };
        decided
            .entry(entry.prefix)
            .and_modify(|all| *all &= allows)
            .or_insert(allows);
    }
    for entry in rules
        .iter()
        .filter(|entry| matches!(entry.action, Action::RateOnly(_)))
    {
        let mut above = Some(entry.prefix);
        let mut inside = None;
        while let (Some(prefix), None) = (above, inside) {
            inside = decided.get(&prefix.trunc()).copied();
            above = prefix.supernet();
        }
        if inside != Some(true) {
            let message = format!(
                "{} is not in `allowedIPs`; write `action: \"allow\"` to admit it",
                entry.prefix
            );
            section.report.problem(entry.offset, &entry.path, message);
        }
    }
}

/// A prefix, or an address on its own; IPv4 inside IPv6 is written as IPv4.
pub(super) fn prefix(field: Field<'_, '_>) -> Option<IpNet> {
    let expected =
        "an address or a prefix such as \"192.168.1.0/24\", with no bits after its length";
    field.parsed(expected, |text| {
        let prefix = match text.parse::<IpNet>() {
            Ok(prefix) => prefix,
            Err(_) => IpNet::from(text.parse::<IpAddr>().map_err(|_not_one| None)?),
        };
        let prefix = canonical(prefix);
        if prefix == prefix.trunc() {
            Ok(prefix)
        } else {
            // Either may be meant, and one of them lets in far more.
            Err(Some(format!(
                "\"{}\" or \"{}\"",
                prefix.trunc(),
                prefix.addr()
            )))
        }
    })
}

/// `::ffff:10.0.0.0/104` is `10.0.0.0/8`: the addresses it names arrive as IPv4.
fn canonical(prefix: IpNet) -> IpNet {
    let IpNet::V6(v6) = prefix else { return prefix };
    let Some(v4) = v6.addr().to_ipv4_mapped() else {
        return prefix;
    };
    v6.prefix_len()
        .checked_sub(96)
        .and_then(|length| Ipv4Net::new(v4, length).ok())
        .map_or(prefix, IpNet::V4)
}

fn index_of(class: RateClass, classes: &mut Vec<RateClass>) -> u16 {
    let found = classes.iter().skip(1).position(|known| *known == class);
    let index = found.map_or(classes.len(), |index| index + 1);
    // Far more classes than any kernel map takes; the enforcer refuses them with the numbers.
    let Ok(number) = u16::try_from(index) else {
        return u16::MAX;
    };
    if found.is_none() {
        classes.push(class);
    }
    number
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

fn port(field: Field<'_, '_>) -> Option<(u16, Protocol)> {
    field.parsed("a port such as \"443/tcp\" or \"443/udp\"", |text| {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let number = number.parse::<NonZeroU16>().map_err(|_not_one| None)?;
        match protocol {
            "tcp" => Ok((number.get(), Protocol::Tcp)),
            "udp" => Ok((number.get(), Protocol::Udp)),
            _ => Err(Some(format!("\"{number}/tcp\""))),
        }
    })
}

fn interface(field: Field<'_, '_>) -> Option<String> {
    // IFNAMSIZ is 16 with the final NUL.
    field.parsed("an interface's name, 15 bytes at most", |text| {
        let sound = (1..=15).contains(&text.len())
            && !text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
        if sound {
            Ok(text.to_owned())
        } else {
            Err(None)
        }
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Attach(XdpMode),
    Observe,
}

const MODES: &[(&str, Mode)] = &[
    ("auto", Mode::Attach(XdpMode::Auto)),
    ("native", Mode::Attach(XdpMode::Native)),
    ("generic", Mode::Attach(XdpMode::Generic)),
    ("tcx", Mode::Attach(XdpMode::Tcx)),
    ("observe", Mode::Observe),
];
