//! A real daemon on real traffic, in network namespaces that the tests make and remove.

mod attach;
mod bans;
pub(crate) mod client;
mod confinement;
pub(crate) mod daemon;
pub(crate) mod docker;
mod flood;
mod init;
mod input;
mod judge;
mod kept;
mod lifecycle;
mod metrics;
mod oracle;
mod probes;
mod providers;
mod reading;
mod reload;
mod reloads;
mod renewal;
mod restart;
mod sandbox;
mod spine;
mod start;
mod timed;
mod traffic;
mod transport;
