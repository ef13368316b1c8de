//! The packet as the driver holds it, read where it lies.

use core::arch::asm;

use aya_ebpf::programs::XdpContext;
use clawsec_ebpf::packet::{Cursor, Header};

/// The verifier follows `at` as a packet pointer: each `take` compares it with `end` before it
/// reads, and `skip` adds at most 2048, so that the offset stays within what it can prove.
#[derive(Clone, Copy)]
pub(crate) struct PacketCursor {
    at: usize,
    end: usize,
}

/// `N` bytes of the packet, from here on.
#[derive(Clone, Copy)]
pub(crate) struct PacketHeader<const N: usize>(usize);

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
    type Header<const N: usize> = PacketHeader<N>;

    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Option<PacketHeader<N>> {
        let at = self.at;
        if at + N > self.end {
            return None;
        }
        self.at = at + N;
        Some(PacketHeader(at))
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
            asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack, preserves_flags));
        }
        number as u32
    }
}

/// Loads one field. Rust knows no alignment for it and would read byte by byte, four times as
/// many instructions; x86-64 and arm64 read it at once, and the verifier (5.18 to 6.18) allows
/// that where the kernel says that unaligned access is efficient. `cargo xtask build` builds for
/// these two alone.
macro_rules! load {
    ($size:literal, $header:expr, $at:expr, $bytes:literal) => {{
        const { assert!(N - $at >= $bytes) };
        let value: u64;
        // SAFETY: `take` compared the end of the header with the end of the packet, and the field
        // lies inside the header. The driver does not write while the program runs.
        unsafe {
            asm!(
                concat!("{value} = *(", $size, " *)({header} + {at})"),
                value = out(reg) value,
                header = in(reg) $header.0,
                at = const $at,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        value
    }};
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a load of so many bytes leaves the rest of the register 0"
)]
impl<const N: usize> Header<N> for PacketHeader<N> {
    #[inline(always)]
    fn u8<const AT: usize>(self) -> u8 {
        load!("u8", self, AT, 1) as u8
    }

    #[inline(always)]
    fn u16<const AT: usize>(self) -> u16 {
        u16::from_be(load!("u16", self, AT, 2) as u16)
    }

    #[inline(always)]
    fn u32<const AT: usize>(self) -> u32 {
        u32::from_be(self.four::<AT>())
    }

    #[inline(always)]
    fn four<const AT: usize>(self) -> u32 {
        load!("u32", self, AT, 4) as u32
    }

    #[inline(always)]
    fn eight<const AT: usize>(self) -> u64 {
        load!("u64", self, AT, 8)
    }
}
