//! The checks, by what they look at. Each judges `Facts` alone, so that tests make them up.

pub(super) mod audit;
pub(super) mod files;
pub(super) mod gateway;
pub(super) mod host;
pub(super) mod keys;
pub(super) mod limits;
pub(super) mod network;
pub(super) mod sandbox;
pub(super) mod tls;
pub(super) mod tools;
