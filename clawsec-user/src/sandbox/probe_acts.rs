//! The longer probes: calls with structures, and bombs that stop at a bound.
//!
//! Invariant: a bomb takes no more than a limit and a little above it, and gives it back.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::probe_calls::{Outcome, address, call, room};
use super::probe_inside::Inside;

pub(super) fn handle() -> Outcome {
    // struct file_handle: room for 128 bytes, then its kind, then the bytes.
    let mut file = [0_u32; 2 + 32];
    file[0] = 128;
    let mut mount_id = 0_i32;
    let here = address(b".\0");
    let named = call(
        libc::SYS_name_to_handle_at,
        &[
            i64::from(libc::AT_FDCWD),
            here,
            room(&mut file),
            room(&mut mount_id),
            0,
        ],
    );
    if let Err(error) = named {
        return Outcome::Blocked(format!("name_to_handle_at: {error}"));
    }
    let opened = call(
        libc::SYS_open_by_handle_at,
        &[i64::from(libc::AT_FDCWD), address(&file), 0],
    );
    Outcome::of(opened)
}

pub(super) fn setns() -> Outcome {
    let Ok(namespace) = File::open("/proc/self/ns/uts") else {
        return Outcome::Blocked("its namespace cannot be opened".into());
    };
    let number = i64::from(std::os::fd::AsRawFd::as_raw_fd(&namespace));
    Outcome::of(call(libc::SYS_setns, &[number, 0]))
}

/// One's own, which every process may read where the call is let through.
pub(super) fn memory_of_process() -> Outcome {
    let (from, mut to) = (7_u64, 0_u64);
    let local = [room(&mut to), 8];
    let remote = [address(&from), 8];
    let own = i64::from(std::process::id());
    Outcome::of(call(
        libc::SYS_process_vm_readv,
        &[own, address(&local), 1, address(&remote), 1, 0],
    ))
}

pub(super) fn bpf() -> Outcome {
    // union bpf_attr of BPF_MAP_CREATE: an array of one number.
    let mut attributes = [0_u32; 32];
    attributes[..4].copy_from_slice(&[2, 4, 4, 1]);
    Outcome::of(call(libc::SYS_bpf, &[0, address(&attributes), 128]))
}

pub(super) fn perf() -> Outcome {
    // struct perf_event_attr: a software event, the CPU clock, of this process on any CPU.
    let mut attributes = [0_u32; 32];
    attributes[..2].copy_from_slice(&[1, 128]);
    Outcome::of(call(
        libc::SYS_perf_event_open,
        &[address(&attributes), 0, -1, -1, 0],
    ))
}

pub(super) fn memory(bytes: u64) -> Outcome {
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    for _ in 0..bytes.div_ceil(BLOCK as u64) {
        let mut block: Vec<u8> = Vec::new();
        if block.try_reserve_exact(BLOCK).is_err() {
            return Outcome::Blocked(format!("after {} MiB", blocks.len()));
        }
        block.resize(BLOCK, 1);
        blocks.push(block);
    }
    let sum: usize = blocks.iter().map(Vec::len).sum();
    Outcome::Open(format!("{} MiB are taken", sum >> 20))
}

/// Fills what the tool may write to, by files that hold their blocks.
pub(super) fn files(asked: &Inside) -> Outcome {
    let folder = PathBuf::from(format!("/tmp/clawsec-probe-{}", std::process::id()));
    let count = asked.memory_bytes.div_ceil(FILE) + 8;
    let filled = fs::create_dir(&folder).and_then(|()| {
        (0..count).try_for_each(|index| {
            let file = File::create(folder.join(index.to_string()))?;
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, FILE)
                .map_err(std::io::Error::from)
        })
    });
    fs::remove_dir_all(&folder).ok();
    match filled {
        Ok(()) => Outcome::Open(format!("{} MiB are taken", (count * FILE) >> 20)),
        Err(error) => Outcome::Blocked(error.to_string()),
    }
}

/// Twice what may be kept; who reads it judges.
pub(super) fn output(asked: &Inside) -> Outcome {
    let block = [b'x'; 4096];
    for _ in 0..=(asked.output_bytes * 2).div_ceil(4096) {
        if let Err(error) = std::io::stdout().write_all(&block) {
            return Outcome::Blocked(error.to_string());
        }
    }
    Outcome::Open("all was written".into())
}

/// Past its limit, polite signals ignored; who waits for it judges.
pub(super) fn wall_clock() -> Outcome {
    nix::sys::signal::SigSet::all().thread_block().ok();
    std::thread::sleep(WALL);
    Outcome::Open(format!("it ran for {WALL:?}"))
}

const BLOCK: usize = 1 << 20;
const FILE: u64 = 64 << 20;
pub(super) const WALL: Duration = Duration::from_secs(4);
