//! One mistake a row, and the sentence it is answered with.

use super::{only_problem, read, secured};

#[test]
fn what_one_section_gets_wrong_is_said_once() {
    // `security` besides `auth`; other sections; the problem.
    let rows = [
        (
            "network: { allowedIPs: [] }",
            "",
            "security.network.allowedIPs: an empty list: nobody could connect; name the addresses, or leave the key out",
        ),
        (
            r#"network: { allowedIPs: ["192.168.1.5/24"] }"#,
            "",
            "security.network.allowedIPs[0]: found \"192.168.1.5/24\", expected an address or a prefix such as \"192.168.1.0/24\", with no bits after its length; did you mean \"192.168.1.0/24\" or \"192.168.1.5\"?",
        ),
        (
            r#"network: { allowedIPs: ["10.0.0.0/8"], rules: [{ cidr: "11.0.0.0/8", rateLimit: { requests: 1 } }] }"#,
            "",
            "security.network.rules[0]: 11.0.0.0/8 is not in `allowedIPs`; write `action: \"allow\"` to admit it",
        ),
        (
            r#"network: { rules: [{ cidr: "10.0.0.0/8", action: "deny" }, { cidr: "10.1.0.0/16", rateLimit: { requests: 1 } }] }"#,
            "",
            "security.network.rules[1]: 10.1.0.0/16 is not in `allowedIPs`; write `action: \"allow\"` to admit it",
        ),
        (
            "network: { alowedIPs: [] }",
            "",
            "security.network.alowedIPs: unknown key; did you mean `allowedIPs`?",
        ),
        (
            "allowedIPs: []",
            "",
            "security.allowedIPs: unknown key; did you mean `security.network.allowedIPs`?",
        ),
        (
            "rateLimit: { requests: 0 }",
            "",
            "security.rateLimit.requests: found the number 0, expected a whole number from 1 to 1000000",
        ),
        (
            "rateLimit: { packets: 0 }",
            "",
            "security.rateLimit.packets: found the number 0, expected a whole number from 1 to 1000000",
        ),
        (
            r#"network: { fragments: "pass" }"#,
            "",
            "security.network.fragments: found \"pass\", expected one of \"classify\", \"drop\"",
        ),
        (
            r#"sandbox: { provider: "dokcer" }"#,
            "",
            "security.sandbox.provider: found \"dokcer\", expected one of \"auto\", \"docker\", \"firejail\", \"native\", \"none\"; did you mean \"docker\"?",
        ),
        (
            r#"sandbox: { network: "host" }"#,
            "",
            "security.sandbox.network: found \"host\", expected \"none\", or the name of a docker network made for the sandbox",
        ),
        (
            r#"sandbox: { nodeHost: { name: "a b" } }"#,
            "",
            "security.sandbox.nodeHost.name: found \"a b\", expected letters, digits, `.`, `_`, `-`, at most 64",
        ),
        (
            "sandbox: { enabled: false, nodeHost: {} }",
            "",
            "security.sandbox.nodeHost: the sandbox is off; switch it on, or the node off too (`enabled: false`)",
        ),
        (
            r#"sandbox: { tools: ["process"], nodeHost: {} }"#,
            "",
            "security.sandbox.nodeHost: a node runs `exec`; name it in `security.sandbox.tools`, or leave the node out",
        ),
        (
            r#"sandbox: { user: "root" }"#,
            "",
            "security.sandbox.user: found \"root\", expected the name of an ordinary user, not root or nobody",
        ),
        (
            "users: { allowlist: [] }",
            "",
            "security.users.allowlist: unknown key; did you mean `allowList`?",
        ),
        (
            "users: { allowList: [15551234567] }",
            "",
            "security.users.allowList[0]: found a number, expected a text that is not empty",
        ),
        (
            r#"audit: { rotate: { size: "64m", total: "1m" } }"#,
            "",
            "security.audit.rotate.total: smaller than `size`, so that not even one rotated file could be kept",
        ),
        (
            r#"audit: { space: { warn: "1m", refuse: "2m" } }"#,
            "",
            "security.audit.space.refuse: more than `warn`: tool runs would be refused before anything warns",
        ),
        (
            "audit: { rotate: { age: 1 } }",
            "",
            "security.audit.rotate.age: found the number 1, expected milliseconds from 60000 to 31622400000",
        ),
        (
            r#"audit: { path: "audit.log" }"#,
            "",
            "security.audit.path: found \"audit.log\", expected an absolute path",
        ),
        (
            "",
            r#"gateway: { ui: "closed" }"#,
            "gateway.ui: found \"closed\", expected one of \"signin\", \"open\"",
        ),
        (
            "",
            r#"gateway: { ui: "open" }"#,
            "gateway.ui: \"open\" needs `upstreamToken`: a gateway that asks nobody for a token would answer visitors whatever they read",
        ),
        (
            "",
            r#"gateway: { upstreamAuth: "trustedProxy", upstreamToken: "t" }"#,
            "gateway.upstreamToken: the gateway takes no token with `upstreamAuth: \"trustedProxy\"`",
        ),
        (
            "",
            r#"agents: { list: [{ id: "a", default: true }, { id: "b", default: true }] }"#,
            "agents.list[1].default: \"a\" is the default agent already",
        ),
        (
            "",
            r#"gateway: { upstream: "ws://127.0.0.1:18789" }"#,
            "gateway.upstream: found \"ws://127.0.0.1:18789\", expected an address such as \"http://127.0.0.1:18789\", with its port; did you mean \"http://127.0.0.1:18789\"?",
        ),
        (
            "",
            r#"gateway: { upstream: "http://localhost:8443" }"#,
            "gateway.upstream: this is where clawsec itself listens",
        ),
        (
            "",
            r#"gateway: { listen: [":8443"] }"#,
            "gateway.listen[0]: found \":8443\", expected an address with its port, such as \"0.0.0.0:8443\" or \"[::]:8443\"; did you mean \"[::]:8443\"?",
        ),
        (
            "",
            r#"gateway: { listen: "[::]:8443" }"#,
            "gateway.listen: found a text, expected a list",
        ),
        (
            "",
            r#"gateway: { listen: [{ address: "127.0.0.1:1", allowedIPs: [] }] }"#,
            "gateway.listen[0].allowedIPs: an empty list: nobody could connect; leave it out for the common list",
        ),
        (
            "",
            r#"gateway: { listen: [{ address: "127.0.0.1:1", bypass: ["/tools/invoke"] }] }"#,
            "gateway.listen[0].bypass[0]: found \"/tools/invoke\", expected the exact path of a webhook such as \"/slack/events\"",
        ),
        (
            "",
            r#"gateway: { listen: [{ address: "127.0.0.1:1", bypass: ["/a/../v1"] }] }"#,
            "gateway.listen[0].bypass[0]: found \"/a/../v1\", expected the exact path of a webhook such as \"/slack/events\"",
        ),
        (
            "",
            r#"gateway: { listen: [{ address: "127.0.0.1:1", proxyFrom: ["0.0.0.0/0"] }] }"#,
            "gateway.listen[0].proxyFrom: 0.0.0.0/0 is everybody: whoever connects could claim any address",
        ),
        (
            r#"network: { allowedIPs: ["10.0.0.0/8"], ports: ["22/tcp"] }"#,
            r#"gateway: { tls: { cert: "/c", key: "/k" }, listen: [{ address: "0.0.0.0:8443", allowedIPs: ["203.0.113.0/24"] }] }"#,
            "gateway.listen[0]: admits 203.0.113.0/24 at every protected port, and nothing but the packet filter guards 22 of `security.network.ports`; leave out one of the two",
        ),
        (
            "",
            r#"gateway: { tls: { enabled: true, cert: "/c" } }"#,
            "gateway.tls.key: missing; expected the private key's PEM file",
        ),
        (
            "",
            r#"gateway: { tls: { cert: "/c", certPath: "/c", key: "/k" } }"#,
            "gateway.tls.certPath: the same key as `cert`, which stands here too",
        ),
        (
            "",
            r#"gateway: { origins: ["https://a.example/x"] }"#,
            "gateway.origins[0]: found \"https://a.example/x\", expected an origin such as \"https://assistant.example.org\"; did you mean \"https://a.example\"?",
        ),
        (
            "",
            r#"gateway: { hosts: ["https://a.example:8443"] }"#,
            "gateway.hosts[0]: found \"https://a.example:8443\", expected a host name or address without a port; did you mean \"a.example\"?",
        ),
        (
            "",
            r#"tools: { profile: "none" }"#,
            "tools.profile: found \"none\", expected one of \"minimal\", \"coding\", \"messaging\", \"full\"",
        ),
        (
            "",
            r#"secrets: { provider: "file" }"#,
            "secrets.dir: missing; expected the folder of the secrets' files",
        ),
        (
            "",
            r#"agents: { list: [{ id: "w", tokens: ["aa"] }] }"#,
            "agents.list[0].tokens[0]: found \"aa\", expected the id of a token",
        ),
        (
            "",
            r#"agents: { list: [{ id: "w" }, { id: "W" }] }"#,
            "agents.list[1].id: there is an agent \"w\" already",
        ),
        (
            "",
            r#"agents: { list: [{ id: "w", sandbox: { user: "x" } }] }"#,
            "agents.list[0].sandbox.user: is said in `security.sandbox`, for all agents; leave it out here",
        ),
        (
            "",
            r#"agents: { list: [{ id: "w", sandbox: { workspace: "rw" } }] }"#,
            "agents.list[0].sandbox.workspace: needs the agent's folder: `workspace` beside `sandbox`",
        ),
        (
            r#"sandbox: { networks: ["tools"] }"#,
            r#"agents: { list: [{ id: "w", sandbox: { network: "lan" } }] }"#,
            "agents.list[0].sandbox.network: is not in `security.sandbox.networks`",
        ),
        (
            r#"sandbox: { network: "lan", networks: ["tools"] }"#,
            "",
            "security.sandbox.network: is not in `security.sandbox.networks`",
        ),
        (
            r#"sandbox: { runtime: "a b" }"#,
            "",
            "security.sandbox.runtime: found \"a b\", expected the name of a runtime that docker knows, such as \"runsc\"",
        ),
        (
            "",
            "$include: './x.json'",
            "$include: clawsec does not follow $include; write the section here",
        ),
        (
            "",
            "securty: {}",
            "securty: unknown key; did you mean `security`?",
        ),
    ];
    for (security, rest, expected) in rows {
        let problem = only_problem(secured(security, rest), expected);
        assert_eq!(problem, expected);
    }
}

#[test]
fn credentials_are_judged_without_being_shown() {
    let rows = [
        (
            r#"{ type: "apiKey" }"#,
            "security.auth.key: missing; expected the key, as a text",
        ),
        (
            r#"{ type: "apiKey", key: "" }"#,
            "security.auth.key: found an empty text, expected a key, or \"sha256:\" and 64 hexadecimal digits",
        ),
        (
            r#"{ type: "apiKey", key: "se cret" }"#,
            "security.auth.key: a key is printable ASCII without spaces, to stand in a header",
        ),
        (
            r#"{ type: "apiKey", key: "sha256:se" }"#,
            "security.auth.key: found \"sha256:\" and something else, expected \"sha256:\" and 64 hexadecimal digits",
        ),
        (
            r#"{ type: "token", tokens: [] }"#,
            "security.auth.tokens: an empty list: nobody could sign in",
        ),
        (
            r#"{ type: "token", tokens: ["x", "x"] }"#,
            "security.auth.tokens[1]: the same key as security.auth.tokens[0]",
        ),
        (
            r#"{ type: "token", tokens: [{ id: "i", token: "x" }, { id: "i", token: "y" }] }"#,
            "security.auth.tokens[1]: the same id as security.auth.tokens[0]: \"i\"",
        ),
        (
            r#"{ type: "token", tokens: [{ token: "x", groups: [7] }] }"#,
            "security.auth.tokens[0].groups[0]: found a number, expected a text that is not empty",
        ),
        (
            r#"{ type: "token", tokens: [{ token: "x", scopes: ["admin"] }] }"#,
            "security.auth.tokens[0].scopes[0]: found \"admin\", expected one of \"operator.read\", \"operator.write\", \"operator.admin\", \"operator.approvals\", \"operator.pairing\", \"operator.questions\", \"operator.talk\", \"operator.talk.secrets\"",
        ),
        (
            r#"{ type: "token", tokens: [{ token: "x", notBefore: "2027-01-01", notAfter: "2026-01-01" }] }"#,
            "security.auth.tokens[0].notAfter: not after `notBefore`: the token is never valid",
        ),
        (
            r#"{ type: "token", key: "x", tokens: ["y"] }"#,
            "security.auth.key: belongs to the type \"apiKey\"",
        ),
        (
            r#"{ key: "secret" }"#,
            "security.auth.type: missing; expected \"apiKey\" or \"token\"",
        ),
        (
            r#"{ type: "token", tokens: [12345] }"#,
            "security.auth.tokens[0]: found a number, expected a token as a text, or an object",
        ),
        (
            r#"["secret"]"#,
            "security.auth: found a list, expected an object",
        ),
        (
            r#"{ type: "apiKey", key: 12345 }"#,
            "security.auth.key: found a number, expected a key, or \"sha256:\" and 64 hexadecimal digits",
        ),
    ];
    for (auth, expected) in rows {
        let result = read(&format!("{{ security: {{ auth: {auth} }} }}"));
        assert_eq!(only_problem(result, expected), expected);
    }
}

#[test]
fn the_number_of_connections_is_bounded() {
    let problem = only_problem(secured("", "gateway: { maxConnections: 16385 }"), "over");
    assert!(problem.contains("from 64 to 16384"), "{problem}");
}
