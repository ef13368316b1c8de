//! Tests of values only: anyone can run them, in seconds.

#[cfg(test)]
mod config;
mod documented;
#[cfg(test)]
mod flood;
mod fuzz;
#[cfg(test)]
mod killed;
mod methods;
mod metrics;
mod schema;
