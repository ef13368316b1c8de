//! The stand-in's WebSocket: the gateway's handshake, then every request is answered with `ok`.
//!
//! Frames of RFC 6455 without fragments, which is all that clawsec and the tests send here.

use std::io::{self, Read, Write};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// RFC 6455, section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const MAX_FRAME_BYTES: u64 = 1024 * 1024;

/// Whether a side masks what it sends: clients do, servers do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// Writes one whole frame.
pub fn write(stream: &mut impl Write, side: Side, opcode: u8, payload: &[u8]) -> io::Result<()> {
    let mask_bit = if side == Side::Client { 0x80 } else { 0 };
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(u8::try_from(length).map_err(io::Error::other)? | mask_bit),
        length => {
            frame.push(0x7e | mask_bit);
            let length = u16::try_from(length).map_err(io::Error::other)?;
            frame.extend(length.to_be_bytes());
        }
    }
    if side == Side::Client {
        // A mask of nothing is a mask.
        frame.extend([0; 4]);
    }
    frame.extend(payload);
    stream.write_all(&frame)?;
    stream.flush()
}

/// Reads one whole frame: its opcode and its payload.
pub fn read(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let mut long = [0; 8];
    let length = match head[1] & 0x7f {
        0x7e => {
            stream.read_exact(&mut long[6..])?;
            u64::from_be_bytes(long)
        }
        0x7f => {
            stream.read_exact(&mut long)?;
            u64::from_be_bytes(long)
        }
        short => short.into(),
    };
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::other("a frame over 1 MiB"));
    }
    let mut mask = [0; 4];
    if head[1] & 0x80 != 0 {
        stream.read_exact(&mut mask)?;
    }
    let mut payload = Vec::new();
    if stream.take(length).read_to_end(&mut payload)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok((head[0] & 0x0f, payload))
}

/// One WebSocket, until either side closes.
pub(super) fn converse(
    reader: &mut impl Read,
    writer: &mut impl Write,
    key: &str,
) -> io::Result<()> {
    let digest = digest::digest(
        &digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}{GUID}").as_bytes(),
    );
    write!(
        writer,
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-accept: {}\r\n\r\n",
        STANDARD.encode(digest)
    )?;
    let challenge = json!({
        "type": "event", "event": "connect.challenge", "payload": {"nonce": "stand-in", "ts": 1},
    });
    write(writer, Side::Server, TEXT, challenge.to_string().as_bytes())?;
    loop {
        let (opcode, payload) = read(reader)?;
        match opcode {
            TEXT => {
                let request: Value = serde_json::from_slice(&payload).unwrap_or_default();
                let payload = match request.get("method").and_then(Value::as_str) {
                    Some("connect") => json!({
                        "type": "hello-ok", "protocol": 3, "auth": {"role": "operator"},
                    }),
                    _ => json!({"ok": true}),
                };
                let answer = json!({
                    "type": "res", "id": request.get("id"), "ok": true, "payload": payload,
                });
                write(writer, Side::Server, TEXT, answer.to_string().as_bytes())?;
            }
            PING => write(writer, Side::Server, PONG, &payload)?,
            CLOSE => return write(writer, Side::Server, CLOSE, &payload),
            _ => {}
        }
    }
}
