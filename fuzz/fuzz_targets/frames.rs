//! `cargo xtask fuzz frames`; see `clawsec_fuzz::frames`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawsec_fuzz::frames(bytes));
