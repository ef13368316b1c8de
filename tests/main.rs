//! clawsec's tests in four tiers: pure, kernel, system, peer.

mod pure;
