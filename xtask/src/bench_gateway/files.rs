//! Where the gateway's benchmark stands: its folder, certificate and wrk's report.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// Prints one line of figures at wrk's end.
const SCRIPT: &str = "done = function(summary, latency, requests)\n\
    local e = summary.errors\n\
    io.write(string.format('clawsec-bench %d %d %d %d %d\\n', summary.requests, summary.duration,\n\
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))\nend\n";

/// Root's own, since clawsec refuses a configuration that others can write.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Result<Self> {
        let path = PathBuf::from(format!("/run/clawsec-bench-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("create {}", path.display()))?;
        let folder = Self(path);
        folder.write("report.lua", SCRIPT)?;
        Ok(folder)
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    pub(super) fn certificate(&self) -> Result<()> {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).context("make a certificate")?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        self.write("cert.pem", &certificate)?;
        self.write("key.pem", &key)?;
        // As HAProxy wants it.
        self.write("both.pem", &(certificate + &key))
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.0.join(name))
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("write {name}"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _kept = fs::remove_dir_all(&self.0);
    }
}
