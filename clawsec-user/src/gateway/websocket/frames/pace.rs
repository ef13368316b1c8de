//! How many frames that carry next to nothing a client may send: fragments of one message, and
//! control frames. Each costs clawsec as much as a whole message, and is counted against no limit
//! of requests.

use std::time::{Duration, Instant};

use super::FrameError;

/// Of one message. Browsers and the gateways' own clients send one frame a message.
const MAX_FRAGMENTS: u32 = 1024;
/// What one control frame uses up: two a second may be sent for ever.
const CONTROL_FRAME: Duration = Duration::from_millis(500);
/// What may be used up at once: 120 control frames.
const CONTROL_BURST: Duration = Duration::from_mins(1);

/// One client's.
#[derive(Debug)]
pub(super) struct Pace {
    fragments: u32,
    /// When what was used up is there again.
    refilled: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            fragments: 0,
            refilled: Instant::now(),
        }
    }

    /// A message has begun.
    pub(super) fn message(&mut self) {
        self.fragments = 0;
    }

    pub(super) fn fragment(&mut self) -> Result<(), FrameError> {
        self.fragments += 1;
        if self.fragments > MAX_FRAGMENTS {
            return Err(FrameError::Flood("too many fragments"));
        }
        Ok(())
    }

    pub(super) fn control(&mut self, now: Instant) -> Result<(), FrameError> {
        let used_up = self.refilled.max(now) + CONTROL_FRAME;
        if used_up.duration_since(now) > CONTROL_BURST {
            return Err(FrameError::Flood("too many control frames"));
        }
        self.refilled = used_up;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_frames_have_a_burst_and_a_pace() {
        let mut pace = Pace::new();
        let start = Instant::now();
        for number in 0..120 {
            assert!(pace.control(start).is_ok(), "{number}");
        }
        assert!(pace.control(start).is_err());
        let later = start + Duration::from_secs(1);
        assert!(pace.control(later).is_ok());
        assert!(pace.control(later).is_ok());
        assert!(pace.control(later).is_err());
    }

    #[test]
    fn a_message_has_so_many_fragments() {
        let mut pace = Pace::new();
        for _ in 0..2 {
            pace.message();
            for number in 0..MAX_FRAGMENTS {
                assert!(pace.fragment().is_ok(), "{number}");
            }
        }
        assert!(pace.fragment().is_err());
    }
}
