//! `cargo xtask fuzz policy`; see `clawsec_fuzz::policy`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawsec_fuzz::policy(bytes));
