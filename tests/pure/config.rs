//! The configuration from outside: the seed's own snippets, and the texts that users are shown.
//!
//! Golden files are written anew with `BLESS=1`.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clawsec_user::config::{
    self, Config, ConfigError, FileTrust, SandboxProvider, Sources, compile, load,
};
use clawsec_user::event::EventKind::{Auth, Message, Network, System, Tool};
use clawsec_user::policy::{GroupId, ToolName, UserId};
use zeroize::Zeroizing;

struct Table(&'static [(&'static str, &'static str)]);

impl Sources for Table {
    fn variable(&self, name: &str) -> Option<Zeroizing<String>> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| Zeroizing::new((*value).to_owned()))
    }

    fn secret_file(&self, _dir: &Path, _name: &str) -> io::Result<Zeroizing<String>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn home(&self) -> Option<PathBuf> {
        Some(PathBuf::from("/home/claw"))
    }
}

const SOURCES: Table = Table(&[
    ("CLAWDBOT_API_KEY", "a-key-of-more-than-16-bytes"),
    ("EMPTY", ""),
]);

fn read(text: &str) -> Result<Config, ConfigError> {
    compile(text, Path::new("clawsec.json"), &SOURCES)
}

/// Every snippet of the seed, as it writes them.
const SEED: &[&str] = &[
    r#"{ "security": { "auth": { "type": "apiKey", "key": "${CLAWDBOT_API_KEY}" } } }"#,
    r#"{ "security": { "auth": { "type": "token", "tokens": ["token1", "token2"] } } }"#,
    r#"{ "tools": { "deny": ["exec", "bash", "process"] } }"#,
    r#"{ "gateway": { "tls": { "enabled": true, "cert": "/path/to/cert.pem",
                                "key": "/path/to/key.pem" } } }"#,
    r#"{ "secrets": { "provider": "env", "prefix": "CLAWDBOT_SECRET_" } }"#,
    r#"{ "security": { "network": { "allowedIPs": ["192.168.1.0/24", "10.0.0.0/8"] } } }"#,
    r#"{ "security": { "rateLimit": { "enabled": true, "requests": 60, "window": 60000 } } }"#,
    r#"{ "security": { "sandbox": { "enabled": true, "provider": "docker" } } }"#,
    r#"{ "security": { "users": { "allowList": ["+15551234567", "+15559876543"] } } }"#,
    r#"{ "security": { "groups": { "allowList": ["[email protected]"] } } }"#,
    r#"{ "security": { "audit": { "enabled": true, "path": "~/.clawdbot/audit.log",
                                  "events": ["auth", "message", "tool"] } } }"#,
];

#[test]
fn a_snippet_of_the_seed_lacks_auth_or_nothing() {
    for snippet in SEED {
        match read(snippet) {
            Ok(_) => assert!(snippet.contains("\"auth\": {"), "{snippet}"),
            Err(error) => {
                assert!(!snippet.contains("\"auth\": {"), "{snippet}: {error}");
                let [problem] = error.problems() else {
                    panic!("{snippet}: {error}");
                };
                assert_eq!(
                    (problem.path.as_str(), problem.message.as_str()),
                    ("security.auth", "missing")
                );
            }
        }
    }
}

/// Merges objects key by key, as somebody would by hand.
fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    match (into, from) {
        (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[test]
fn the_seed_merged_means_what_it_says() {
    let mut merged = serde_json::json!({});
    for (index, snippet) in SEED.iter().enumerate() {
        // The second way of authentication replaces the first in a file of its own.
        if index != 1 {
            merge(&mut merged, serde_json::from_str(snippet).unwrap());
        }
    }
    let config = read(&merged.to_string()).unwrap();
    let policy = &config.policy;
    assert_eq!(policy.credentials.len(), 1);
    assert!(policy.tools.judge(&ToolName::new("Bash")).is_err());
    assert!(policy.tools.judge(&ToolName::new("read")).is_ok());
    assert!(config.gateway.tls.is_some());
    assert_eq!(config.packets.tcp_ports, [8443]);
    assert!(
        policy
            .addresses
            .admit("192.168.1.77".parse().unwrap())
            .is_ok()
    );
    assert!(
        policy
            .addresses
            .admit("192.168.2.1".parse().unwrap())
            .is_err()
    );
    assert_eq!(
        (policy.limit.requests, policy.limit.window_ms),
        (60, 60_000)
    );
    assert_eq!(config.sandbox.provider, SandboxProvider::Docker);
    assert!(config.sandbox.enabled && policy.sandboxed.names(&ToolName::new("bash")));
    assert!(
        policy
            .people
            .judge_user(&UserId::new("15559876543"))
            .is_ok()
    );
    assert!(
        policy
            .people
            .judge_user(&UserId::new("+15550000000"))
            .is_err()
    );
    assert!(
        policy
            .people
            .judge_group(&GroupId::new("[Email protected]"))
            .is_ok()
    );
    assert_eq!(
        config.audit.path,
        Path::new("/home/claw/.clawdbot/audit.log")
    );
    assert_eq!(config.audit.events, [Auth, Message, Tool, Network, System]);
}

#[test]
fn errors_read_as_promised() {
    for name in ["ten-mistakes", "no-auth", "syntax", "double-key"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/config");
        let text = fs::read_to_string(folder.join(format!("{name}.json5"))).unwrap();
        let error = read(&text).expect_err(name);
        let golden = folder.join(format!("{name}.txt"));
        let found = format!("{error}\n");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&golden, &found).unwrap();
        }
        assert_eq!(
            found,
            fs::read_to_string(&golden).unwrap_or_default(),
            "{name}"
        );
    }
}

/// A folder that only this user can write, with a configuration of this mode in it.
fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clawsec.json");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    (folder, path)
}

const SMALL: &str = r#"{ security: { auth: { type: "apiKey", key: "0123456789abcdef" } } }"#;

#[test]
fn a_file_that_others_can_write_is_refused_or_warned_of() {
    let (_folder, path) = file(SMALL, 0o600);
    assert_eq!(config::find(Some(&path)).unwrap(), path);
    let clean = load(&path, FileTrust::Run).unwrap();
    assert!(
        !clean
            .warnings
            .iter()
            .any(|warning| warning.message.contains("chmod"))
    );

    let (_folder, path) = file(SMALL, 0o622);
    let error = load(&path, FileTrust::Run).unwrap_err().to_string();
    let name = path.display();
    assert_eq!(
        error,
        format!("{name}: {name} has mode 0622, so others can change it: chmod go-w {name}")
    );
    let config = load(&path, FileTrust::Read).unwrap();
    assert!(
        config
            .warnings
            .iter()
            .any(|warning| warning.message.contains("chmod go-w"))
    );
}

#[test]
fn a_key_that_others_can_read_is_warned_of() {
    let (_folder, path) = file(SMALL, 0o644);
    let config = load(&path, FileTrust::Run).unwrap();
    let warning = config.warnings.last().unwrap();
    assert_eq!(warning.path, "security.auth.key");
    assert!(warning.message.contains("chmod 600"), "{}", warning.message);
}

#[test]
fn a_missing_certificate_is_a_problem_of_its_key() {
    let text = SMALL.replace(
        "{ security",
        r#"{ gateway: { tls: { cert: "/no/c", key: "/no/k" } }, security"#,
    );
    let (_folder, path) = file(&text, 0o600);
    let error = load(&path, FileTrust::Run).unwrap_err();
    let paths: Vec<_> = error
        .problems()
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(paths, ["gateway.tls.cert", "gateway.tls.key"]);
}

#[test]
fn a_file_that_is_not_there_says_so_and_keeps_the_cause() {
    let error = load(Path::new("/no/such/clawsec.json"), FileTrust::Run).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/no/such/clawsec.json: there is no such file"
    );
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_hundred_thousand_prefixes_on_one_line_are_read_in_time() {
    let prefixes: Vec<String> = (0..100_000u32)
        .map(|n| format!("\"10.{}.{}.{}/32\"", n >> 16, (n >> 8) & 255, n & 255))
        .collect();
    let text = SMALL.replace(
        "{ security: {",
        &format!(
            "{{ security: {{ network: {{ allowedIPs: [{}] }},",
            prefixes.join(",")
        ),
    );
    let start = std::time::Instant::now();
    let config = read(&text).unwrap();
    assert_eq!(config.packets.prefixes.len(), 100_000);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
