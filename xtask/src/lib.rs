//! What the demo (`cargo xtask run`) and the tests share: a network and a stand-in gateway.

pub mod lab;
pub mod standin;

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The workspace's folder.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Prints one step to standard error.
pub fn say(text: &str) {
    // A closed terminal has nobody to tell.
    let _closed = writeln!(std::io::stderr(), "xtask: {text}");
}
