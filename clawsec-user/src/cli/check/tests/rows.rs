//! What each check fires at: one thing that is wrong where all else is well.

use super::{DAY, NOW};
use crate::cli::check::facts::{CertificateFacts, Facts};
use crate::config::SandboxProvider;

pub(super) enum Wrong {
    /// In the file: this part of `SOUND` is that.
    Text(&'static str, &'static str),
    /// On the host.
    Host(fn(&mut Facts)),
}

use Wrong::{Host, Text};

fn certificate(facts: &mut Facts) -> &mut CertificateFacts {
    facts.certificate.as_mut().unwrap().as_mut().unwrap()
}

const SANDBOX: &str = "provider: \"docker\"";
const PROVIDER_OFF: &str = "enabled: true, provider";
pub(super) const ROWS: &[(&str, Wrong)] = &[
    (
        "files.changeable",
        Host(|f| f.files[1].changeable.push("/etc has mode 0777".to_owned())),
    ),
    (
        "files.configuration_readable",
        Host(|f| {
            f.files[0].mode = 0o644;
            f.config
                .literal_secrets
                .push("security.auth.key".to_owned());
        }),
    ),
    ("files.key_readable", Host(|f| f.files[1].mode = 0o644)),
    ("files.secret_readable", Host(|f| f.files[2].mode = 0o644)),
    ("files.audit_readable", Host(|f| f.files[3].mode = 0o604)),
    ("files.state_readable", Host(|f| f.files[4].mode = 0o755)),
    // SHA-256 of «changeme».
    (
        "keys.known",
        Text(
            "2222222222222222222222222222222222222222222222222222222222222222",
            "057ba03d6c44104863dc7361fe4578965d1887360f90a0895882e58a6248fc86",
        ),
    ),
    (
        "keys.short",
        Text(
            "\"sha256:2222222222222222222222222222222222222222222222222222222222222222\"",
            "\"shorty\"",
        ),
    ),
    (
        "keys.of_the_gateway",
        Text(
            "\"sha256:2222222222222222222222222222222222222222222222222222222222222222\"",
            "\"${TOKEN}\"",
        ),
    ),
    (
        "keys.inline",
        Text("\"${CHAIN}\"", "\"in-so-many-words-0123456789012345\""),
    ),
    (
        "keys.plain_administrator",
        Text(
            "{ id: \"phone\", token: \"sha256:2222222222222222222222222222222222222222222222222222222222222222\", scopes: [\"operator.read\"] }",
            "\"${CHAIN}\"",
        ),
    ),
    (
        "keys.all_administrators",
        Text("operator.read", "operator.admin"),
    ),
    (
        "keys.expired",
        Text(
            "scopes: [\"operator.read\"]",
            "scopes: [\"operator.read\"], notAfter: \"2026-05-01T00:00:00Z\"",
        ),
    ),
    (
        "keys.upstream_missing",
        Text("upstreamToken: \"${TOKEN}\",", ""),
    ),
    (
        "keys.upstream_short",
        Text("upstreamToken: \"${TOKEN}\"", "upstreamToken: \"${SHORT}\""),
    ),
    (
        "keys.anybody",
        Text("users: { allowList: [\"+15551234567\"] },", ""),
    ),
    (
        "tls.off",
        Text(
            "tls: { cert: \"/etc/clawsec/cert.pem\", key: \"/etc/clawsec/key.pem\" }",
            "tls: { enabled: false }",
        ),
    ),
    (
        "tls.loopback_only",
        Text(
            ", tls: { cert: \"/etc/clawsec/cert.pem\", key: \"/etc/clawsec/key.pem\" }",
            "",
        ),
    ),
    (
        "tls.unusable",
        Host(|f| f.certificate = Some(Err("no PEM".to_owned()))),
    ),
    (
        "tls.key_of_another",
        Host(|f| certificate(f).fits_key = false),
    ),
    (
        "tls.expired",
        Host(|f| certificate(f).validity.not_after = NOW - 3 * DAY),
    ),
    (
        "tls.expires_soon",
        Host(|f| certificate(f).validity.not_after = NOW + 3 * DAY),
    ),
    (
        "tls.not_yet_valid",
        Host(|f| certificate(f).validity.not_before = NOW + 60),
    ),
    (
        "tls.names",
        Host(|f| certificate(f).missing.push("claw.example.org".to_owned())),
    ),
    (
        "tls.self_signed",
        Host(|f| certificate(f).is_self_signed = true),
    ),
    ("network.open", Text("192.168.1.0/24", "0.0.0.0/0")),
    ("network.wide", Text("192.168.1.0/24", "64.0.0.0/2")),
    (
        "network.observes",
        Text("network: {", "network: { mode: \"observe\","),
    ),
    (
        "network.detaches",
        Text("network: {", "network: { onExit: \"detach\","),
    ),
    (
        "network.upstream_unguarded",
        Text("network: {", "network: { guardUpstream: false,"),
    ),
    (
        "network.proxies_wide",
        Text(
            "\"0.0.0.0:8443\"",
            "{ address: \"0.0.0.0:8443\", proxyFrom: [\"10.0.0.0/8\"] }",
        ),
    ),
    (
        "network.hosts_open",
        Text("hosts: [\"claw.example.org\"],", ""),
    ),
    (
        "network.unfiltered",
        Host(|f| f.daemon.as_mut().unwrap().filters = false),
    ),
    (
        "network.slower_mode",
        Host(|f| {
            let slower = ("eth0", "generic", "no XDP in the driver");
            let (name, mode, why) = slower;
            f.daemon.as_mut().unwrap().slower = vec![(name.into(), mode.into(), why.into())];
        }),
    ),
    (
        "network.other_program",
        Host(|f| {
            f.interfaces[0]
                .others
                .push("XDP program 9, other".to_owned());
        }),
    ),
    ("network.no_interface", Host(|f| f.interfaces.clear())),
    (
        "limits.off",
        Text(
            "rateLimit: { enabled: true,",
            "rateLimit: { enabled: false,",
        ),
    ),
    ("limits.wide", Text("requests: 60,", "requests: 60000,")),
    (
        "limits.no_ban",
        Text(", ban: { after: 60, for: 60000 }", ""),
    ),
    ("limits.files", Host(|f| f.host.most_files = 1024)),
    (
        "tools.exec_uncontained",
        Text(PROVIDER_OFF, "enabled: false, provider"),
    ),
    ("tools.gateway_allowed", Text("\"gateway\", ", "")),
    (
        "tools.nothing_denied",
        Text("[\"gateway\", \"browser\", \"cron\", \"nodes\"]", "[]"),
    ),
    ("tools.far_reaching", Text("\"browser\", ", "")),
    (
        "sandbox.off",
        Text(PROVIDER_OFF, "enabled: false, provider"),
    ),
    ("sandbox.none", Text(SANDBOX, "provider: \"none\"")),
    (
        "sandbox.broken",
        Host(|f| f.sandbox.problem = Some("docker does not answer".to_owned())),
    ),
    (
        "sandbox.user_missing",
        Host(|f| {
            f.config.sandbox.provider = SandboxProvider::Native;
            f.host.has_sandbox_user = false;
        }),
    ),
    (
        "sandbox.network",
        Text(
            SANDBOX,
            "provider: \"docker\", networks: [\"proxy\"], network: \"proxy\"",
        ),
    ),
    (
        "sandbox.workspace_writable",
        Text(
            "tools: {",
            "agents: { list: [{ id: \"main\", default: true, workspace: \"/srv/work\", sandbox: { workspace: \"rw\" } }] }, tools: {",
        ),
    ),
    (
        "sandbox.image_unpinned",
        Text(
            "sandbox@sha256:3333333333333333333333333333333333333333333333333333333333333333",
            "sandbox:latest",
        ),
    ),
    (
        "audit.off",
        Text("audit: { enabled: true,", "audit: { enabled: false,"),
    ),
    (
        "audit.not_everything",
        Text(
            "audit: { enabled: true,",
            "audit: { enabled: true, events: [\"auth\"],",
        ),
    ),
    ("audit.no_key", Text("chainKey: \"${CHAIN}\",", "")),
    (
        "audit.short_key",
        Text("chainKey: \"${CHAIN}\",", "chainKey: \"${SHORT}\","),
    ),
    (
        "audit.never_synced",
        Text(
            "audit: { enabled: true,",
            "audit: { enabled: true, fsync: \"never\",",
        ),
    ),
    (
        "audit.goes_on_without",
        Text(
            "audit: { enabled: true,",
            "audit: { enabled: true, onFailure: \"continue\",",
        ),
    ),
    (
        "audit.unwritable",
        Host(|f| f.daemon.as_mut().unwrap().audit_writable = false),
    ),
    ("audit.space", Host(|f| f.host.free_bytes = Some(1 << 20))),
    (
        "audit.nobody_hears",
        Text(", alerts: [{ when: \"failedLogins\" }]", ""),
    ),
    (
        "gateway.reachable",
        Host(|f| {
            f.gateways[0]
                .listening
                .push("0.0.0.0:18789".parse().unwrap());
        }),
    ),
    ("gateway.published", Host(|f| f.published[0].inner = 18789)),
    ("gateway.silent", Host(|f| f.upstream_listens = Some(false))),
    (
        "gateway.elsewhere",
        Text("127.0.0.1:18789", "10.0.0.7:18789"),
    ),
    ("gateway.runs_as_root", Host(|f| f.gateways[0].uid = 0)),
    (
        "gateway.figures_remote",
        Text(
            "gateway: {",
            "gateway: { admin: { metrics: \"192.168.1.2:9464\", remote: true, token: \"${CHAIN}\" },",
        ),
    ),
    (
        "gateway.ui_open",
        Text("gateway: {", "gateway: { ui: \"open\","),
    ),
    ("host.kernel_old", Host(|f| f.host.kernel = Some((5, 15)))),
    ("host.no_btf", Host(|f| f.host.has_btf = false)),
    ("host.no_bpffs", Host(|f| f.host.has_bpffs = false)),
    ("host.no_tcx", Host(|f| f.host.kernel = Some((6, 5)))),
    (
        "host.bpf_for_everybody",
        Host(|f| f.host.unprivileged_bpf_disabled = Some(0)),
    ),
    ("host.bpf_interpreted", Host(|f| f.host.bpf_jit = Some(0))),
    (
        "host.no_landlock",
        Host(|f| f.host.has_landlock = Some(false)),
    ),
    ("host.cgroup_v1", Host(|f| f.host.has_cgroup_v2 = false)),
    (
        "host.clock_free",
        Host(|f| f.host.clock_is_synchronised = Some(false)),
    ),
    ("host.clock_wrong", Host(|f| f.host.now = 1_000_000_000)),
    (
        "host.user_missing",
        Host(|f| f.host.has_gateway_user = false),
    ),
    ("host.core_files", Host(|f| f.host.suid_dumpable = Some(1))),
];
