//! Tests of values only: anyone can run them, in seconds.

#[cfg(test)]
mod config;
#[cfg(test)]
mod flood;
mod fuzz;
mod methods;
mod metrics;
#[cfg(test)]
mod killed;
mod metrics;
