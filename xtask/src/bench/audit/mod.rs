//! `cargo xtask bench audit`: how fast the log is written, and how fast it is read.

mod reading;
mod writing;

pub(super) fn run() -> anyhow::Result<()> {
    writing::run()?;
    reading::run()
}
