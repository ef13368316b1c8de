//! The benchmark's own programs: a floor, a source changer, prefix structures, and a generator.
//!
//! None of it is part of the daemon. Each does as little as it can, since its cost is subtracted.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[expect(
    clippy::needless_pass_by_value,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "entry points are given their context by value; some bits of many are meant"
)]
mod bpf {
    use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
    use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
    use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_redirect};
    use aya_ebpf::macros::{map, xdp};
    use aya_ebpf::maps::lpm_trie::Key;
    use aya_ebpf::maps::{Array, HashMap, LpmTrie, ProgramArray};
    use aya_ebpf::programs::XdpContext;
    use clawsec_common::abi::MAX_NODES;
    use clawsec_common::tree::{self, Nodes, ROOT4, ROOT6, TreeNode};

    const SOURCES_MASK: u32 = 65_535;
    const V4_SOURCE: usize = 14 + 12;
    const V6_SOURCE: usize = 14 + 8;

    /// Sources to choose from, a cache line of them in each element: what choosing one reads is
    /// taken from the caches that the measured program needs.
    #[map]
    static SOURCES4: Array<[[u8; 4]; 16]> = Array::with_max_entries(4_096, 0);
    #[map]
    static SOURCES6: Array<[[u8; 16]; 4]> = Array::with_max_entries(16_384, 0);
    /// What runs after the source was changed.
    #[map]
    static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);
    /// Where the generator sends.
    #[map]
    static TARGET: Array<u32> = Array::with_max_entries(1, 0);
    /// Nanoseconds from one frame to the next, and when the next is due.
    #[map]
    static PACE: Array<u64> = Array::with_max_entries(1, 0);
    #[map]
    static DUE: Array<u64> = Array::with_max_entries(1, 0);
    #[map]
    static TRIE4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(131_072, BPF_F_NO_PREALLOC);
    #[map]
    static TRIE6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(131_072, BPF_F_NO_PREALLOC);

    /// clawsec's own structure, one slot of it.
    #[map]
    static NODES: Array<TreeNode> = Array::with_max_entries(MAX_NODES, 0);
    /// Prefixes by length and network: the other structure that is made of the kernel's own maps.
    #[map]
    static HASH4: HashMap<u64, u32> = HashMap::with_max_entries(131_072, 0);
    #[map]
    static HASH6: HashMap<[u64; 3], u32> = HashMap::with_max_entries(131_072, 0);
    /// The lengths that occur, the longest first, and then zeros.
    #[map]
    static LENGTHS: Array<[u8; 16]> = Array::with_max_entries(2, 0);

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
    fn random_index() -> u32 {
        // SAFETY: takes no argument.
        unsafe { bpf_get_prandom_u32() & SOURCES_MASK }
    }

    /// A random source, then the program in `NEXT`.
    #[xdp(frags)]
    pub(crate) fn bench_random4(ctx: XdpContext) -> u32 {
        let index = random_index();
        let line = SOURCES4.get(index >> 4);
        let source = line.and_then(|line| line.get((index & 15) as usize));
        if let (Some(place), Some(source)) = (at::<4>(&ctx, V4_SOURCE), source) {
            // SAFETY: bounds were compared by `at`.
            unsafe { place.write_unaligned(*source) };
        }
        // SAFETY: the program in NEXT is of this type; a missing one is an error that goes on.
        unsafe { NEXT.tail_call(&ctx, 0) };
        XDP_PASS
    }

    #[xdp(frags)]
    pub(crate) fn bench_random6(ctx: XdpContext) -> u32 {
        let index = random_index();
        let line = SOURCES6.get(index >> 2);
        let source = line.and_then(|line| line.get((index & 3) as usize));
        if let (Some(place), Some(source)) = (at::<16>(&ctx, V6_SOURCE), source) {
            // SAFETY: bounds were compared by `at`.
            unsafe { place.write_unaligned(*source) };
        }
        // SAFETY: the program in NEXT is of this type; a missing one is an error that goes on.
        unsafe { NEXT.tail_call(&ctx, 0) };
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

    /// The least that a receiver of floods can do.
    #[xdp(frags)]
    pub(crate) fn bench_drop(_ctx: XdpContext) -> u32 {
        XDP_DROP
    }

    struct Slot;

    impl Nodes for Slot {
        #[inline(always)]
        fn node(&self, index: u32) -> Option<&TreeNode> {
            NODES.get(index)
        }

        #[inline(always)]
        fn opaque(&self, mut number: u64) -> u64 {
            // SAFETY: moves a register to itself.
            unsafe {
                core::arch::asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack, preserves_flags));
            }
            number
        }
    }

    /// clawsec's structure and nothing else.
    #[xdp(frags)]
    pub(crate) fn bench_table4(ctx: XdpContext) -> u32 {
        let Some(place) = at::<4>(&ctx, V4_SOURCE) else {
            return XDP_PASS;
        };
        // SAFETY: bounds were compared by `at`.
        let address = u32::from_be_bytes(unsafe { place.read_unaligned() });
        tree::find(&Slot, ROOT4, u64::from(address), 0).map_or(XDP_DROP, |_| XDP_PASS)
    }

    #[xdp(frags)]
    pub(crate) fn bench_table6(ctx: XdpContext) -> u32 {
        let Some(place) = at::<16>(&ctx, V6_SOURCE) else {
            return XDP_PASS;
        };
        // SAFETY: bounds were compared by `at`.
        let address = u128::from_be_bytes(unsafe { place.read_unaligned() });
        let found = tree::find(&Slot, ROOT6, (address >> 64) as u64, address as u64);
        found.map_or(XDP_DROP, |_| XDP_PASS)
    }

    /// One hash lookup for each length that occurs.
    #[xdp(frags)]
    pub(crate) fn bench_hash4(ctx: XdpContext) -> u32 {
        let Some(place) = at::<4>(&ctx, V4_SOURCE) else {
            return XDP_PASS;
        };
        // SAFETY: bounds were compared by `at`.
        let address = u64::from(u32::from_be_bytes(unsafe { place.read_unaligned() }));
        let Some(lengths) = LENGTHS.get(0) else {
            return XDP_DROP;
        };
        for length in lengths {
            if *length == 0 {
                break;
            }
            let length = u64::from(*length & 63);
            let network = address & (0xffff_ffff << (32 - length));
            // SAFETY: the value is a number that nobody changes.
            if unsafe { HASH4.get(length << 32 | network) }.is_some() {
                return XDP_PASS;
            }
        }
        XDP_DROP
    }

    #[xdp(frags)]
    pub(crate) fn bench_hash6(ctx: XdpContext) -> u32 {
        let Some(place) = at::<16>(&ctx, V6_SOURCE) else {
            return XDP_PASS;
        };
        // SAFETY: bounds were compared by `at`.
        let address = u128::from_be_bytes(unsafe { place.read_unaligned() });
        let (high, low) = ((address >> 64) as u64, address as u64);
        let Some(lengths) = LENGTHS.get(1) else {
            return XDP_DROP;
        };
        for length in lengths {
            if *length == 0 {
                break;
            }
            let length = u64::from(*length);
            let key = if length <= 64 {
                [length, high & (u64::MAX << ((64 - length) & 63)), 0]
            } else {
                [length, high, low & (u64::MAX << ((128 - length) & 63))]
            };
            // SAFETY: the value is a number that nobody changes.
            if unsafe { HASH6.get(key) }.is_some() {
                return XDP_PASS;
            }
        }
        XDP_DROP
    }

    /// For live frames: sends each to the interface in `TARGET`.
    #[xdp(frags)]
    pub(crate) fn bench_send(_ctx: XdpContext) -> u32 {
        let target = TARGET.get(0).copied().unwrap_or_default();
        // SAFETY: plain numbers.
        unsafe { bpf_redirect(target, 0) as u32 }
    }

    /// As `bench_send`, and no earlier than `PACE` lets it.
    #[xdp(frags)]
    pub(crate) fn bench_paced(_ctx: XdpContext) -> u32 {
        if let (Some(gap), Some(due)) = (PACE.get(0), DUE.get_ptr_mut(0)) {
            // SAFETY: takes no argument; one generator runs at a time.
            let (mut now, planned) = unsafe { (bpf_ktime_get_ns(), due.read()) };
            // Five microseconds and more.
            for _ in 0..256 {
                if now >= planned {
                    break;
                }
                // SAFETY: takes no argument.
                now = unsafe { bpf_ktime_get_ns() };
            }
            // SAFETY: the map's own element; what was missed is not made up for.
            unsafe { due.write(now.max(planned) + *gap) };
        }
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
