//! What an operator is shown of a running daemon: the state itself, and its forms as figures for
//! a collector and as a page.
//!
//! Invariant: everything here is a pure function of a `Status`; who gathers it is the supervisor.
//! Nothing in a `Status` is a secret, and no label of a figure is chosen by a client.

mod metrics;
mod openmetrics;
mod page;
mod status;
mod words;

pub use metrics::{CONTENT_TYPE as METRICS_CONTENT_TYPE, metrics};
pub(crate) use page::breakable;
pub use page::{Page, page};
pub use status::{
    AuditSink, AuditState, Client, Denial, EventTotal, Execution, Filter, GatewayState, Headline,
    Interface, KernelMemory, MapFill, Moment, Named, ReasonTotal, SandboxState, SourceTotal,
    Status, Verdict,
};
pub use words::{counted, figure, grouped, plain, words};
