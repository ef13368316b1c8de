//! Entry points. Everything that decides is in the library.

#![expect(
    clippy::needless_pass_by_value,
    reason = "an entry point is given its context by the macro, by value"
)]

mod atomic;
mod cursor;
mod maps;
mod received;
mod side;
mod skb;

use aya_ebpf::bindings::tcx_action_base::{TCX_DROP, TCX_NEXT};
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use clawsec_common::judged;
use clawsec_common::reason::Verdict;
use clawsec_ebpf::decide::decide;

use self::cursor::PacketCursor;
use self::side::{Clock, KernelClock, MapKernel, SetClock};
use self::skb::SkbCursor;

/// Production: judged by the kernel's clock. `frags` (kernel 5.18) lets it attach where frames
/// are larger than a page; headers are in the first part always.
#[xdp(frags)]
pub(crate) fn clawsec_xdp(ctx: XdpContext) -> u32 {
    run(&MapKernel::new(&ctx, KernelClock))
}

/// Where the driver takes no XDP program: the same decision at the tcx hook (kernel 6.6), in the
/// stack and before everything else in it. What passes goes on to the next program there.
#[classifier]
pub(crate) fn clawsec_tcx(ctx: TcContext) -> i32 {
    let kernel = MapKernel::new(&ctx, KernelClock);
    match decide(SkbCursor::new(&ctx), &kernel) {
        Verdict::Pass => TCX_NEXT,
        Verdict::Drop => TCX_DROP,
    }
}

/// The same decision by a clock that the caller sets, and the counter in what it returns: tests,
/// `explain` and `replay`. Run, never attached.
#[xdp(frags)]
pub(crate) fn clawsec_xdp_clocked(ctx: XdpContext) -> u32 {
    let kernel = MapKernel::new(&ctx, SetClock);
    let action = run(&kernel);
    judged::encode(action, kernel.counted())
}

#[inline(always)]
fn run<K: Clock>(kernel: &MapKernel<'_, XdpContext, K>) -> u32 {
    match decide(PacketCursor::new(kernel.ctx()), kernel) {
        Verdict::Pass => XDP_PASS,
        Verdict::Drop => XDP_DROP,
    }
}

/// A panic that survives optimisation is an endless loop, which the verifier rejects: no object
/// that could panic is ever loaded.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// `bpf_perf_event_output` and other helpers are for programs under a GPL-compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
