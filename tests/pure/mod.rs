//! Tests of values only: anyone can run them, in seconds.

#[cfg(test)]
mod config;
mod fuzz;
mod methods;
mod metrics;
