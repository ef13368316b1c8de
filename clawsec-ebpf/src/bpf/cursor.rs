//! The packet as the driver holds it, read where it lies.

use aya_ebpf::programs::XdpContext;
use clawsec_ebpf::packet::Cursor;

/// The verifier follows `at` as a packet pointer: each `take` compares it with `end` before it
/// reads, and `skip` adds at most 2048, so that the offset stays within what it can prove.
#[derive(Clone, Copy)]
pub(crate) struct PacketCursor {
    at: usize,
    end: usize,
}

impl PacketCursor {
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Self {
        Self {
            at: ctx.data(),
            end: ctx.data_end(),
        }
    }
}

impl Cursor for PacketCursor {
    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let at = self.at;
        if at + N > self.end {
            return None;
        }
        self.at = at + N;
        // SAFETY: `at .. at + N` lies before `end`, the end of the packet; bytes need no
        // alignment. The driver does not write while the program runs.
        Some(unsafe { (at as *const [u8; N]).read_unaligned() })
    }

    #[inline(always)]
    fn skip(&mut self, bytes: usize) {
        self.at += bytes & 0xfff;
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "it was a u32 before it went through the register"
    )]
    #[inline(always)]
    fn opaque(number: u32) -> u32 {
        let mut number = u64::from(number);
        // SAFETY: moves a register to itself. An empty text would be none, and two lines of debug
        // information for one instruction are refused (6.18).
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack, preserves_flags));
        }
        number as u32
    }
}
