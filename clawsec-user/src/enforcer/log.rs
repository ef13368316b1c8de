//! The program's own log lines, through `tracing`. For diagnosis, never for audit.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::error::EnforcerError;

/// Log lines of the kernel half.
pub struct PacketLog {
    logger: AsyncFd<EbpfLogger<ToTracing>>,
}

impl PacketLog {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, EnforcerError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(EnforcerError::NoRuntime);
        }
        let logger =
            EbpfLogger::init_with_logger(ebpf, ToTracing).map_err(|source| EnforcerError::Log {
                source: Box::new(source),
            })?;
        watch(logger)
            .map(|logger| Self { logger })
            .map_err(|source| EnforcerError::Log {
                source: Box::new(source),
            })
    }

    /// Passes lines on until it is dropped or reading fails.
    ///
    /// # Cancel safety
    /// A line is passed on in the same step as it is read.
    pub async fn pump(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.logger.readable_mut().await?;
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }
}

impl std::fmt::Debug for PacketLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PacketLog")
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for types that could give another descriptor later; the \
              logger owns its ring buffer's, and gives it always"
)]
fn watch(logger: EbpfLogger<ToTracing>) -> io::Result<AsyncFd<EbpfLogger<ToTracing>>> {
    AsyncFd::with_interest(logger, Interest::READABLE)
}

/// aya-log speaks the `log` crate's language. Passing records on here keeps the bridge to this
/// one source, without a global logger.
struct ToTracing;

impl ::log::Log for ToTracing {
    fn enabled(&self, _: &::log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &::log::Record<'_>) {
        let line = record.args().to_string();
        // Reasons come at one width.
        let line = line.trim_end();
        match record.level() {
            ::log::Level::Error => tracing::error!(target: "clawsec::bpf", "{line}"),
            ::log::Level::Warn => tracing::warn!(target: "clawsec::bpf", "{line}"),
            ::log::Level::Info => tracing::info!(target: "clawsec::bpf", "{line}"),
            ::log::Level::Debug => tracing::debug!(target: "clawsec::bpf", "{line}"),
            ::log::Level::Trace => tracing::trace!(target: "clawsec::bpf", "{line}"),
        }
    }

    fn flush(&self) {}
}
