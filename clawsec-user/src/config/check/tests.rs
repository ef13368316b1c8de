//! The manual's examples are the checker's tests: each works as it stands, each key is there.

mod acme;
mod listeners;
mod refusals;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::super::foreign::FOREIGN;
use super::super::model::{Config, TlsVersion};
use super::super::{ConfigError, NoSources, Sources, compile, compile::known_keys};
use crate::policy::{
    Denial, PacketRule, Principal, RateClass, Reason, Request, RequestFacts, Scope, ToolName,
};

const MANUAL: &str = include_str!("../../../../docs/configuration.md");
const EXAMPLE: &str = include_str!("../../../../packaging/clawsec.example.json5");

/// Every variable is set, to a text that names it.
struct Everything;

impl Sources for Everything {
    fn variable(&self, name: &str) -> Option<Zeroizing<String>> {
        Some(Zeroizing::new(format!("the-secret-of-{name}")))
    }

    fn secret_file(&self, _dir: &Path, name: &str) -> io::Result<Zeroizing<String>> {
        Ok(Zeroizing::new(format!("the-secret-file-{name}\n")))
    }

    fn home(&self) -> Option<PathBuf> {
        Some(PathBuf::from("/home/claw"))
    }
}

const AUTH: &str = r#"auth: { type: "token", tokens: [{ id: "a", token: "0123456789abcdef" }] }"#;

fn read(text: &str) -> Result<Config, ConfigError> {
    compile(text, Path::new("c.json"), &Everything)
}

/// A document whose `security` has an `auth` and this.
fn secured(security: &str, rest: &str) -> Result<Config, ConfigError> {
    read(&format!("{{ security: {{ {AUTH}, {security} }}, {rest} }}"))
}

fn only_problem(result: Result<Config, ConfigError>, context: &str) -> String {
    let error = result.expect_err(context).to_string();
    assert_eq!(error.lines().count(), 1, "{context}: {error}");
    error
        .split_once(": ")
        .map_or(String::new(), |(_, rest)| rest.to_owned())
}

fn warned(config: &Config, path: &str) -> bool {
    config.warnings.iter().any(|warning| warning.path == path)
}

fn blocks() -> Vec<&'static str> {
    let blocks = MANUAL.split("```json5\n").skip(1);
    blocks
        .filter_map(|rest| rest.split_once("```").map(|(block, _)| block))
        .collect()
}

#[test]
fn the_manuals_examples_work() {
    assert!(blocks().len() >= 9);
    for block in blocks() {
        match read(block) {
            Ok(config) => round_trip(&config),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("security.auth: missing"), "{block}\n{error}");
                assert_eq!(error.lines().count(), 1, "{block}\n{error}");
            }
        }
    }
    round_trip(&read(EXAMPLE).unwrap());
}

#[test]
fn the_manual_names_every_key_and_no_other() {
    let documented: BTreeSet<String> = MANUAL
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(key, _)| key.to_owned())
        .collect();
    let every_object = r#"{
      gateway: { tls: { acme: {} }, listen: [{}] },
      security: { auth: { type: "token", tokens: [{ previous: {} }, { cert: "" }] }, network: { rules: [{ rateLimit: {} }] },
                  rateLimit: { ban: {} }, audit: { sinks: [{ type: "journald" }, { type: "syslog" }, { type: "otlp" }],
                           alerts: [{ webhook: "" }, { command: [] }] } },
      secrets: { provider: "file" },
      agents: { list: [{ sandbox: {} }] },
    }"#;
    let mut known = known_keys(every_object, &Everything);
    known.extend(known_keys("{}", &Everything));
    assert_eq!(documented, known);
    for (section, keys) in FOREIGN {
        for key in *keys {
            let path = format!("{section}.{key}");
            assert!(
                !known.contains(&path),
                "{path} is read and left out at once"
            );
        }
    }
}

/// What the gateway process compiles is what the supervisor compiled, and holds no secret.
fn round_trip(config: &Config) {
    let text = &config.redacted_document;
    assert!(!text.contains("the-secret-"), "{text}");
    assert!(!text.contains("0123456789abcdef\""), "{text}");
    let again = compile(text, &config.path, &NoSources).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(again.packets, config.packets);
    assert_eq!(again.kernel, config.kernel);
    assert_eq!(again.ban, config.ban);
    assert_eq!(again.sandbox, config.sandbox);
    assert_eq!(again.gateway.listen, config.gateway.listen);
    assert_eq!(again.gateway.upstream, config.gateway.upstream);
    assert_eq!(again.gateway.hosts, config.gateway.hosts);
    assert_eq!(again.gateway.origins, config.gateway.origins);
    assert_eq!(again.gateway.tls, config.gateway.tls);
    assert_eq!(again.gateway.admin_socket, config.gateway.admin_socket);
    assert_eq!(again.gateway.metrics, config.gateway.metrics);
    assert_eq!(again.gateway.upstream_token, None);
    assert_eq!(again.audit.path, config.audit.path);
    assert_eq!(again.audit.events, config.audit.events);
    let (new, old) = (&again.policy, &config.policy);
    assert_eq!(new.addresses.rules(), old.addresses.rules());
    assert_eq!(new.people, old.people);
    assert_eq!((&new.tools, &new.sandboxed), (&old.tools, &old.sandboxed));
    assert_eq!(new.agents, old.agents);
    assert_eq!(new.limit, old.limit);
    assert_eq!(new.credentials.len(), old.credentials.len());
    for id in old.credentials.ids() {
        let principal = old.credentials.vouched(id, VALID).unwrap();
        assert!(new.credentials.still_valid(&principal, VALID), "{id}");
    }
}

/// 2026-11-15, inside every window of the examples.
const VALID: i64 = 1_794_700_000;

#[test]
fn a_secret_survives_no_way_into_the_redacted_document() {
    let config = secured(
        r#"audit: { path: "/x/${A}/$${B}/${C}", chainKey: "${CHAIN}" }"#,
        r#"gateway: { upstreamToken: "literal-upstream", auth: { token: "literal-gateway" } },
           channels: { telegram: { token: "literal-channel" } },"#,
    )
    .unwrap();
    let text = &config.redacted_document;
    for secret in ["literal-", "CHAIN", "0123456789abcdef\""] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let again = compile(text, Path::new("x"), &NoSources).unwrap();
    assert_eq!(
        again.audit.path, config.audit.path,
        "`$${{B}}` stays literal"
    );
    assert_eq!(
        config.gateway.upstream_token.unwrap().reveal(),
        "literal-upstream"
    );
    assert_eq!(
        config.audit.chain_key.unwrap().reveal(),
        "the-secret-of-CHAIN"
    );
    assert!(!format!("{:?}", again.policy).contains("0123456789abcdef"));
}

#[test]
fn silence_is_never_open() {
    assert!(only_problem(read("{}"), "empty").contains("security.auth: missing"));
    let config = secured("", "").unwrap();
    let listen: Vec<String> = config
        .gateway
        .listen
        .iter()
        .map(|listen| listen.address.to_string())
        .collect();
    assert_eq!(listen, ["127.0.0.1:8443", "[::1]:8443"]);
    assert!(warned(&config, "gateway.listen") && warned(&config, "security.network.allowedIPs"));
    assert_eq!(
        config.packets.tcp_ports, [0; 0],
        "loopback is no port of the network's"
    );
    assert_eq!(config.packets.guarded_tcp_ports, [18789]);
    assert_eq!(config.packets.prefixes.len(), 2);
    assert_eq!(config.packets.classes[0].burst, 120);
    assert!(config.policy.limit.enabled && config.audit.enabled && !config.sandbox.enabled);
    assert!(!config.policy.sandboxed.names(&ToolName::new("exec")));
    assert_eq!(
        config.audit.path,
        Path::new("/home/claw/.clawdbot/audit.log")
    );
}

#[test]
fn listening_follows_tls() {
    let tls = r#"tls: { certPath: "~/c.pem", keyPath: "/k.pem", minVersion: "1.3" }"#;
    let config = secured("", &format!("gateway: {{ {tls} }}")).unwrap();
    let found = config.gateway.tls.unwrap();
    assert_eq!(found.cert, Path::new("/home/claw/c.pem"));
    assert_eq!(found.min_version, TlsVersion::Tls13);
    assert_eq!(config.packets.tcp_ports, [8443]);

    let off = r#"gateway: { tls: { enabled: false }, listen: ["0.0.0.0:80"] }"#;
    let config = secured("", off).unwrap();
    assert_eq!(config.gateway.listen[0].address.to_string(), "0.0.0.0:80");
    assert!(warned(&config, "gateway.tls"));

    let narrowed = r#"gateway: { listen: ["192.168.1.5:9443", "0.0.0.0:9443"] }"#;
    let config = secured("", narrowed).unwrap();
    assert_eq!(config.gateway.listen.len(), 1);
    assert_eq!(
        config.gateway.listen[0].address.to_string(),
        "127.0.0.1:9443"
    );
}

#[test]
fn prefixes_and_rates_become_packet_rules() {
    let config = secured(
        r#"network: {
            allowedIPs: ["10.0.0.0/8", "::ffff:192.168.0.0/112", "2001:db8::1"],
            rules: [{ cidr: "10.6.0.0/16", action: "deny" },
                    { cidr: "10.1.0.0/16", rateLimit: { requests: 600, window: 1000 } },
                    { cidr: "10.2.0.0/16", rateLimit: { requests: 600, window: 1000 } }],
            ports: ["443/tcp", "443/udp", "22"], mode: "observe", guardUpstream: false,
            fragments: "drop",
        }, rateLimit: { requests: 10, connections: 7, window: 5000, packets: 70 }"#,
        "",
    )
    .unwrap();
    let find = |text: &str| {
        let net = text.parse().unwrap();
        config
            .packets
            .prefixes
            .iter()
            .find(|(prefix, _)| *prefix == net)
            .map(|(_, rule)| *rule)
    };
    assert_eq!(find("10.0.0.0/8"), Some(PacketRule::Allow { class: 0 }));
    assert_eq!(find("192.168.0.0/16"), Some(PacketRule::Allow { class: 0 }));
    assert_eq!(
        find("2001:db8::1/128"),
        Some(PacketRule::Allow { class: 0 })
    );
    assert_eq!(find("10.6.0.0/16"), Some(PacketRule::Deny));
    assert_eq!(find("10.1.0.0/16"), Some(PacketRule::Allow { class: 1 }));
    assert_eq!(find("10.2.0.0/16"), Some(PacketRule::Allow { class: 1 }));
    let class = |burst, window_ms| RateClass {
        burst,
        per_window: burst,
        window_ms,
    };
    assert_eq!(config.packets.classes, [class(7, 5000), class(600, 1000)]);
    assert_eq!(config.packets.tcp_ports, [22, 443]);
    assert_eq!(config.packets.udp_ports, [443]);
    assert_eq!(config.packets.guarded_tcp_ports, [0; 0]);
    assert!(config.packets.observe && config.packets.drop_fragments);
    assert_eq!(config.packets.packet_ceiling, Some(class(70, 5000)));
    assert!(!warned(&config, "security.rateLimit.packets"));
    round_trip(&config);
}

#[test]
fn a_packet_ceiling_is_off_by_default_and_warns_when_it_is_the_stricter_limit() {
    for (rate, ceiling, warns) in [
        ("{}", None, false),
        ("{ packets: 20000 }", Some(20_000), false),
        ("{ connections: 100, packets: 999 }", Some(999), true),
        ("{ enabled: false, packets: 20000 }", None, false),
    ] {
        let config = secured(&format!("rateLimit: {rate}"), "").unwrap();
        let found = config.packets.packet_ceiling.map(|class| class.burst);
        assert_eq!(found, ceiling, "{rate}");
        assert_eq!(
            warned(&config, "security.rateLimit.packets"),
            warns,
            "{rate}"
        );
        assert!(!config.packets.drop_fragments, "{rate}");
    }
}

#[test]
fn a_token_carries_what_its_object_says() {
    let config = read(
        r#"{ security: { auth: { type: "token", tokens: [
            "token1",
            { id: "b", token: "sha256:6CC5C2AFC67F7E7BC55BCC0F8E2D5C1FA8FC8B3D6C3A2CF8C5A4B7B0C1F2E3D4",
              agents: ["main"], notBefore: "2026-01-01", notAfter: "2027-01-01T00:00:00+01:00" },
          ] } },
          agents: { list: [{ id: "Work", tokens: ["b"] }] } }"#,
    )
    .unwrap();
    assert!(
        warned(&config, "security.auth.tokens[0]"),
        "short, and an administrator's"
    );
    let credentials = &config.policy.credentials;
    // The first bytes of SHA-256("token1"), as `sha256sum` prints them.
    let plain = credentials.vouched("key-df3e6b0b", VALID).unwrap();
    assert_eq!(plain.scopes(), [Scope::Admin]);
    let bound: Principal = credentials.vouched("b", VALID).unwrap();
    assert_eq!(bound.scopes(), [Scope::Read, Scope::Write]);
    assert_eq!(bound.agents().unwrap(), ["main", "work"]);
    let reason = |now| {
        credentials
            .vouched("b", now)
            .err()
            .map(|denial: Denial| denial.reason)
    };
    assert_eq!(reason(1_767_225_599), Some(Reason::CredentialNotYetValid));
    assert_eq!(reason(1_767_225_600), None);
    assert_eq!(reason(1_798_758_000), Some(Reason::CredentialExpired));
    round_trip(&config);
}

#[test]
fn tools_are_judged_by_the_lists_of_the_file() {
    let config = secured(
        r#"sandbox: { provider: "firejail", cpus: 0.5, memory: "64m" }"#,
        r#"tools: { deny: ["cron"] }, agents: { list: [{ id: "w", tools: { deny: ["exec"] } }] }"#,
    )
    .unwrap();
    assert_eq!(
        (config.sandbox.cpu_millis, config.sandbox.memory_bytes),
        (500, 64 << 20)
    );
    assert_eq!(config.sandbox.timeout, Duration::from_secs(30));
    let principal = config.policy.credentials.vouched("a", VALID).unwrap();
    let judge = |tool: &str, agent: Option<&str>| {
        let mut facts = RequestFacts::new(Request::Tool(ToolName::new(tool)));
        facts.agent = agent.map(str::to_owned);
        config
            .policy
            .decide(&principal, facts)
            .map_err(|denial| denial.rule)
    };
    assert!(judge("bash", None).unwrap().is_sandboxed());
    assert_eq!(judge("cron", None), Err("tools.deny[0]".to_owned()));
    assert_eq!(
        judge("exec", Some("w")),
        Err("agents.list[0].tools.deny[0]".to_owned())
    );
}

#[test]
fn a_merged_file_works_with_one_warning() {
    let config = secured(
        "",
        r#"channels: { telegram: { token: "${NOT_READ" } }, anything: 1, $schema: "x",
           gateway: { mode: "local", bind: "lan", port: 18789, auth: { mode: "token" } },
           tools: { exec: { host: "node" }, deny: ["exec"] },
           agents: { defaults: {}, list: [{ id: "main", model: "m", sandbox: { mode: "all" } }] }"#,
    )
    .unwrap();
    let ours: Vec<_> = config
        .warnings
        .iter()
        .filter(|warning| warning.message.contains("own settings"))
        .collect();
    assert_eq!(ours.len(), 1);
    let expected = "channels, anything, gateway.mode, gateway.bind, gateway.port, gateway.auth, \
                    tools.exec, agents.defaults, agents.list[0].model, agents.list[0].sandbox.mode";
    assert_eq!(ours[0].path, expected);
}

#[test]
fn secrets_come_from_their_provider() {
    let rows = [
        (r#"{ provider: "env", prefix: "P_" }"#, "the-secret-of-P_K"),
        (
            r#"{ provider: "file", dir: "/run/secrets" }"#,
            "the-secret-file-K",
        ),
        ("{}", "the-secret-of-CLAWDBOT_SECRET_K"),
    ];
    for (secrets, expected) in rows {
        let rest = format!(r#"secrets: {secrets}, gateway: {{ upstreamToken: "${{secret:K}}" }}"#);
        let config = secured("", &rest).unwrap();
        assert_eq!(config.gateway.upstream_token.unwrap().reveal(), expected);
    }
}
