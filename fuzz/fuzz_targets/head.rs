//! `cargo xtask fuzz head`; see `clawsec_fuzz::head`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawsec_fuzz::head(bytes));
