//! The two things that aya 0.14 cannot do with maps: mapping an array into memory, and batches.
//!
//! Invariant: a mapping lives no longer than one call, and only the daemon that holds the pin
//! folder's lock writes; the program reads the slot in force, never the one that is written.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr;

use aya::Pod;
use clawsec_common::tree::TreeNode;

/// `enum bpf_cmd` of `linux/bpf.h`; both since kernel 5.6.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// Elements that one call reads; more than any bucket of a hash map holds.
const BATCH: usize = 65_536;

/// Writes nodes into a mapped array, from element `first` on, which begins a page.
pub(super) fn write_nodes(map: BorrowedFd<'_>, first: u32, nodes: &[TreeNode]) -> io::Result<()> {
    let mapping = Mapping::new(map, first, nodes.len(), libc::PROT_READ | libc::PROT_WRITE)?;
    // SAFETY: the mapping is writable, is of as many nodes, and is nobody else's memory; the
    // program does not read this slot (`slot::put_in_force` has waited for it).
    unsafe { ptr::copy_nonoverlapping(nodes.as_ptr(), mapping.nodes, nodes.len()) };
    // The flip that follows is a system call; on arm64 that alone orders no stores.
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Ok(())
}

/// Whether a mapped array holds these nodes from element `first` on.
pub(super) fn holds_nodes(map: BorrowedFd<'_>, first: u32, nodes: &[TreeNode]) -> io::Result<bool> {
    let mapping = Mapping::new(map, first, nodes.len(), libc::PROT_READ)?;
    // SAFETY: the mapping is readable, of as many nodes, of which every bit pattern is one; no
    // one writes meanwhile.
    let held = unsafe { std::slice::from_raw_parts(mapping.nodes, nodes.len()) };
    Ok(held == nodes)
}

/// Writes all pairs; on an error, how many were written before it.
pub(super) fn update_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    pairs: &[(K, V)],
) -> Result<(), (usize, io::Error)> {
    let keys: Vec<K> = pairs.iter().map(|pair| pair.0).collect();
    let values: Vec<V> = pairs.iter().map(|pair| pair.1).collect();
    let mut attributes = Attributes {
        keys: address(keys.as_ptr()),
        values: address(values.as_ptr()),
        count: u32::try_from(pairs.len()).unwrap_or(u32::MAX),
        ..Attributes::of(map)
    };
    match attributes.call(BPF_MAP_UPDATE_BATCH) {
        Ok(()) => Ok(()),
        // An attribute that the kernel did not look at still holds the whole count.
        Err(error) if attributes.count as usize >= pairs.len() => Err((0, error)),
        Err(error) => Err((attributes.count as usize, error)),
    }
}

/// Reads a whole hash map.
pub(super) fn read_batch<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut held = Vec::new();
    let (key_bytes, value_bytes) = (bytes_of::<K>(), bytes_of::<V>());
    each_batch(map, key_bytes, value_bytes, |batch| {
        let keys = batch.keys.chunks_exact(size_of::<K>()).map(pod::<K>);
        let values = batch.values.chunks_exact(size_of::<V>()).map(pod::<V>);
        held.extend(keys.zip(values));
        Ok(())
    })?;
    Ok(held)
}

/// Keys and values of a map of any kind that has batches (array, hash, trie: kernel 5.13).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Elements {
    keys: Vec<u8>,
    values: Vec<u8>,
    count: u32,
}

/// Reads a whole map.
pub(super) fn read(map: BorrowedFd<'_>, key_bytes: u32, value_bytes: u32) -> io::Result<Elements> {
    let mut all = Elements {
        keys: Vec::new(),
        values: Vec::new(),
        count: 0,
    };
    each_batch(map, key_bytes, value_bytes, |batch| {
        all.keys.extend(&batch.keys);
        all.values.extend(&batch.values);
        all.count += batch.count;
        Ok(())
    })?;
    Ok(all)
}

/// Copies a whole map into another of the same layout.
pub(super) fn copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    key_bytes: u32,
    value_bytes: u32,
) -> io::Result<()> {
    each_batch(from, key_bytes, value_bytes, |batch| {
        let mut attributes = Attributes {
            keys: address(batch.keys.as_ptr()),
            values: address(batch.values.as_ptr()),
            count: batch.count,
            ..Attributes::of(to)
        };
        attributes.call(BPF_MAP_UPDATE_BATCH)
    })
}

/// Reads a map in batches; an element that changes under the reading may come twice.
fn each_batch(
    map: BorrowedFd<'_>,
    key_bytes: u32,
    value_bytes: u32,
    mut take: impl FnMut(&Elements) -> io::Result<()>,
) -> io::Result<()> {
    // A trie's place is a key of its own.
    let mut place = vec![0_u8; key_bytes.max(4) as usize];
    let mut begun = false;
    loop {
        let mut keys = vec![0; BATCH * key_bytes as usize];
        let mut values = vec![0; BATCH * value_bytes as usize];
        let mut attributes = Attributes {
            in_batch: if begun { address(place.as_ptr()) } else { 0 },
            out_batch: address(place.as_mut_ptr()),
            keys: address(keys.as_mut_ptr()),
            values: address(values.as_mut_ptr()),
            count: 65_536,
            ..Attributes::of(map)
        };
        let result = attributes.call(BPF_MAP_LOOKUP_BATCH);
        begun = true;
        let ended = match result {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let count = attributes.count;
        keys.truncate(count as usize * key_bytes as usize);
        values.truncate(count as usize * value_bytes as usize);
        if count > 0 {
            take(&Elements {
                keys,
                values,
                count,
            })?;
        }
        if ended {
            return Ok(());
        }
    }
}

/// Part of an array map with `BPF_F_MMAPABLE` (kernel 5.5), in memory.
struct Mapping {
    nodes: *mut TreeNode,
    bytes: usize,
}

impl Mapping {
    fn new(map: BorrowedFd<'_>, first: u32, count: usize, access: i32) -> io::Result<Self> {
        let bytes = count * size_of::<TreeNode>();
        let offset = i64::from(first) * i64::try_from(size_of::<TreeNode>()).unwrap_or(i64::MAX);
        // SAFETY: a new mapping, at an address that the kernel chooses; it checks the bounds.
        let found = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                access,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                offset,
            )
        };
        if found == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            nodes: found.cast(),
            bytes,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped; nothing points into it any more.
        unsafe { libc::munmap(self.nodes.cast(), self.bytes) };
    }
}

/// `union bpf_attr`, the part for batches.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

impl Attributes {
    fn of(map: BorrowedFd<'_>) -> Self {
        Self {
            map_fd: map.as_raw_fd().cast_unsigned(),
            ..Self::default()
        }
    }

    fn call(&mut self, command: libc::c_long) -> io::Result<()> {
        // SAFETY: the attributes are of the size that is said; keys and values point to as many
        // elements of the map's own sizes (`Pod`, checked when it was opened) as `count` says.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                ptr::from_mut(self),
                size_of::<Self>(),
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

fn bytes_of<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

/// A value of as many bytes.
fn pod<T: Pod>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>());
    // SAFETY: as many bytes as were just compared, of which any are a value (`Pod`); the read
    // needs no alignment.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}
