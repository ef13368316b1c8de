//! `cargo xtask fuzz audit`; see `clawsec_fuzz::audit`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawsec_fuzz::audit(bytes));
