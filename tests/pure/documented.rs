//! The commands of docs/audit.md do what stands beside them, on a log that the writer's own code made.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use clawsec_user::audit::{Chain, Digest, Entry, Record, Stamp};
use clawsec_user::event::{Event, EventKind, Outcome, SandboxFact, ToolFact};

const PAGE: &str = include_str!("../../docs/audit.md");

/// Something of everything that the page asks for.
fn write_log(folder: &Path) {
    let at = |event: Event| {
        let mut entry = Entry::new(event, Stamp::from_micros(1_767_225_600_000_000));
        entry.event.generation = 7;
        entry
    };
    let mut denied = Event::new(
        EventKind::Auth,
        "connect",
        Outcome::Deny,
        "credential_unknown",
    );
    denied.source = Some("203.0.113.7".parse().unwrap());
    denied.count = 3;
    let mut settled = Event::new(EventKind::Network, "drop", Outcome::Deny, "banned");
    settled.source = Some("203.0.113.7".parse().unwrap());
    (settled.count, settled.settles) = (1, 4);
    let mut tool = Event::new(EventKind::Tool, "invoke", Outcome::Allow, "ok");
    tool.request = Some("01JD".to_owned());
    tool.principal = Some("phone".to_owned());
    tool.tool = Some(ToolFact {
        name: "exec".to_owned(),
        args_bytes: 34,
    });
    tool.sandbox = Some(SandboxFact {
        provider: "docker".to_owned(),
        exit: Some(3),
        signal: None,
        oom: false,
        timed_out: false,
        duration_ms: 81,
        output_bytes: 12,
        truncated: false,
    });
    let mut observed = Event::new(EventKind::Tool, "observed", Outcome::Error, "aborted");
    observed.user = Some("+1555".to_owned());
    observed.agent = Some("work".to_owned());
    observed.tool.clone_from(&tool.tool);
    observed.duration_ms = Some(59);
    let mut lost = Event::new(EventKind::System, "lost", Outcome::Error, "queue_full");
    lost.count = 17;
    let mut lost = at(lost);
    lost.totals = Some(BTreeMap::from([("auth".to_owned(), 17)]));
    let mut text = Vec::new();
    let mut prev = Digest::ZERO;
    let entries = [at(denied), at(settled), at(tool), at(observed), lost];
    for (seq, entry) in (1..).zip(entries) {
        let mut record = Record::new(&entry, seq, prev);
        record.encode(&Chain::new(None), &mut text);
        prev = record.hash;
    }
    fs::write(folder.join("audit.log"), text).unwrap();
}

/// The lines of the page's `sh` blocks, those that go on joined.
fn commands() -> Vec<String> {
    let blocks = PAGE.split("```sh\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    let lines = blocks.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>());
    lines.collect()
}

fn run(command: &str, folder: &Path) -> String {
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", command])
        .current_dir(folder)
        .output()
        .expect("run bash");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{command}: {errors}"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Whether jq is here; if not, the tier says so and counts the test as one that did not run.
fn has_jq(test: &str) -> bool {
    if Command::new("jq").arg("--version").output().is_ok() {
        return true;
    }
    // Past libtest, which keeps what passing tests print.
    writeln!(
        std::io::stdout(),
        "NOT RUN {test}: needs jq (Debian: apt-get install jq)"
    )
    .unwrap();
    false
}

#[test]
fn each_line_of_jq_says_what_stands_beside_it() {
    if !has_jq("pure::documented::each_line_of_jq_says_what_stands_beside_it") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path());
    let time = "2026-01-01T00:00:00.000000Z";
    let rows = [
        (
            "@tsv' audit.log     # every denial",
            format!(
                "{time}\tauth\tcredential_unknown\t203.0.113.7\n{time}\tnetwork\tbanned\t203.0.113.7\n"
            ),
        ),
        (
            "group_by(.src.ip)",
            "[{\"ip\":\"203.0.113.7\",\"n\":8}]\n".to_owned(),
        ),
        ("# one request", "exec".to_owned()),
        (".sandbox.exit]", format!("{time}\tphone\texec\tallow\t3\n")),
        (
            ".duration_ms]",
            format!("{time}\t+1555\twork\texec\taborted\t59\n"),
        ),
        ("\"lost\"", "17\n".to_owned()),
    ];
    let commands: Vec<_> = commands()
        .into_iter()
        .filter(|line| line.starts_with("jq "))
        .collect();
    for command in &commands {
        let mut fitting = rows.iter().filter(|(part, _)| command.contains(part));
        let (_, expected) = fitting
            .next()
            .unwrap_or_else(|| panic!("no row for {command}"));
        let printed = run(command, folder.path());
        // Compact or not is jq's own choice of form.
        let squeezed = printed.replace([' ', '\n'], "");
        let expected = expected.replace([' ', '\n'], "");
        assert!(squeezed.contains(&expected), "{command}\n{printed}");
    }
    assert_eq!(
        commands.len(),
        rows.len(),
        "a row for each line of the page"
    );
}

#[test]
fn a_hash_is_computed_by_hand_as_the_page_says() {
    if !has_jq("pure::documented::a_hash_is_computed_by_hand_as_the_page_says") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path());
    let steps: Vec<_> = commands()
        .into_iter()
        .skip_while(|line| !line.starts_with("line=$("))
        .take(2)
        .collect();
    let printed = run(&steps.join("\n"), folder.path());
    let log = fs::read_to_string(folder.path().join("audit.log")).unwrap();
    let second = Record::parse(log.lines().nth(1).unwrap().as_bytes()).unwrap();
    assert_eq!(printed.trim_end(), format!("{}  -", second.hash));
}
