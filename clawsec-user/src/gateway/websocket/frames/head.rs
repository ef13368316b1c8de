//! The head of a WebSocket frame (RFC 6455, 5.2).

use fastwebsockets::{OpCode, Role};

use super::{FrameError, MAX_CONTROL_BYTES};
use crate::gateway::shared::random;

/// What stands before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) fin: bool,
    pub(super) opcode: OpCode,
    pub(super) payload_bytes: u64,
    pub(super) mask: Option<[u8; 4]>,
    /// Of the head itself.
    pub(super) bytes: usize,
}

impl Head {
    /// Reads a head from the front of `bytes`; `None` while it is not all there.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        let Some(([first, second], rest)) = bytes.split_first_chunk::<2>() else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(FrameError::Protocol("a reserved bit is set"));
        }
        let opcode = OpCode::try_from(first & 0x0f)
            .map_err(|_unknown| FrameError::Protocol("an unknown opcode"))?;
        let fin = first & 0x80 != 0;
        // Lengths are big-endian.
        let length = match second & 0x7f {
            LENGTH_OF_16_BITS => rest
                .split_first_chunk::<2>()
                .map(|(length, rest)| (u16::from_be_bytes(*length).into(), rest)),
            LENGTH_OF_64_BITS => rest
                .split_first_chunk::<8>()
                .map(|(length, rest)| (u64::from_be_bytes(*length), rest)),
            length => Some((length.into(), rest)),
        };
        let Some((payload_bytes, rest)) = length else {
            return Ok(None);
        };
        let is_control = matches!(opcode, OpCode::Close | OpCode::Ping | OpCode::Pong);
        if is_control && !fin {
            return Err(FrameError::Protocol("a control frame in fragments"));
        }
        if is_control && payload_bytes > MAX_CONTROL_BYTES as u64 {
            return Err(FrameError::Protocol("a control frame over 125 bytes"));
        }
        let (mask, rest) = if second & 0x80 == 0 {
            (None, rest)
        } else if let Some((mask, rest)) = rest.split_first_chunk::<4>() {
            (Some(*mask), rest)
        } else {
            return Ok(None);
        };
        Ok(Some(Self {
            fin,
            opcode,
            payload_bytes,
            mask,
            bytes: bytes.len() - rest.len(),
        }))
    }

    /// The head that `role` writes: a client masks.
    pub(super) fn new(fin: bool, opcode: OpCode, payload_bytes: usize, role: Role) -> Self {
        let length_bytes = match payload_bytes {
            ..126 => 0,
            126..=0xffff => 2,
            _ => 8,
        };
        // Unpredictable, so that no proxy on the way reads a payload as something else (10.3).
        let mask = matches!(role, Role::Client).then(|| random().unwrap_or_default());
        Self {
            fin,
            opcode,
            payload_bytes: payload_bytes as u64,
            bytes: 2 + length_bytes + mask.map_or(0, |mask| mask.len()),
            mask,
        }
    }

    /// The whole frame: this head, then the payload, masked where the head has a mask.
    pub(super) fn before(self, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(self.bytes + payload.len());
        frame.push(u8::from(self.fin) << 7 | self.opcode as u8);
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        match (
            u8::try_from(self.payload_bytes),
            u16::try_from(self.payload_bytes),
        ) {
            (Ok(length @ ..126), _) => frame.push(masked | length),
            (_, Ok(length)) => {
                frame.push(masked | LENGTH_OF_16_BITS);
                frame.extend_from_slice(&length.to_be_bytes());
            }
            _ => {
                frame.push(masked | LENGTH_OF_64_BITS);
                frame.extend_from_slice(&self.payload_bytes.to_be_bytes());
            }
        }
        frame.extend(self.mask.into_iter().flatten());
        frame.extend_from_slice(payload);
        if let (Some(mask), Some(payload)) = (self.mask, frame.get_mut(self.bytes..)) {
            apply(mask, payload);
        }
        frame
    }
}

/// Masks, or unmasks.
pub(super) fn apply(mask: [u8; 4], payload: &mut [u8]) {
    // Sixteen bytes at once become one vector instruction.
    let [a, b, c, d] = mask;
    let wide = [a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d];
    for part in payload.chunks_mut(wide.len()) {
        for (byte, mask) in part.iter_mut().zip(wide) {
            *byte ^= mask;
        }
    }
}

/// In place of a length that seven bits do not hold (RFC 6455, 5.2).
const LENGTH_OF_16_BITS: u8 = 126;
const LENGTH_OF_64_BITS: u8 = 127;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_was_written_reads_back() {
        for length in [0, 1, 125, 126, 127, 0xffff, 0x1_0000] {
            for role in [Role::Client, Role::Server] {
                let payload: Vec<u8> = (0..length).map(|at: u32| at.to_be_bytes()[3]).collect();
                let head = Head::new(true, OpCode::Text, payload.len(), role);
                let mut frame = head.before(&payload);
                assert_eq!(Head::parse(&frame).unwrap(), Some(head), "{length}");
                let body = &mut frame[head.bytes..];
                assert_eq!(head.mask.is_some(), matches!(role, Role::Client));
                apply(head.mask.unwrap_or_default(), body);
                assert_eq!(body, payload, "{length}");
                for cut in 0..head.bytes {
                    assert_eq!(
                        Head::parse(&frame[..cut]).unwrap(),
                        None,
                        "{length} at {cut}"
                    );
                }
            }
        }
    }

    #[test]
    fn heads_that_break_the_protocol_are_refused() {
        let rows: [(&str, &[u8]); 4] = [
            ("a reserved bit", &[0x91, 0x80]),
            ("an opcode of nobody", &[0x83, 0x80]),
            ("half a ping", &[0x09, 0x80]),
            ("a long ping", &[0x89, 0xfe, 0, 126]),
        ];
        for (name, bytes) in rows {
            assert!(Head::parse(bytes).is_err(), "{name}");
        }
    }
}
