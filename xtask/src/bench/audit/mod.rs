//! `cargo xtask bench audit`: how fast the log is written.

mod writing;

pub(super) fn run() -> anyhow::Result<()> {
    writing::run()
}
