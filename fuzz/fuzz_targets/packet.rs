//! `cargo xtask fuzz packet`; see `clawsec_fuzz::packet`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawsec_fuzz::packet(bytes));
