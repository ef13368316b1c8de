//! The rendered unit, as systemd's own tools judge it.

use std::process::Command;

use super::daemon::Daemon;
use xtask::lab::Lab;

/// Exposure that each provider's unit may have, in tenths; docker's tools run elsewhere.
const EXPOSURES: [(&str, u32); 3] = [("docker", 30), ("native", 55), ("firejail", 58)];

#[test]
fn systemd_takes_the_unit_and_finds_it_narrow() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        println!(
            "NOT RUN systemd_takes_the_unit_and_finds_it_narrow: needs systemd-analyze (Debian: \
             apt-get install systemd)"
        );
        return;
    }
    let lab = Lab::of_this_process("unit").expect("make the lab's namespaces");
    let daemon = Daemon::prepare(lab, std::sync::Arc::default(), |_| {});
    for (provider, tenths) in EXPOSURES {
        daemon.rewrite_config(|config| {
            config["security"]["sandbox"] =
                serde_json::json!({ "enabled": true, "provider": provider });
        });
        let unit = daemon.path(&format!("clawsec-{provider}.service"));
        // A program that is there, for `verify`.
        let rendered = daemon.clawsec(&["render", "systemd", "--program", "/bin/true"]);
        assert!(rendered.status.success(), "{rendered:?}");
        std::fs::write(&unit, &rendered.stdout).expect("write the unit");
        let analyze = |arguments: &[&str]| {
            let output = Command::new("systemd-analyze")
                .args(arguments)
                .arg(&unit)
                .output()
                .expect("run systemd-analyze");
            let text = [output.stdout, output.stderr].concat();
            (
                output.status.success(),
                String::from_utf8_lossy(&text).into_owned(),
            )
        };
        let (_, told) = analyze(&["verify", "--man=no"]);
        let unknown: Vec<&str> = told
            .lines()
            // Of systemd 254; older ones leave it out.
            .filter(|line| line.contains(provider) && !line.contains("DelegateSubgroup"))
            .collect();
        assert!(unknown.is_empty(), "{provider}: {unknown:?}");
        let threshold = format!("--threshold={tenths}");
        let (narrow, told) = analyze(&["security", "--offline=true", "--no-pager", &threshold]);
        let last = told.lines().last().unwrap_or_default().to_owned();
        assert!(narrow, "{provider}: {last}");
    }
}
