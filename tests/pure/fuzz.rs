//! The fuzz targets' own functions for a bounded number of inputs, the same in every run:
//! each target's seeds, those seeds changed, and bytes at random.

#[expect(unreachable_pub, reason = "it is a crate's root for libFuzzer")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

use crate::kernel::random::Random;

/// Every file of the target's seeds, in order.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let folder = std::fs::read_dir(folder.join(target)).unwrap();
    let mut files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect()
}

fn run(target: &str, judge: fn(&[u8]), inputs: usize) {
    let mut random = Random(inputs as u64);
    let seeds = seeds(target);
    for seed in &seeds {
        judge(seed);
    }
    for number in 0..inputs {
        let bytes = if number % 8 == 0 {
            let count = random.below(160);
            random.bytes(count)
        } else {
            let seed = random.pick(&seeds).clone();
            mutate(seed, &mut random)
        };
        judge(&bytes);
    }
}

#[test]
fn the_packet_parser() {
    run("packet", targets::packet, 300_000);
}

#[test]
fn the_capture_reader() {
    run("capture", targets::capture, 60_000);
}

#[test]
fn the_configuration() {
    run("config", targets::config, 3_000);
}

#[test]
fn substitution_in_texts() {
    run("substitution", targets::substitution, 10_000);
}

#[test]
fn the_checker_of_request_heads() {
    run("head", targets::head, 100_000);
}

#[test]
fn the_websocket_frame_reader() {
    run("frames", targets::frames, 60_000);
}

#[test]
fn the_readers_of_a_client_s_texts() {
    run("request", targets::request, 20_000);
}

#[test]
fn what_judges_websocket_frames() {
    run("policy", targets::policy, 100_000);
}

#[test]
fn the_checker_of_paths() {
    run("path", targets::path, 200_000);
}

#[test]
fn the_readers_of_a_proxy_s_word() {
    run("proxy", targets::proxy, 200_000);
}

#[test]
fn the_readers_of_what_the_gateway_tells() {
    run("node", targets::node, 100_000);
}

#[test]
fn the_readers_of_audit_logs() {
    run("audit", targets::audit, 3_000);
}

#[test]
fn every_target_is_run_here_and_by_libfuzzer() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let here = include_str!("fuzz.rs");
    let mut targets = 0;
    for file in std::fs::read_dir(fuzz.join("fuzz_targets")).unwrap() {
        let file = file.unwrap().path();
        let name = file.file_stem().unwrap().to_str().unwrap();
        assert!(here.contains(&format!("run(\"{name}\", ")), "{name}");
        targets += 1;
    }
    assert_eq!(
        targets,
        std::fs::read_dir(fuzz.join("seeds")).unwrap().count()
    );
}

fn mutate(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.byte(),
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = *random.pick(&[0, 1, 4, 8, 0x7f, 0x80, 0xff]),
            3 => bytes.truncate(at),
            4 => {
                let to = (at + random.below(24)).min(bytes.len());
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let count = random.below(8);
                let more = random.bytes(count);
                bytes.splice(at..at, more);
            }
        }
    }
    bytes
}
