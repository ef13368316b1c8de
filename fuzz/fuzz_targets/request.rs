//! `cargo xtask fuzz request`; see `clawsec_fuzz::request`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawsec_fuzz::request(bytes));
