//! `cargo xtask fuzz node`; see `clawsec_fuzz::node`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawsec_fuzz::node(bytes));
