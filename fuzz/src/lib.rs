//! The entry functions: bytes in, a panic where a promise is broken.
//!
//! libFuzzer calls them through `fuzz_targets`; `tests/pure/fuzz.rs` includes this very file and
//! runs them for a bounded time from a seeded generator, so that every gate fuzzes a little.

use clawsec_common::reason::Reason;
use clawsec_ebpf::packet::Frame;
use clawsec_ebpf::parse::{Facts, Protocol, parse};
use clawsec_user::capture::{Capture, MAX_FRAME_BYTES};

/// The packet parser: whatever the bytes, an end with a reason or facts that are whole; and what
/// lies behind the end of a frame decides nothing but a cut header.
pub fn packet(bytes: &[u8]) {
    let (result, facts) = judge(bytes);
    match result {
        Ok(()) => {
            assert!(facts.family == 4 || facts.family == 6, "{facts:?}");
            assert!(facts.protocol != Protocol::Unknown, "{facts:?}");
        }
        Err(reason) => assert!(
            !matches!(
                reason,
                Reason::Allowed | Reason::NotAllowed | Reason::Denied | Reason::Banned
            ),
            "the parser knows no policy, and says {}",
            reason.as_str()
        ),
    }
    // Padding is not content.
    let padded = [bytes, &[0x5a; 64]].concat();
    let (of_padded, padded_facts) = judge(&padded);
    let cut = matches!(result, Err(Reason::Malformed | Reason::TinyFragment));
    assert!(
        cut || (of_padded, padded_facts) == (result, facts),
        "{result:?} became {of_padded:?} by padding"
    );
}

fn judge(bytes: &[u8]) -> (Result<(), Reason>, Facts) {
    let mut facts = Facts::UNKNOWN;
    let result = parse(Frame::new(bytes), &mut facts);
    (result, facts)
}

/// The capture reader: it ends, and no frame is longer than it may be or the file is.
pub fn capture(bytes: &[u8]) {
    let Ok(mut capture) = Capture::open(bytes) else {
        return;
    };
    let mut frames = 0_usize;
    while let Ok(Some(frame)) = capture.next_frame() {
        frames += 1;
        assert!(frame.bytes.len() <= bytes.len());
        assert!(frame.bytes.len() <= MAX_FRAME_BYTES as usize);
        // The shortest record has a head of 16 bytes.
        assert!(frames <= bytes.len() / 16, "{frames} frames");
    }
}
