//! Writing to the terminal; a reader that has gone away is no error.

use std::io::{self, IsTerminal as _, Write as _};

/// Prints lines to standard output.
pub(crate) fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    // A closed pipe (`| head`) ends the output, not the program.
    let _closed = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}

/// Prints an error and its causes to standard error, one line each.
pub(crate) fn error(error: &anyhow::Error) {
    let mut text = format!("clawsec: {error}\n");
    for cause in error.chain().skip(1) {
        text.push_str(&format!("  because: {cause}\n"));
    }
    // Nowhere else to say it.
    let _closed = io::stderr().lock().write_all(text.as_bytes());
}

/// Whether standard output may be coloured.
pub(crate) fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Starts the operational log on standard error.
pub(crate) fn start_log() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new("info"));
    let colour =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    // Only a second call fails, and then the first one's log is there.
    let _already = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .try_init();
}
