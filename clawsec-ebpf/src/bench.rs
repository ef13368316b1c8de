//! The benchmark's own programs: a floor, a source changer, the kernel's trie, and a generator.
//!
//! None of it is part of the daemon. Each does as little as it can, since its cost is subtracted.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod bpf {
    use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
    use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
    use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_redirect};
    use aya_ebpf::macros::{map, xdp};
    use aya_ebpf::maps::lpm_trie::Key;
    use aya_ebpf::maps::{Array, LpmTrie, ProgramArray};
    use aya_ebpf::programs::XdpContext;

    const SOURCES_MASK: u32 = 65_535;
    const V4_SOURCE: usize = 14 + 12;
    const V6_SOURCE: usize = 14 + 8;

    /// Sources to choose from; IPv4 in the first four bytes.
    #[map]
    static SOURCES: Array<[u8; 16]> = Array::with_max_entries(65_536, 0);
    /// What runs after the source was changed.
    #[map]
    static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);
    /// Where the generator sends.
    #[map]
    static TARGET: Array<u32> = Array::with_max_entries(1, 0);
    #[map]
    static TRIE4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(131_072, BPF_F_NO_PREALLOC);
    #[map]
    static TRIE6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(131_072, BPF_F_NO_PREALLOC);

    #[xdp(frags)]
    pub(crate) fn bench_floor(_ctx: XdpContext) -> u32 {
        XDP_PASS
    }

    #[inline(always)]
    fn at<const N: usize>(ctx: &XdpContext, offset: usize) -> Option<*mut [u8; N]> {
        let start = ctx.data() + offset;
        (start + N <= ctx.data_end()).then_some(start as *mut [u8; N])
    }

    #[inline(always)]
    fn source() -> Option<[u8; 16]> {
        // SAFETY: takes no argument.
        let index = unsafe { bpf_get_prandom_u32() } & SOURCES_MASK;
        SOURCES.get(index).copied()
    }

    /// A random source, then the program in `NEXT`.
    #[xdp(frags)]
    pub(crate) fn bench_random4(ctx: XdpContext) -> u32 {
        if let (Some(place), Some([a, b, c, d, ..])) = (at::<4>(&ctx, V4_SOURCE), source()) {
            // SAFETY: bounds were compared by `at`.
            unsafe { place.write_unaligned([a, b, c, d]) };
        }
        // SAFETY: the program in NEXT is of this type; a missing one is an error that goes on.
        let _missing = unsafe { NEXT.tail_call(&ctx, 0) };
        XDP_PASS
    }

    #[xdp(frags)]
    pub(crate) fn bench_random6(ctx: XdpContext) -> u32 {
        if let (Some(place), Some(source)) = (at::<16>(&ctx, V6_SOURCE), source()) {
            // SAFETY: bounds were compared by `at`.
            unsafe { place.write_unaligned(source) };
        }
        // SAFETY: the program in NEXT is of this type; a missing one is an error that goes on.
        let _missing = unsafe { NEXT.tail_call(&ctx, 0) };
        XDP_PASS
    }

    /// The kernel's trie and nothing else.
    #[xdp(frags)]
    pub(crate) fn bench_trie4(ctx: XdpContext) -> u32 {
        let Some(place) = at::<4>(&ctx, V4_SOURCE) else {
            return XDP_PASS;
        };
        // SAFETY: bounds were compared by `at`.
        let key = Key::new(32, unsafe { place.read_unaligned() });
        TRIE4.get(key).map_or(XDP_DROP, |_| XDP_PASS)
    }

    #[xdp(frags)]
    pub(crate) fn bench_trie6(ctx: XdpContext) -> u32 {
        let Some(place) = at::<16>(&ctx, V6_SOURCE) else {
            return XDP_PASS;
        };
        // SAFETY: bounds were compared by `at`.
        let key = Key::new(128, unsafe { place.read_unaligned() });
        TRIE6.get(key).map_or(XDP_DROP, |_| XDP_PASS)
    }

    /// For live frames: sends each to the interface in `TARGET`.
    #[xdp(frags)]
    pub(crate) fn bench_send(_ctx: XdpContext) -> u32 {
        let target = TARGET.get(0).copied().unwrap_or_default();
        // SAFETY: plain numbers.
        unsafe { bpf_redirect(target, 0) as u32 }
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}
