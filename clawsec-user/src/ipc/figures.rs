//! What the gateway process counts of itself, and the documents it fetches for whoever asks it
//! over its admin listener.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Totals since the gateway process began; sent once a second and with each request for a page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayFigures {
    /// Open now.
    pub connections: u64,
    pub accepted: u64,
    pub tls_ok: u64,
    pub tls_failed: u64,
    pub tls_too_slow: u64,
    /// Time to the head of the answer, of what was let through and of what was refused.
    pub allowed: Latency,
    pub refused: Latency,
    /// Requests for `Document`s that lacked the token.
    pub unauthorized: u64,
}

/// A histogram of times.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// One for each of `LATENCY_BOUNDS_US` and one for what took longer; not cumulative.
    pub buckets: Vec<u64>,
    pub sum_us: u64,
}

/// Upper bounds in microseconds, each included: from a refusal without work to a model's answer.
pub const LATENCY_BOUNDS_US: [u64; 12] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_500_000, 10_000_000,
    60_000_000,
];

/// One principal at one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    pub principal: String,
    pub source: IpAddr,
    pub connections: u64,
    pub websockets: u64,
}

/// What can be read over the admin listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Document {
    Metrics,
    Page,
    /// Whether requests can be served now, and what stands against it.
    Ready,
}

/// A document as the supervisor made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    pub status: u16,
    pub content_type: String,
    /// The value of `Content-Security-Policy`, for a page.
    pub security_policy: Option<String>,
    pub text: String,
}
