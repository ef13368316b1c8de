//! One test binary; the folders are tiers.

mod system;
