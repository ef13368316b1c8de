//! What a hook hands to its program: a frame in the driver's memory, or the stack's own buffer.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use aya_ebpf::programs::{TcContext, XdpContext};

/// What counters and events ask of either hook.
pub(crate) trait Received: EbpfContext {
    /// From the Ethernet header to the frame's end.
    fn frame_bytes(&self) -> u64;
    fn ifindex(&self) -> u32;
}

impl Received for XdpContext {
    #[inline(always)]
    fn frame_bytes(&self) -> u64 {
        // SAFETY: the context that the kernel gave to this run.
        unsafe { bpf_xdp_get_buff_len(self.ctx) }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernel's own field is 32 bits"
    )]
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ingress_ifindex() as u32
    }
}

impl Received for TcContext {
    /// Less the tag that the kernel took out; several segments where GRO has merged them.
    #[inline(always)]
    fn frame_bytes(&self) -> u64 {
        u64::from(self.len())
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context that the kernel gave to this run.
        unsafe { (*self.skb.skb).ifindex }
    }
}
