//! `cargo xtask fuzz config`; see `clawsec_fuzz::config`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawsec_fuzz::config(bytes));
