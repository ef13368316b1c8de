//! `gateway.listen` entries with rules of their own.

use std::path::Path;

use super::secured;

#[test]
fn a_listener_of_its_own_rules_widens_the_packet_filter_and_no_other_listener() {
    let listen = r#"gateway: { tls: { cert: "/c", key: "/k", caPath: "/ca" }, listen: ["0.0.0.0:8443",
        { address: "0.0.0.0:9443", allowedIPs: ["203.0.113.0/24", "10.0.0.0/8"],
          bypass: ["/slack/events"], proxyFrom: ["198.51.100.7"] }] }"#;
    let network = r#"network: { allowedIPs: ["10.0.0.0/8"] }"#;
    let config = secured(network, listen).unwrap();
    let mut prefixes: Vec<String> = config
        .packets
        .prefixes
        .iter()
        .map(|(prefix, _)| prefix.to_string())
        .collect();
    prefixes.sort_unstable();
    assert_eq!(
        prefixes,
        ["10.0.0.0/8", "198.51.100.7/32", "203.0.113.0/24"]
    );
    assert_eq!(config.packets.tcp_ports, [8443, 9443]);
    assert!(
        config
            .policy
            .addresses
            .admit([203, 0, 113, 1].into())
            .is_err()
    );
    let [plain, own] = &config.gateway.listen[..] else {
        panic!("{:?}", config.gateway.listen);
    };
    assert_eq!((&plain.allowed, plain.bypass.len()), (&None, 0));
    assert_eq!(own.path, "gateway.listen[1]");
    assert!(own.is_proxy([198, 51, 100, 7].into()));
    assert_eq!(
        config.gateway.tls.unwrap().client_ca.as_deref(),
        Some(Path::new("/ca"))
    );
}

#[test]
fn a_client_certificate_stands_in_place_of_a_token() {
    let auth = |tls: &str, cert: &str| {
        let digits = "ab".repeat(32);
        format!(
            r#"{{ gateway: {{ tls: {{ cert: "/c", key: "/k" {tls} }} }}, security: {{ auth: {{
               type: "token", tokens: [{{ id: "laptop", cert: "{cert}{digits}" }}] }}, audit: {{ path: "/a" }} }} }}"#
        )
    };
    let compile = |text: &str| {
        let compiled = crate::config::compile(text, Path::new("f"), &crate::config::NoSources);
        compiled.map_err(|error| error.to_string())
    };
    let text = auth(r#", clientCa: "/ca""#, "sha256:");
    let config = compile(&text).unwrap();
    let again = compile(&config.redacted_document).unwrap();
    let key = crate::config::certificate_digest([0xab; 32]);
    for config in [config, again] {
        let keys = &config.policy.credentials;
        assert_eq!(keys.authenticate(key, 0).unwrap().id(), "laptop");
    }
    let error = compile(&auth("", "sha256:")).unwrap_err();
    assert!(
        error.contains("tokens[0].cert: needs `gateway.tls.clientCa`"),
        "{error}"
    );
    let error = compile(&auth(r#", clientCa: "/ca""#, "")).unwrap_err();
    assert!(error.contains("expected \"sha256:\" and 64"), "{error}");
}
