//! The real gateway (npm `clawdbot@2026.1.24-3`, protocol v3) behind clawsec, with its own,
//! unmodified command line in front.

mod clawdbot;
mod gateway;
