//! The packet as the kernel's stack holds it, at the tcx hook.
//!
//! Two things differ from XDP. A driver may leave everything behind the Ethernet header outside
//! the linear part, so that bytes are read by a helper, which knows where they lie. And the
//! kernel has already taken the outermost VLAN tag out of the frame: it is put back here, so that
//! both hooks judge one frame alike, the number of its tags included.

#![expect(
    clippy::cast_possible_truncation,
    reason = "header lengths and masked offsets, far below 32 bits"
)]

use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use clawsec_ebpf::packet::Cursor;

/// The tag that the stack holds apart.
#[derive(Clone, Copy)]
enum Tag {
    /// There is none, or it has been read.
    None,
    /// Not reached yet: it stands behind the two addresses.
    Ahead,
    /// The Ethernet header was read with the tag's type; the tag's four bytes come next, and
    /// these two are the type that stood in the frame.
    Next([u8; 2]),
}

#[derive(Clone, Copy)]
pub(crate) struct SkbCursor<'a> {
    ctx: &'a TcContext,
    /// Offset in the frame as the stack holds it, without the tag.
    at: u32,
    tag: Tag,
}

impl<'a> SkbCursor<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a TcContext) -> Self {
        // SAFETY: the context that the kernel gave to this run.
        let tagged = unsafe { (*ctx.skb.skb).vlan_present } != 0;
        Self {
            ctx,
            at: 0,
            tag: if tagged { Tag::Ahead } else { Tag::None },
        }
    }

    #[inline(always)]
    fn load<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: writes `N` bytes to this stack, or none and an error where the frame is shorter.
        let result = unsafe {
            bpf_skb_load_bytes(
                self.ctx.skb.skb.cast(),
                self.at,
                bytes.as_mut_ptr().cast(),
                N as u32,
            )
        };
        if result != 0 {
            return None;
        }
        self.at += N as u32;
        Some(bytes)
    }
}

impl Cursor for SkbCursor<'_> {
    type Header<const N: usize> = [u8; N];

    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        /// Either kind of tag is stepped over alike.
        const TAG_TYPE_BE: [u8; 2] = [0x81, 0x00];
        match self.tag {
            Tag::Ahead if N == 14 => {
                let mut header = self.load::<N>()?;
                if let Some([high, low]) = header.last_chunk_mut::<2>() {
                    self.tag = Tag::Next([*high, *low]);
                    [*high, *low] = TAG_TYPE_BE;
                }
                Some(header)
            }
            Tag::Next([high, low]) if N == 4 => {
                self.tag = Tag::None;
                let mut tag = [0; N];
                // The tag's own number decides nothing.
                if let Some(kind) = tag.last_chunk_mut::<2>() {
                    *kind = [high, low];
                }
                Some(tag)
            }
            _ => self.load(),
        }
    }

    #[inline(always)]
    fn skip(&mut self, bytes: usize) {
        self.at += (bytes & 0xfff) as u32;
    }
}
