//! The BPF object inside this binary.

include!(concat!(env!("OUT_DIR"), "/object.rs"));
