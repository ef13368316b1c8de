//! The verifier's view: every program loads, and costs it little more than the golden file says.

use std::fmt::Write as _;

use clawsec_common::abi::name;

use super::golden;
use super::program::Program;

/// The count differs from kernel to kernel; more than this above the golden one is growth.
const TOLERANCE_PERCENT: u32 = 25;

/// The counts of the oldest kernel that is supported have a file of their own; others share one.
fn golden_name() -> &'static str {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    if release.starts_with("6.1.") {
        "verifier-6.1.txt"
    } else {
        "verifier.txt"
    }
}

#[test]
fn the_verifier_walks_no_more_than_the_golden_count() {
    let mut text = String::new();
    let expected = std::fs::read_to_string(golden::path(golden_name())).unwrap_or_default();
    let every = [
        (name::PROGRAM, false),
        (name::PROGRAM, true),
        (name::PROGRAM_TCX, false),
        (name::PROGRAM_TCX, true),
        (name::PROGRAM_CLOCKED, false),
    ];
    for (program, bpf_log) in every {
        let label = format!("{program}{}", if bpf_log { "+log" } else { "" });
        let loaded = Program::load(program, bpf_log).unwrap();
        for name in loaded.names() {
            assert!(every.iter().any(|(program, _)| *program == name), "{name}");
        }
        let found = loaded
            .info()
            .unwrap()
            .verified_instruction_count()
            .expect("kernel 5.16 counts them");
        println!("{label}: {found} instructions verified");
        writeln!(text, "{label} {found}").unwrap();
        if golden::bless() {
            continue;
        }
        let golden: u32 = expected
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{label} ")))
            .expect("the golden file names every program")
            .parse()
            .unwrap();
        let limit = golden + golden / 100 * TOLERANCE_PERCENT;
        assert!(
            found <= limit,
            "{label}: {found} instructions verified, at most {limit} allowed"
        );
    }
    if golden::bless() {
        golden::check(golden_name(), &text);
    }
}

#[test]
fn the_program_declares_a_gpl_compatible_licence() {
    let info = Program::load(name::PROGRAM, false).unwrap().info().unwrap();
    assert_eq!(info.gpl_compatible(), Some(true));
}
