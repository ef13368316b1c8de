//! Where records and alerts are sent besides the log: checked values.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::model::Secret;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkConfig {
    pub to: SinkTarget,
    /// Records that wait for it at most.
    pub queue: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkTarget {
    /// journald, by its native protocol.
    Journald { socket: PathBuf },
    /// RFC 5424 over TCP or TLS.
    Syslog(Endpoint),
    /// OTLP logs, as JSON over HTTP.
    Otlp(WebTarget),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    /// Authorities in PEM; the system's where left out.
    pub ca: Option<PathBuf>,
}

/// What is posted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebTarget {
    pub endpoint: Endpoint,
    /// With its query; it may hold a secret, so it is never shown.
    pub path: String,
    /// The whole `Authorization` header.
    pub authorization: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertConfig {
    pub when: AlertRule,
    pub to: AlertTarget,
    /// At most one alert in this time; what comes meanwhile is counted in the next.
    pub every: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertRule {
    /// So many failed logins of one source in this time.
    FailedLogins {
        count: u64,
        window: Duration,
    },
    /// Somebody signs in from a source that the log has not seen.
    NewSource,
    ToolDenied,
    ChainBroken,
    /// Events, or the log itself, could not be written.
    EventsLost,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlertTarget {
    Webhook(WebTarget),
    /// A program and its arguments; no shell. It reads the alert as JSON on standard input.
    Command(Vec<String>),
    Journal,
}

impl Endpoint {
    /// `host:port`.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl AlertRule {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FailedLogins { .. } => "failedLogins",
            Self::NewSource => "newSource",
            Self::ToolDenied => "toolDenied",
            Self::ChainBroken => "chainBroken",
            Self::EventsLost => "eventsLost",
        }
    }
}

impl fmt::Display for SinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Journald { .. } => f.write_str("journald"),
            Self::Syslog(endpoint) => {
                let scheme = if endpoint.tls { "tls" } else { "tcp" };
                write!(f, "syslog {scheme}://{}", endpoint.authority())
            }
            Self::Otlp(web) => write!(f, "otlp {}", web.endpoint.authority()),
        }
    }
}

impl fmt::Display for AlertTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Webhook(web) => write!(f, "webhook {}", web.endpoint.authority()),
            Self::Command(words) => {
                write!(f, "command {}", words.first().map_or("", String::as_str))
            }
            Self::Journal => f.write_str("journal"),
        }
    }
}
