//! What is told of the command line itself: help that fits a screen, with an example for each
//! command; completions; man pages.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::StyledStr;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, CommandResult, Failure, output};

#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Write a page for each command into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The command line, with an example in the help of each command.
pub(super) fn command() -> clap::Command {
    with_examples(Cli::command(), "")
}

/// Left out at its place in the table, a command shows none: a test asks for each.
fn with_examples(command: clap::Command, path: &str) -> clap::Command {
    let found = EXAMPLES.iter().find(|(of, _)| *of == path);
    let example = found.map(|(_, example)| format!("Example: {example}"));
    let example = example.unwrap_or_default();
    // Of `{all-args}` a list of commands would be all there is, with a heading of its own.
    let rest = if path.is_empty() {
        "{subcommands}"
    } else {
        "{all-args}"
    };
    let template =
        format!("{{about-with-newline}}{{usage-heading}} {{usage}}\n{example}\n\n{rest}");
    // Man pages have it at their end.
    let mut command = command
        .help_template(StyledStr::from(template))
        .after_help(StyledStr::from(example));
    let names: Vec<String> = command
        .get_subcommands()
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for name in names {
        let below = format!("{path} {name}");
        command = command.mut_subcommand(name, |sub| with_examples(sub, below.trim_start()));
    }
    command
}

pub(super) fn completions(arguments: &CompletionsArguments) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut command(), "clawsec", &mut text);
    output::print(&String::from_utf8_lossy(&text));
    ExitCode::SUCCESS
}

pub(super) fn man(arguments: &ManArguments) -> CommandResult {
    if let Some(folder) = &arguments.out {
        write_pages(folder).map_err(Failure::other)?;
    } else {
        let page = page(command()).map_err(Failure::other)?;
        output::print(&String::from_utf8_lossy(&page));
    }
    Ok(ExitCode::SUCCESS)
}

fn page(command: clap::Command) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command)
        .section("8")
        .manual("clawsec")
        .render(&mut text)?;
    Ok(text)
}

/// `clawsec.8`, `clawsec-run.8`, `clawsec-audit-tail.8`, …
fn write_pages(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    // Once built, each command knows the whole path to itself.
    let mut all = command();
    all.build();
    let mut waiting = vec![all];
    while let Some(command) = waiting.pop() {
        let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        waiting.extend(shown.cloned());
        let name = command.get_display_name().unwrap_or("clawsec");
        let path = folder.join(format!("{name}.8"));
        let page = page(command).context("write a page")?;
        std::fs::write(&path, page).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// By the words after `clawsec`.
const EXAMPLES: [(&str, &str); 41] = [
    (
        "",
        "clawsec init --gateway; clawsec check; clawsec run --confirm 60",
    ),
    ("init", "clawsec init --gateway --name claw.example.org"),
    ("run", "clawsec run --confirm 60"),
    ("confirm", "clawsec confirm"),
    ("check", "clawsec check --json"),
    (
        "explain",
        "clawsec explain --from 203.0.113.7 --syn --tool exec",
    ),
    ("replay", "clawsec replay --live capture.pcap"),
    ("status", "clawsec status --json"),
    ("top", "clawsec top --once"),
    ("ban", "clawsec ban add 203.0.113.0/24 --for 2h"),
    (
        "ban add",
        "clawsec ban add 203.0.113.0/24 --for 2h --note scan",
    ),
    ("ban remove", "clawsec ban remove 203.0.113.0/24"),
    ("ban list", "clawsec ban list --json"),
    ("allow", "clawsec allow add 198.51.100.7 --for 8h"),
    (
        "allow add",
        "clawsec allow add 198.51.100.7 --for 8h --note fair",
    ),
    ("allow remove", "clawsec allow remove 198.51.100.7"),
    ("allow list", "clawsec allow list --json"),
    ("audit", "clawsec audit stats --since 24h"),
    ("audit tail", "clawsec audit tail -f --outcome deny"),
    (
        "audit query",
        "clawsec audit query --since 1h --ip 203.0.113.0/24",
    ),
    (
        "audit stats",
        "clawsec audit stats --since 24h --outcome deny",
    ),
    (
        "audit report",
        "clawsec audit report --html --out report.html",
    ),
    ("audit who", "clawsec audit who 203.0.113.7 --since 7d"),
    ("audit show", "clawsec audit show 01JDXB4ZK2"),
    (
        "audit export",
        "clawsec audit export --format csv --since 24h",
    ),
    ("audit schema", "clawsec audit schema"),
    (
        "audit verify",
        "clawsec audit verify --path /var/log/clawsec/audit.log",
    ),
    ("audit alerts", "clawsec audit alerts --test"),
    ("sandbox", "clawsec sandbox exec -- id"),
    ("sandbox exec", "clawsec sandbox exec --agent main -- id"),
    ("sandbox image", "clawsec sandbox image"),
    ("sandbox probe", "clawsec sandbox probe --json"),
    ("key", "clawsec key new --id phone"),
    ("key new", "clawsec key new --id phone"),
    ("key hash", "clawsec key hash < key.txt"),
    ("key list", "clawsec key list"),
    ("key rotate", "clawsec key rotate phone"),
    (
        "render",
        "clawsec render systemd > /etc/systemd/system/clawsec.service",
    ),
    ("detach", "clawsec detach"),
    (
        "completions",
        "clawsec completions bash > /etc/bash_completion.d/clawsec",
    ),
    ("man", "clawsec man --out /usr/local/share/man/man8"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Each command that is shown, by the words after `clawsec`.
    fn shown() -> Vec<(String, clap::Command)> {
        let mut found = Vec::new();
        let mut all = command().term_width(80);
        all.build();
        let mut waiting = vec![(String::new(), all)];
        while let Some((path, command)) = waiting.pop() {
            for below in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                let path = format!("{path} {}", below.get_name());
                waiting.push((path.trim_start().to_owned(), below.clone()));
            }
            found.push((path, command.term_width(80)));
        }
        found
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn help_fits_a_screen_and_shows_an_example_that_works() {
        let mut told = BTreeSet::new();
        for (path, command) in shown() {
            for asked in ["-h", "--help"] {
                let words = path.split_whitespace().chain([asked]);
                let answer = super::command()
                    .term_width(80)
                    .try_get_matches_from(std::iter::once("clawsec").chain(words));
                let help = answer.unwrap_err().to_string();
                let count = help.trim_end().lines().count();
                let widest = help.lines().map(|line| line.chars().count()).max();
                if count > 24 || widest > Some(80) {
                    told.insert(format!("{path}: {count} lines, {widest:?} wide\n{help}"));
                }
                let example = help.lines().find_map(|line| line.strip_prefix("Example: "));
                let Some(example) = example else {
                    told.insert(format!("{path}: no example"));
                    continue;
                };
                // What a shell takes away is not clawsec's.
                let mine = example.split(['<', '>', ';']).next().unwrap_or_default();
                let parsed = super::command().try_get_matches_from(mine.split_whitespace());
                if let Err(error) = parsed {
                    told.insert(format!("{path}: {example}: {error}"));
                }
                if !example.starts_with(format!("clawsec {path}").trim_end()) {
                    told.insert(format!("{path}: {example} is another's"));
                }
            }
            for argument in command.get_arguments() {
                if argument.get_help().is_none() && !argument.is_hide_set() {
                    told.insert(format!("{path}: nothing is said of {}", argument.get_id()));
                }
            }
        }
        let told: Vec<String> = told.into_iter().collect();
        assert!(told.is_empty(), "{}", told.join("\n"));
    }

    #[test]
    fn every_shell_and_every_page_is_made() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut command(), "clawsec", &mut text);
            assert!(
                String::from_utf8(text).unwrap().contains("rotate"),
                "{shell}"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        write_pages(folder.path()).unwrap();
        let tail = std::fs::read_to_string(folder.path().join("clawsec-audit-tail.8")).unwrap();
        assert!(tail.contains("clawsec audit tail \\-f"), "{tail}");
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            shown().len()
        );
    }
}
