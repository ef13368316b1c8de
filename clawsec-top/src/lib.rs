//! `clawsec top`: what a running daemon does, live in the terminal.
//!
//! A binary of its own, so that the daemon carries no terminal library. It asks at the admin
//! socket as every command does; `app` is what is known, `view` draws it, `terminal` gives the
//! terminal back whatever happens, `run` joins them.

mod app;
mod ask;
mod run;
mod terminal;
mod view;

pub use run::{Arguments, main};
