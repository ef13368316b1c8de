//! A client with a valid key that went bad: frames (RFC 6455) as fast as they can be written.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::ClientConfig;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{Attack, PATIENCE, Stream, Tally, Target};

const TEXT: u8 = 1;
const CONTINUATION: u8 = 0;
const PING: u8 = 9;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
const LENGTH_OF_16_BITS: u8 = 126;

/// One WebSocket, until the other side ends it; each burst of a hundred frames is a try.
pub(super) async fn flood(
    attack: Attack,
    target: &Target,
    source: IpAddr,
    config: &Arc<ClientConfig>,
    tally: &mut Tally,
    stop: &AtomicBool,
) {
    let Some(mut stream) = target.handshake(source, config).await else {
        return tally.add("refused");
    };
    if open(&mut stream, target).await.is_none() {
        return tally.add("closed");
    }
    let (mut reader, mut writer) = tokio::io::split(stream);
    let heard = tokio::spawn(async move {
        let mut answer = vec![0; 16_384];
        while matches!(reader.read(&mut answer).await, Ok(1..)) {}
    });
    let mut burst = Vec::new();
    let mut ended = false;
    if attack == Attack::Fragments {
        frame(&mut burst, TEXT, b"{");
        ended = writer.write_all(&burst).await.is_err();
        burst.clear();
    }
    for number in 0..100 {
        match attack {
            Attack::Fragments => frame(&mut burst, CONTINUATION, b" "),
            Attack::Pings => frame(&mut burst, PING | FINAL, b"ping"),
            _ => {
                let ask = json!({"type": "req", "id": number.to_string(), "method": "health"});
                frame(&mut burst, TEXT | FINAL, ask.to_string().as_bytes());
            }
        }
    }
    while !ended && !stop.load(Ordering::Relaxed) {
        let sent = timeout(PATIENCE, async {
            writer.write_all(&burst).await?;
            writer.flush().await
        });
        ended = !matches!(sent.await, Ok(Ok(()))) || heard.is_finished();
        tally.add(if ended { "closed" } else { "kept" });
        tokio::task::yield_now().await;
    }
    heard.abort();
}

/// Up to the gateway's hello.
async fn open(stream: &mut Stream, target: &Target) -> Option<()> {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nX-API-Key: {}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        target.address.ip(),
        target.key
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    stream.flush().await.ok()?;
    read_until(stream, b"connect.challenge").await?;
    let connect = json!({"type": "req", "id": "1", "method": "connect", "params": {
        "minProtocol": 3, "maxProtocol": 3, "role": "operator", "scopes": ["operator.admin"],
        "client": {"id": "cli", "mode": "cli", "version": "1", "platform": "linux"},
    }});
    let mut hello = Vec::new();
    frame(&mut hello, TEXT | FINAL, connect.to_string().as_bytes());
    stream.write_all(&hello).await.ok()?;
    stream.flush().await.ok()?;
    read_until(stream, b"hello-ok").await
}

async fn read_until(stream: &mut Stream, word: &[u8]) -> Option<()> {
    let mut heard: Vec<u8> = Vec::new();
    while !heard.windows(word.len()).any(|bytes| bytes == word) {
        let mut part = [0; 4096];
        let length = timeout(PATIENCE, stream.read(&mut part)).await.ok()?.ok()?;
        if length == 0 {
            return None;
        }
        heard.extend(&part[..length]);
    }
    Some(())
}

/// Masked with zeros, which is a mask as good as another here.
fn frame(to: &mut Vec<u8>, first: u8, payload: &[u8]) {
    to.push(first);
    if payload.len() < LENGTH_OF_16_BITS.into() {
        to.push(MASKED + u8::try_from(payload.len()).expect("below 126"));
    } else {
        to.push(MASKED + LENGTH_OF_16_BITS);
        let length = u16::try_from(payload.len()).expect("below 64 KiB");
        to.extend(length.to_be_bytes());
    }
    to.extend([0; 4]);
    to.extend(payload);
}
