//! Records: what happened, as lines that cannot be changed without a trace.
//!
//! Events come in through `AuditHandle`, repeats are summed (`aggregate`), the kernel's drops are
//! made exact (`ledger`), and one task writes chained lines (`writer`, `log_file`). The readers
//! (`read`, `verify`, `stats`, `tail`) need only the files. Nothing here decides anything, and
//! nothing here knows about BPF, sockets or policy.

mod aggregate;
mod alerts;
mod blocks;
mod chain;
mod denials;
mod distinct;
mod entry;
mod export;
mod files;
mod filter;
mod glance;
mod head;
mod ledger;
mod log_file;
mod packer;
mod parts;
mod query;
mod queue;
mod ranking;
mod read;
mod record;
mod recover;
mod redact;
mod rotation;
mod scan;
mod schema;
mod sinks;
mod space;
mod span;
mod stamp;
mod stats;
mod sums;
mod tail;
mod text;
mod verify;
mod writer;

pub use aggregate::Aggregator;
pub use alerts::{Alert, Watch, rehearse};
pub use blocks::Progress;
pub use chain::{Chain, Digest};
pub use denials::{Denial, Denials, Losses, Times, denials};
pub use entry::{Entry, Span};
pub use export::{CSV_HEADER, OCSF_VERSION, csv, ocsf};
pub use filter::Filter;
pub use glance::Glance;
pub use head::{Head, head_path};
pub use ledger::{Attribution, CheckpointCause, Ledger, LedgerLimits, Maps};
pub use parts::{Packing, Part, ReadError, parts};
pub use query::{Found, convert, query};
pub use ranking::{OTHERS, Ranked, Top};
pub use read::{Line, LogReader};
pub use record::{MAX_LINE_BYTES, Record, Source};
pub use scan::OnProgress;
pub use schema::schema;
pub use sinks::SinkHealth;
pub use span::Stretch;
pub use stamp::Stamp;
pub use stats::{Bucket, Stats, Sum, Trend, summarise};
pub use sums::{Recovered, SumMismatch, Sums};
pub use tail::{Follower, last_lines};
pub use text::{neutralise, neutralise_json};
pub use verify::{HeadCheck, Problem, ProblemKind, Report, verify};
pub use writer::{AuditError, AuditHandle, AuditHealth, AuditTask, Recorded, open};
