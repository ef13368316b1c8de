//! Every check, on a host where all is well and on one where its matter is not.

mod rows;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use self::rows::ROWS;
use self::rows::Wrong::{Host, Text};
use super::facts::{
    CertificateFacts, DaemonFact, Facts, FileFact, GatewayFact, HostFacts, InterfaceFact,
    Published, Role, SandboxFact,
};
use super::{fix, judge, registry};
use crate::config::{self, SandboxProvider, Sources};
use crate::counterpart::Product;
use crate::supervisor::certificate::Validity;

/// 2026-06-01.
const NOW: i64 = 1_780_272_000;
const DAY: i64 = 86_400;

/// Nothing to be said of it.
const SOUND: &str = r#"{
  gateway: {
    listen: ["0.0.0.0:8443"], upstream: "http://127.0.0.1:18789", upstreamToken: "${TOKEN}",
    hosts: ["claw.example.org"], tls: { cert: "/etc/clawsec/cert.pem", key: "/etc/clawsec/key.pem" },
  },
  security: {
    auth: { type: "token", tokens: [
      { id: "owner", token: "sha256:1111111111111111111111111111111111111111111111111111111111111111", scopes: ["operator.admin"] },
      { id: "phone", token: "sha256:2222222222222222222222222222222222222222222222222222222222222222", scopes: ["operator.read"] },
    ] },
    users: { allowList: ["+15551234567"] },
    network: { allowedIPs: ["192.168.1.0/24"] },
    rateLimit: { enabled: true, requests: 60, window: 60000, ban: { after: 60, for: 60000 } },
    sandbox: { enabled: true, provider: "docker", image: "sandbox@sha256:3333333333333333333333333333333333333333333333333333333333333333" },
    audit: { enabled: true, chainKey: "${CHAIN}", alerts: [{ when: "failedLogins" }] },
  },
  tools: { deny: ["gateway", "browser", "cron", "nodes"] },
}"#;

struct Variables;

impl Sources for Variables {
    fn variable(&self, name: &str) -> Option<Zeroizing<String>> {
        let text = match name {
            "TOKEN" => "a-token-of-the-gateway-0123456789",
            "CHAIN" => "a-key-of-the-chain-01234567890123",
            "SHORT" => "short",
            _ => return None,
        };
        Some(Zeroizing::new(text.to_owned()))
    }

    fn secret_file(&self, _dir: &Path, _name: &str) -> io::Result<Zeroizing<String>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn home(&self) -> Option<PathBuf> {
        Some(PathBuf::from("/root"))
    }
}

fn facts(text: &str) -> Facts {
    let path = Path::new("/etc/clawsec/clawsec.json");
    let config = config::compile(text, path, &Variables).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let file = |role, path: &str, mode| FileFact {
        role,
        path: PathBuf::from(path),
        mode,
        changeable: Vec::new(),
    };
    Facts {
        files: vec![
            file(Role::Configuration, "/etc/clawsec/clawsec.json", 0o600),
            file(Role::CertificateKey, "/etc/clawsec/key.pem", 0o640),
            file(Role::Secret, "/etc/clawsec/secrets/chain", 0o600),
            file(Role::AuditLog, "/var/log/clawsec/audit.log", 0o600),
            file(Role::State, "/var/lib/clawsec", 0o700),
        ],
        certificate: config.gateway.tls.as_ref().map(|_| {
            Ok(CertificateFacts {
                validity: Validity {
                    not_before: NOW - DAY,
                    not_after: NOW + 60 * DAY,
                },
                fits_key: true,
                is_self_signed: false,
                missing: Vec::new(),
            })
        }),
        gateways: vec![GatewayFact {
            product: Product::Openclaw,
            pid: 7,
            uid: 1000,
            listening: vec!["127.0.0.1:18789".parse().unwrap()],
        }],
        upstream_listens: config::is_local(&config.gateway.upstream).then_some(true),
        published: vec![Published {
            container: "web".to_owned(),
            address: [0, 0, 0, 0].into(),
            port: 80,
            inner: 8080,
        }],
        interfaces: vec![InterfaceFact {
            name: "eth0".to_owned(),
            others: Vec::new(),
        }],
        daemon: Some(DaemonFact {
            filters: true,
            slower: Vec::new(),
            audit_writable: true,
        }),
        sandbox: SandboxFact {
            provider: SandboxProvider::Docker,
            problem: None,
        },
        host: HostFacts {
            kernel: Some((6, 12)),
            has_btf: true,
            has_bpffs: true,
            unprivileged_bpf_disabled: Some(2),
            bpf_jit: Some(1),
            has_landlock: Some(true),
            has_cgroup_v2: true,
            clock_is_synchronised: Some(true),
            now: NOW,
            has_gateway_user: true,
            has_sandbox_user: true,
            free_bytes: Some(100 << 30),
            free_inodes: Some(1_000_000),
            suid_dumpable: Some(2),
            most_files: 1 << 20,
        },
        config,
    }
}

fn fired(facts: &Facts) -> BTreeSet<String> {
    let audit = judge(facts, &[]);
    audit.findings.into_iter().map(|f| f.check_id).collect()
}

#[test]
fn each_check_fires_where_its_matter_is_wrong_and_is_silent_where_all_is_well() {
    assert_eq!(fired(&facts(SOUND)), BTreeSet::new(), "all is well");
    let rows: BTreeSet<&str> = ROWS.iter().map(|(id, _)| *id).collect();
    let checks: BTreeSet<&str> = registry::all().map(|check| check.id).collect();
    assert_eq!(rows, checks, "a row for each check");
    assert!(checks.len() >= 40 && ROWS.len() == checks.len());
    let mut told = Vec::new();
    for (id, wrong) in ROWS {
        let facts = match wrong {
            Text(this, that) => {
                assert_eq!(SOUND.matches(this).count(), 1, "{id}: {this}");
                facts(&SOUND.replace(this, that))
            }
            Host(change) => {
                let mut facts = facts(SOUND);
                change(&mut facts);
                facts
            }
        };
        let fired = fired(&facts);
        if !fired.contains(*id) {
            told.push(format!("{id} is silent: {fired:?}"));
        }
        if fired.contains("configuration.warning") {
            let warnings = &facts.config.warnings;
            told.push(format!("{id}: the reader says it again: {warnings:?}"));
        }
    }
    assert!(told.is_empty(), "{}", told.join("\n"));
}

#[test]
fn the_seven_points_follow_the_configuration() {
    let ids = |facts: &Facts| -> Vec<&'static str> {
        let points = judge(facts, &[]).checklist.into_iter();
        points.filter(|point| !point.ok).map(|p| p.id).collect()
    };
    assert_eq!(judge(&facts(SOUND), &[]).checklist.len(), 7);
    assert_eq!(ids(&facts(SOUND)), Vec::<&str>::new());
    for (id, broken) in [
        ("tls", "tls.off"),
        ("tools", "tools.exec_uncontained"),
        ("tools", "tools.gateway_allowed"),
        ("limits", "limits.off"),
        ("allowlist", "network.open"),
        ("audit", "audit.off"),
        ("secrets", "keys.inline"),
    ] {
        let row = ROWS.iter().find(|(row, _)| *row == broken);
        let Some((_, Text(this, that))) = row else {
            panic!("{broken}");
        };
        assert_eq!(ids(&facts(&SOUND.replace(this, that))), [id], "{broken}");
    }
}

#[test]
fn a_fix_takes_bits_away_and_nothing_else() {
    assert_eq!(fix::all(&facts(SOUND)), Vec::new());
    let mut wide = facts(SOUND);
    for file in &mut wide.files {
        file.mode = 0o755;
    }
    let words: Vec<String> = fix::all(&wide).iter().map(fix::Fix::in_words).collect();
    assert_eq!(
        words,
        [
            "chmod 740 /etc/clawsec/key.pem",
            "chmod 740 /etc/clawsec/secrets/chain",
            "chmod 700 /var/log/clawsec/audit.log",
            "chmod 700 /var/lib/clawsec",
        ]
    );
    wide.config
        .literal_secrets
        .push("security.auth.key".to_owned());
    assert_eq!(
        fix::all(&wide)[0].in_words(),
        "chmod 700 /etc/clawsec/clawsec.json"
    );
}

#[test]
fn the_table_in_the_docs_is_this_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/checks.md");
    let row = |check: &registry::Check| {
        let cell = |text: &str| text.replace('|', "\\|");
        let severity = check.severity.as_str();
        format!(
            "| `{}` | {severity} | {} | {} |\n",
            check.id,
            cell(check.title),
            cell(check.remedy)
        )
    };
    let table: String = registry::all().map(row).collect();
    let documented = std::fs::read_to_string(path).unwrap();
    let (head, _) = documented.split_once("|---|---|---|---|\n").unwrap();
    let written = format!("{head}|---|---|---|---|\n{table}");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &written).unwrap();
    }
    assert_eq!(documented, written, "BLESS=1 rewrites docs/checks.md");
}
