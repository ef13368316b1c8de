//! `gateway.tls.acme`.

use std::path::Path;

use super::{only_problem, secured, warned};
use crate::config::{AcmeChallenge, Config, ConfigError};

fn with(acme: &str, rest: &str) -> Result<Config, ConfigError> {
    let gateway = format!("gateway: {{ tls: {{ acme: {{ {acme} }} }}, {rest} }}");
    secured("", &gateway)
}

#[test]
fn an_authority_takes_the_files_place() {
    let config = with(r#"names: ["Claw.example.org"], agreeTos: true"#, "").unwrap();
    let tls = config.gateway.tls.unwrap();
    assert_eq!(
        (&tls.cert, tls.cert.as_path()),
        (&tls.key, Path::new("/var/lib/clawsec/acme/certificate.pem"))
    );
    let acme = tls.acme.unwrap();
    assert_eq!(acme.names, ["claw.example.org"]);
    assert_eq!(
        acme.server,
        "https://acme-v02.api.letsencrypt.org/directory"
    );
    assert_eq!(acme.challenge, AcmeChallenge::Http01);
    let listen: Vec<String> = acme.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["0.0.0.0:80", "[::]:80"]);
    // The authority is let in there, and nowhere else.
    assert_eq!(config.packets.tcp_ports, [8443]);
}

#[test]
fn what_is_wrong_with_it_is_said_once() {
    let sound = r#"names: ["claw.example.org"], agreeTos: true"#;
    for (acme, rest, expected) in [
        (
            r#"names: ["claw.example.org"]"#,
            "",
            "acme.agreeTos: missing",
        ),
        (
            r#"names: ["claw.example.org"], agreeTos: false"#,
            "",
            "no authority issues",
        ),
        ("agreeTos: true", "", "acme.names: missing"),
        ("agreeTos: true, names: []", "", "an empty list"),
        (
            r#"agreeTos: true, names: ["*.example.org"]"#,
            "",
            "wildcards and addresses",
        ),
        (
            r#"agreeTos: true, names: ["203.0.113.1"]"#,
            "",
            "wildcards and addresses",
        ),
        (
            r#"agreeTos: true, names: ["localhost"]"#,
            "",
            "wildcards and addresses",
        ),
        (
            &format!(r#"{sound}, server: "http://a.example.org/""#),
            "",
            "https URL",
        ),
        (
            &format!(r#"{sound}, contact: ["a@example.org"]"#),
            "",
            r#"did you mean "mailto:a@example.org""#,
        ),
        (&format!(r#"{sound}, challenge: "dns-01""#), "", "http-01"),
        (
            &format!(r#"{sound}, challenge: "tls-alpn-01", listen: ["0.0.0.0:80"]"#),
            "",
            "leave it out",
        ),
        (
            &format!(r#"{sound}, listen: ["0.0.0.0:8443"]"#),
            "",
            "needs an address of its own",
        ),
    ] {
        let told = only_problem(with(acme, rest), acme);
        assert!(told.contains(expected), "{acme}: {told}");
    }
    let both = format!(r#"gateway: {{ tls: {{ cert: "/c", acme: {{ {sound} }} }} }}"#);
    let told = only_problem(secured("", &both), "both");
    assert!(
        told.contains("gateway.tls.cert: stands beside `acme`"),
        "{told}"
    );
}

#[test]
fn what_may_not_work_is_warned_of() {
    let sound = r#"names: ["claw.example.org"], agreeTos: true"#;
    let config = with(sound, r#"hosts: ["other.example.org"]"#).unwrap();
    assert!(warned(&config, "gateway.hosts"));
    let tls = format!(r#"{sound}, challenge: "tls-alpn-01""#);
    assert!(warned(&with(&tls, "").unwrap(), "gateway.tls"));
    let open = with(&tls, r#"listen: ["0.0.0.0:443"]"#).unwrap();
    assert!(!warned(&open, "gateway.tls"));
}
