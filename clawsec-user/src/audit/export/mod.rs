//! Records in forms that other programs read: OCSF events and CSV rows, one a record.
//!
//! Invariant: a function of the record alone, so that a log of any size is exported line by line.

mod csv;
mod ocsf;

pub use csv::{HEADER as CSV_HEADER, csv};
pub use ocsf::{VERSION as OCSF_VERSION, ocsf};
