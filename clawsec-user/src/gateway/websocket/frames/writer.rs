//! The writing half of a WebSocket: what was begun is finished before anything else goes out.

use std::time::Duration;

use fastwebsockets::{OpCode, Role};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::head::Head;
use super::{Gone, RawFrame};

pub(super) struct Writer<S> {
    stream: S,
    role: Role,
    /// The frame under way; without capacity between two.
    frame: Vec<u8>,
    sent: usize,
    is_over: bool,
}

impl<S: AsyncWrite + Unpin> Writer<S> {
    pub(super) fn new(stream: S, role: Role) -> Self {
        Self {
            stream,
            role,
            frame: Vec::new(),
            sent: 0,
            is_over: false,
        }
    }

    /// Writes a frame whole. After a close frame, an error or a deadline no other follows.
    ///
    /// # Cancel safety
    ///
    /// Dropped in the middle, the rest of the frame goes out before the next one.
    pub(super) async fn send(&mut self, frame: RawFrame, deadline: Duration) -> Result<(), Gone> {
        self.finish(deadline).await?;
        let RawFrame {
            fin,
            opcode,
            payload,
        } = frame;
        self.frame = Head::new(fin, opcode, payload.len(), self.role).before(&payload);
        drop(payload);
        self.finish(deadline).await?;
        self.is_over = opcode == OpCode::Close;
        Ok(())
    }

    /// Writes what is left of the frame under way.
    async fn finish(&mut self, deadline: Duration) -> Result<(), Gone> {
        if self.is_over {
            return Err(Gone);
        }
        if self.frame.is_empty() {
            return Ok(());
        }
        match timeout(deadline, self.write()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => tracing::debug!(%error, "write a frame"),
            Err(_elapsed) => tracing::debug!("the peer does not take frames"),
        }
        self.is_over = true;
        Err(Gone)
    }

    async fn write(&mut self) -> std::io::Result<()> {
        while let Some(rest) = self.frame.get(self.sent..).filter(|rest| !rest.is_empty()) {
            // One write, which is cancel safe: either it is counted here or nothing was written.
            match self.stream.write(rest).await? {
                0 => return Err(std::io::ErrorKind::WriteZero.into()),
                written => self.sent += written,
            }
        }
        self.stream.flush().await?;
        self.frame = Vec::new();
        self.sent = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    fn text(payload: &[u8]) -> RawFrame {
        RawFrame {
            fin: true,
            opcode: OpCode::Text,
            payload: payload.to_vec(),
        }
    }

    #[tokio::test]
    async fn a_frame_that_was_cut_off_is_finished_before_the_next() {
        let (here, mut there) = tokio::io::duplex(4);
        let mut writer = Writer::new(here, Role::Server);
        // No room for all of it: the future waits, and is dropped.
        assert!(writer.send(text(b"first"), LONG).now_or_never().is_none());
        let reading = async {
            let mut read = [0; 12];
            there.read_exact(&mut read).await.unwrap();
            read
        };
        let (sent, read) = tokio::join!(writer.send(text(b"two"), LONG), reading);
        sent.unwrap();
        assert_eq!(&read, b"\x81\x05first\x81\x03two");
    }

    #[tokio::test]
    async fn nothing_follows_a_close_frame_or_a_deadline() {
        let close = RawFrame {
            opcode: OpCode::Close,
            ..text(b"")
        };
        let (here, _there) = tokio::io::duplex(64);
        let mut writer = Writer::new(here, Role::Server);
        writer.send(close, LONG).await.unwrap();
        assert!(writer.send(text(b"x"), LONG).await.is_err());

        let (here, _there) = tokio::io::duplex(1);
        let mut writer = Writer::new(here, Role::Server);
        let stalled = writer.send(text(b"x"), Duration::ZERO).await;
        assert!(stalled.is_err());
        assert!(writer.send(text(b""), LONG).await.is_err());
    }
}
