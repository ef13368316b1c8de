//! An open way to one sink.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::net::UnixDatagram;

use super::{Line, journald, otlp, syslog};
use crate::audit::record::Record;
use crate::config::{SinkTarget, WebTarget};
use crate::dial::{Stream, connect};

/// Why a batch was not sent, in words; it is tried again.
#[derive(Debug)]
pub(super) struct Unsent(pub(super) String);

pub(super) enum Carrier {
    Journald(UnixDatagram),
    Syslog(ReadHalf<Stream>, WriteHalf<Stream>),
    Otlp(WebTarget),
}

impl From<std::io::Error> for Unsent {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl Carrier {
    pub(super) async fn open(target: &SinkTarget) -> Result<Self, Unsent> {
        Ok(match target {
            SinkTarget::Journald { socket } => {
                let datagrams = UnixDatagram::unbound()?;
                datagrams.connect(socket)?;
                Self::Journald(datagrams)
            }
            SinkTarget::Syslog(endpoint) => {
                let (reader, writer) = split(connect(endpoint).await?);
                Self::Syslog(reader, writer)
            }
            // A connection for each batch: collectors close idle ones when they like.
            SinkTarget::Otlp(web) => Self::Otlp(web.clone()),
        })
    }

    /// Sends all of it or fails; gives how many the other side refused for good.
    pub(super) async fn send(&mut self, lines: &[Line]) -> Result<u64, Unsent> {
        let records = lines.iter().filter_map(|line| {
            let record = Record::parse(line).ok()?;
            Some((record, std::str::from_utf8(line).ok()?))
        });
        match self {
            Self::Journald(socket) => {
                for (record, line) in records {
                    socket.send(&journald::datagram(&record, line)).await?;
                }
                Ok(0)
            }
            Self::Syslog(reader, writer) => {
                let mut frames = Vec::new();
                for (record, line) in records {
                    syslog::frame(&record, line, &mut frames);
                }
                let mut answer = [0; 16];
                tokio::select! {
                    // A receiver says nothing; what ends here has closed, and would swallow the rest.
                    biased;
                    read = reader.read(&mut answer) => match read {
                        Ok(0) => Err(Unsent("the receiver closed the connection".to_owned())),
                        Ok(_) => Err(Unsent("the receiver answered, which syslog never does".to_owned())),
                        Err(error) => Err(error.into()),
                    },
                    written = async {
                        writer.write_all(&frames).await?;
                        writer.flush().await
                    } => {
                        written?;
                        Ok(0)
                    }
                }
            }
            Self::Otlp(web) => otlp::send(web, records).await,
        }
    }
}
