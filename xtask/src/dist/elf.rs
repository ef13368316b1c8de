//! How hard a program is to misuse, as `readelf` tells; held against a golden file.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use xtask::root;

use super::printed;

const GOLDEN: &str = "packaging/hardening.txt";

/// One line for each property of each program.
pub(super) fn describe(programs: &[PathBuf]) -> Result<String> {
    let mut text = String::new();
    for program in programs {
        let name = program.file_name().unwrap_or_default().display();
        let shown = printed(
            Command::new("readelf")
                .args(["--wide", "--file-header", "--program-headers", "--dynamic"])
                .args(["--section-headers"])
                .arg(program),
        )?;
        let shown = String::from_utf8_lossy(&shown);
        for line in properties(&shown) {
            writeln!(text, "{name} {line}").context("write to a text")?;
        }
    }
    Ok(text)
}

/// Of what `readelf` prints.
fn properties(shown: &str) -> Vec<String> {
    let holds = |part: &str| shown.lines().any(|line| line.contains(part));
    let yes = |is: bool| if is { "yes" } else { "NO" };
    let stack = shown.lines().find(|line| line.contains("GNU_STACK"));
    let is_plain_stack = stack.is_some_and(|line| line.contains("RW ") && !line.contains("RWE"));
    let writable_code = shown
        .lines()
        .any(|line| line.trim_start().starts_with("LOAD") && line.contains("RWE"));
    let mut lines = vec![
        format!(
            "position independent: {}",
            yes(holds("DYN (Position-Independent"))
        ),
        format!("relocations read-only: {}", yes(holds("GNU_RELRO"))),
        format!(
            "bound at start: {}",
            yes(holds("BIND_NOW") || holds("NOW PIE"))
        ),
        format!("stack not executable: {}", yes(is_plain_stack)),
        format!("no code that is writable: {}", yes(!writable_code)),
        format!(
            "no search path of its own: {}",
            yes(!holds("(RPATH)") && !holds("(RUNPATH)"))
        ),
        format!("no debug sections: {}", yes(!holds(".debug_info"))),
    ];
    let libraries: BTreeSet<&str> = shown
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split_once('[')?.1.strip_suffix(']'))
        .collect();
    lines.extend(libraries.iter().map(|name| format!("needs {name}")));
    lines
}

/// `CLAWSEC_BLESS=1` rewrites the file.
pub(super) fn hold_against_golden(found: &str) -> Result<()> {
    let path = root().join(GOLDEN);
    if std::env::var_os("CLAWSEC_BLESS").is_some() {
        fs::write(&path, found).with_context(|| format!("write {GOLDEN}"))?;
    }
    let golden = fs::read_to_string(&path).with_context(|| format!("read {GOLDEN}"))?;
    ensure!(
        golden == found,
        "the programs are not as {GOLDEN} says (CLAWSEC_BLESS=1 rewrites it); they are\n{found}"
    );
    Ok(())
}

/// The newest version of glibc that a symbol asks for: `2.34`.
pub(super) fn newest_glibc(programs: &[PathBuf]) -> Result<String> {
    let mut newest = (0, 0);
    for program in programs {
        let shown = printed(
            Command::new("readelf")
                .args(["--wide", "--version-info"])
                .arg(program),
        )?;
        newest = newest.max(glibc(&String::from_utf8_lossy(&shown)));
    }
    ensure!(newest != (0, 0), "the programs name no version of glibc");
    Ok(format!("{}.{}", newest.0, newest.1))
}

fn glibc(shown: &str) -> (u32, u32) {
    let versions = shown.split("GLIBC_").skip(1).filter_map(|rest| {
        let mut parts = rest.split(|c: char| !c.is_ascii_digit());
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    });
    versions.max().unwrap_or((0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_readelf_prints_is_read() {
        let hard = "  Type:                              DYN (Position-Independent Executable file)\n  \
             LOAD           0x000000 0x0 0x0 0x1 0x1 R E 0x1000\n  \
             GNU_STACK      0x000000 0x0 0x0 0x0 0x0 RW  0x10\n  \
             GNU_RELRO      0x1 0x1 0x1 0x1 0x1 R   0x1\n \
             0x01 (NEEDED)  Shared library: [libc.so.6]\n \
             0x1e (FLAGS)   BIND_NOW\n";
        let lines = properties(hard);
        assert!(lines.iter().all(|line| !line.contains("NO")), "{lines:?}");
        assert!(lines.contains(&"needs libc.so.6".to_owned()));
        let soft = hard.replace("RW  0x10", "RWE 0x10").replace("BIND_NOW", "");
        let wrong = properties(&soft);
        assert!(
            wrong.contains(&"stack not executable: NO".to_owned()),
            "{wrong:?}"
        );
        assert!(
            wrong.contains(&"bound at start: NO".to_owned()),
            "{wrong:?}"
        );
    }

    #[test]
    fn the_newest_glibc_counts() {
        assert_eq!(glibc("Name: GLIBC_2.4 GLIBC_2.34 GLIBC_2.17"), (2, 34));
        assert_eq!(glibc("nothing"), (0, 0));
    }
}
