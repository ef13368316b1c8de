//! Length-prefixed JSON over a Unix stream.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// What is read or written at once: a few hundred events.
const BUFFER_BYTES: usize = 64 * 1024;
/// A message may carry a whole configuration with 100,000 prefixes, or a tool's output.
const MAX_MESSAGE_BYTES: u32 = 64 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum IpcError {
    #[error("the other process closed the socketpair")]
    Closed,
    #[error("read from the socketpair")]
    Read(#[source] std::io::Error),
    #[error("write to the socketpair")]
    Write(#[source] std::io::Error),
    #[error("a message of {0} bytes is over the limit of {MAX_MESSAGE_BYTES}")]
    TooLarge(u64),
    #[error("a message is not of the expected form")]
    Malformed(#[source] serde_json::Error),
}

/// Splits a stream into a reader of `In` and a writer of `Out`.
pub fn split<In, Out>(stream: UnixStream) -> (IpcReader<In>, IpcWriter<Out>) {
    let (read, write) = stream.into_split();
    (
        IpcReader {
            stream: BufReader::with_capacity(BUFFER_BYTES, read),
            body: Vec::new(),
            message: PhantomData,
        },
        IpcWriter {
            stream: write,
            buffer: Vec::new(),
            message: PhantomData,
        },
    )
}

pub struct IpcReader<M> {
    stream: BufReader<OwnedReadHalf>,
    body: Vec<u8>,
    message: PhantomData<fn() -> M>,
}

impl<M: DeserializeOwned> IpcReader<M> {
    /// Waits for the next message.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a dropped future may have read half a message. Give the reader a task
    /// of its own.
    pub async fn receive(&mut self) -> Result<M, IpcError> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length).await {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(IpcError::Closed);
            }
            Err(error) => return Err(IpcError::Read(error)),
        }
        let length = u32::from_be_bytes(length);
        if length > MAX_MESSAGE_BYTES {
            return Err(IpcError::TooLarge(length.into()));
        }
        self.body.resize(length as usize, 0);
        self.stream
            .read_exact(&mut self.body)
            .await
            .map_err(IpcError::Read)?;
        let message = serde_json::from_slice(&self.body).map_err(IpcError::Malformed);
        self.body.clear();
        self.body.shrink_to(BUFFER_BYTES);
        message
    }
}

pub struct IpcWriter<M> {
    stream: OwnedWriteHalf,
    buffer: Vec<u8>,
    message: PhantomData<fn(M)>,
}

impl<M: Serialize> IpcWriter<M> {
    /// Sends one message whole, after what was put before it. Not cancel safe, as
    /// `IpcReader::receive` is not.
    pub async fn send(&mut self, message: &M) -> Result<(), IpcError> {
        self.put(message)?;
        self.flush().await
    }

    /// Adds a message to what the next `flush` or `send` writes.
    pub fn put(&mut self, message: &M) -> Result<(), IpcError> {
        let start = self.buffer.len();
        let added = self.append(message);
        if added.is_err() {
            self.buffer.truncate(start);
        }
        added
    }

    fn append(&mut self, message: &M) -> Result<(), IpcError> {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        serde_json::to_writer(&mut self.buffer, message).map_err(IpcError::Malformed)?;
        let length = self.buffer.len() - start - 4;
        let length = u32::try_from(length)
            .ok()
            .filter(|&length| length <= MAX_MESSAGE_BYTES)
            .ok_or(IpcError::TooLarge(length as u64))?;
        self.buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// Whether enough was put to be worth a write.
    pub fn is_full(&self) -> bool {
        self.buffer.len() >= BUFFER_BYTES
    }

    /// Writes what was put. Not cancel safe.
    pub async fn flush(&mut self) -> Result<(), IpcError> {
        let written = self.stream.write_all(&self.buffer).await;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES);
        written.map_err(IpcError::Write)
    }
}
