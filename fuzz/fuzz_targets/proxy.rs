//! `cargo xtask fuzz proxy`; see `clawsec_fuzz::proxy`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawsec_fuzz::proxy(bytes));
