//! `cargo xtask fuzz path`; see `clawsec_fuzz::path`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawsec_fuzz::path(bytes));
