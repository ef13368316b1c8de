//! `cargo xtask fuzz capture`; see `clawsec_fuzz::capture`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawsec_fuzz::capture(bytes));
