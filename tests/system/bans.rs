//! Wrong keys over IPv6, at the API and on the sign-in page: the /64 is dropped at the card.

use serde_json::json;
use xtask::lab::{self, Host};

use super::daemon::Daemon;
use super::timed::{await_that, connects, json_of};

/// Another host of the outside client's /64.
const NEIGHBOUR_V6: &str = "2001:db8:2::77";

/// Gives a wrong key from one of the outside client's addresses; the status.
fn guess(daemon: &Daemon, from: &str, arguments: &[&str], path: &str) -> String {
    let url = format!("https://[{}]:8443{path}", lab::GATEWAY_OUTSIDE_V6);
    let output = daemon
        .lab
        .command(Host::Outside, "curl")
        .args(["-sS", "-k", "--connect-timeout", "1", "-o", "/dev/null"])
        .args(["--write-out", "%{http_code}", "--interface", from])
        .args(arguments)
        .arg(url)
        .output()
        .expect("run curl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn wrong_keys_over_ipv6_ban_their_64_at_the_card() {
    let form = [
        "-H",
        "Sec-Fetch-Site: same-origin",
        "--data",
        "next=%2F&key=wrong",
    ];
    let rows: [(&str, &[&str], &str); 2] = [
        ("api", &["-H", "X-API-Key: wrong"], "/v1/models"),
        ("signin", &form, "/__clawsec/sign-in"),
    ];
    for (name, arguments, path) in rows {
        let daemon = Daemon::start(&format!("ban{name}"), |config| {
            config["security"]["network"]["allowedIPs"] = json!(["192.0.2.0/24", "2001:db8::/32"]);
            config["security"]["rateLimit"]["ban"] = json!({ "after": 3, "for": 3_600_000 });
        });
        let added = daemon
            .lab
            .command(Host::Outside, "ip")
            .args(["addr", "add", &format!("{NEIGHBOUR_V6}/64"), "dev", "eth0"])
            .arg("nodad")
            .status();
        assert!(added.expect("run ip").success());
        assert!(connects(&daemon, Host::Outside, lab::GATEWAY_OUTSIDE_V6));
        // Two hosts of one /64 in turn are one who tries.
        for from in [lab::CLIENT_OUTSIDE_V6, NEIGHBOUR_V6].repeat(2) {
            assert_eq!(guess(&daemon, from, arguments, path), "401", "{name}");
        }
        await_that("banned", &daemon, || {
            !connects(&daemon, Host::Outside, lab::GATEWAY_OUTSIDE_V6)
        });
        let list = json_of(&daemon, &["ban", "list"]);
        let told = (&list[0]["prefix"], &list[0]["by"], &list[0]["note"]);
        let expected = (
            &json!("2001:db8:2::/64"),
            &json!("gateway"),
            &json!("credential_unknown"),
        );
        assert_eq!(told, expected, "{list}");
        assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
        // Neither host of it comes through the card; another network does.
        for from in [lab::CLIENT_OUTSIDE_V6, NEIGHBOUR_V6] {
            assert_eq!(guess(&daemon, from, arguments, path), "000", "{name}");
        }
        assert!(connects(&daemon, Host::Inside, lab::GATEWAY_INSIDE_V6));
        daemon.await_record("the drops", |record| {
            record["action"] == "drop" && record["reason"] == "banned"
        });
    }
}
