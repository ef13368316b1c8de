//! `cargo xtask fuzz substitution`; see `clawsec_fuzz::substitution`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawsec_fuzz::substitution(bytes));
