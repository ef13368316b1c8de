//! Tests that need root and a host they may change: users, cgroups, containers.

mod sandbox;
