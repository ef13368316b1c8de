//! What this machine has, read of `/proc` and `/sys`; changes nothing.

pub(crate) mod gateways;
