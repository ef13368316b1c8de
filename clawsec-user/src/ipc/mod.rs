//! The socketpair between supervisor and gateway: its messages and their framing.
//!
//! The two halves share nothing else. A message is a 4-byte big-endian length, then JSON.

mod codec;
mod figures;
mod listeners;
mod message;

pub use codec::{IpcError, IpcReader, IpcWriter, split};
pub use figures::{Document, GatewayFigures, LATENCY_BOUNDS_US, Latency, Present, Written};
pub use listeners::{MAX_LISTENERS, receive_listeners, send_listeners};
pub use message::{
    Caller, Challenge, ExecCall, OwnRole, OwnState, PolicyUpdate, TimedEntry, TimedUpdate,
    TlsMaterial, ToGateway, ToSupervisor, ToolAnswer, ToolCall, ToolCommand, ToolReply,
};
