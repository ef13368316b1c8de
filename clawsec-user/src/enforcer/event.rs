//! Packet events: one perf buffer for each online CPU, of this daemon's program only.
//!
//! A lost event loses nothing but its moment: each carries the running total of its source and
//! reason. Losses are counted and handed out all the same.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::Poll;

use aya::Ebpf;
use aya::maps::perf::{PerfBufferError, PerfEvent};
use aya::maps::{MapData, PerfEventArray, perf::PerfEventArrayBuffer};
use aya::util::online_cpus;
use clawsec_common::abi::{PacketRecord, SourceKey, name};
use clawsec_common::reason::Reason;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::bans::address;
use super::error::EnforcerError;
use super::figures::Effect;
use super::load;

/// Pages of one CPU's buffer, a power of two: 64 KiB hold about 650 events.
const BUFFER_PAGES: usize = 16;

/// One drop, standing for those since the event before of the same source and reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketEvent {
    pub reason: &'static str,
    pub effect: Effect,
    /// The packet's own source; `None` where it ended before one.
    pub source: Option<IpAddr>,
    /// The source that `total` counts: the same, or for IPv6 the first address of its /64.
    pub counted_as: Option<IpAddr>,
    /// 0 where the packet ended before its ports.
    pub source_port: u16,
    pub dest_port: u16,
    /// `tcp`, `udp`, or `None`.
    pub protocol: Option<&'static str>,
    pub ifindex: u32,
    /// `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Of the policy that decided.
    pub generation: u64,
    /// Drops of this source and reason since `created_ns`, this one included.
    pub total: u64,
    pub created_ns: u64,
    /// Whose total it is: each CPU counts for itself.
    pub cpu: u32,
}

/// What one reading gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PacketBatch {
    pub events: Vec<PacketEvent>,
    /// Events that found a buffer full, or were not of this ABI.
    pub lost: u64,
}

/// The events of all CPUs.
#[derive(Debug)]
pub struct PacketEvents {
    buffers: Vec<AsyncFd<Buffer>>,
}

impl PacketEvents {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, EnforcerError> {
        // `AsyncFd::new` panics without a runtime.
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(EnforcerError::NoRuntime);
        }
        if ebpf.map(name::EVENTS).is_none() {
            return Err(EnforcerError::EventsTaken);
        }
        let mut events: PerfEventArray<MapData> = load::take(ebpf, name::EVENTS)?;
        let cpus = online_cpus().map_err(|(_, source)| EnforcerError::Cpus { source })?;
        let buffers = cpus
            .into_iter()
            .map(|cpu| {
                let buffer = events.open(cpu, Some(BUFFER_PAGES)).map_err(io_error);
                buffer
                    .and_then(|buffer| watch(Buffer(buffer)))
                    .map_err(|source| EnforcerError::EventBuffer { cpu, source })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { buffers })
    }

    /// Waits until a buffer has something, and gives all that it holds.
    ///
    /// # Cancel safety
    /// Nothing is read before the future is ready: a dropped one loses nothing.
    pub async fn next(&mut self) -> io::Result<PacketBatch> {
        std::future::poll_fn(|context| {
            for buffer in &mut self.buffers {
                while let Poll::Ready(guard) = buffer.poll_read_ready_mut(context) {
                    let mut guard = guard?;
                    let batch = guard.get_inner_mut().drain();
                    guard.clear_ready();
                    if !batch.events.is_empty() || batch.lost != 0 {
                        return Poll::Ready(Ok(batch));
                    }
                }
            }
            Poll::Pending
        })
        .await
    }

    /// What the buffers hold now, without waiting: for the last reading before an end.
    pub fn drain(&mut self) -> PacketBatch {
        let mut all = PacketBatch::default();
        for buffer in &mut self.buffers {
            let batch = buffer.get_mut().drain();
            all.events.extend(batch.events);
            all.lost += batch.lost;
        }
        all
    }
}

/// One CPU's buffer.
struct Buffer(PerfEventArrayBuffer<MapData>);

impl Buffer {
    fn drain(&mut self) -> PacketBatch {
        self.0.fold(PacketBatch::default(), |mut batch, event| {
            match event {
                PerfEvent::Sample { head, tail } => match decode(head, tail) {
                    Some(event) => batch.events.push(event),
                    None => batch.lost += 1,
                },
                PerfEvent::Lost { count } => batch.lost = batch.lost.saturating_add(count),
            }
            batch
        })
    }
}

impl std::os::fd::AsRawFd for Buffer {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Buffer")
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for types that could give another descriptor later; a \
              `Buffer` owns the one it gives, and gives it always"
)]
fn watch(buffer: Buffer) -> io::Result<AsyncFd<Buffer>> {
    AsyncFd::with_interest(buffer, Interest::READABLE)
}

/// A sample lies in two parts where the buffer wraps; the kernel pads its end.
fn decode(head: &[u8], tail: &[u8]) -> Option<PacketEvent> {
    let mut bytes = [0_u8; size_of::<PacketRecord>()];
    for (to, from) in bytes.iter_mut().zip(head.iter().chain(tail)) {
        *to = *from;
    }
    (head.len() + tail.len() >= bytes.len())
        .then(|| PacketRecord::from_bytes(&bytes))?
        .try_into()
        .ok()
}

impl TryFrom<PacketRecord> for PacketEvent {
    type Error = u8;

    /// Fails on a reason of another ABI, with its number.
    fn try_from(record: PacketRecord) -> Result<Self, u8> {
        let reason = Reason::from_number(record.reason).ok_or(record.reason)?;
        let source = address(SourceKey::of_bytes(record.source_be));
        Ok(Self {
            reason: reason.as_str(),
            effect: Effect::of_drop(record.observed),
            source,
            counted_as: source.map(|source| match source {
                IpAddr::V4(_) => source,
                IpAddr::V6(v6) => IpAddr::from(SourceKey::v6(v6.octets()).address_be()),
            }),
            source_port: u16::from_be_bytes(record.source_port_be),
            dest_port: u16::from_be_bytes(record.dest_port_be),
            protocol: match record.protocol {
                6 => Some("tcp"),
                17 => Some("udp"),
                _ => None,
            },
            ifindex: record.ifindex,
            at_ns: record.at_ns,
            generation: record.generation,
            total: record.total,
            created_ns: record.created_ns,
            cpu: record.cpu,
        })
    }
}

impl PacketEvent {
    /// The packet's source with its port.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.source
            .map(|source| SocketAddr::new(source, self.source_port))
    }
}

fn io_error(error: PerfBufferError) -> io::Error {
    match error {
        PerfBufferError::OpenError { io_error }
        | PerfBufferError::MMapError { io_error }
        | PerfBufferError::PerfEventEnableError { io_error }
        | PerfBufferError::IOError(io_error) => io_error,
        other @ PerfBufferError::InvalidPageCount { .. } => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_a_record_that_wraps() {
        let mut bytes = [0_u8; 80];
        bytes[0..8].copy_from_slice(&9_u64.to_ne_bytes());
        bytes[8..16].copy_from_slice(&3_u64.to_ne_bytes());
        bytes[16..24].copy_from_slice(&41_u64.to_ne_bytes());
        bytes[24..32].copy_from_slice(&8_u64.to_ne_bytes());
        bytes[32..48].copy_from_slice(
            &"2001:db8::1:2:3:4"
                .parse::<std::net::Ipv6Addr>()
                .unwrap()
                .octets(),
        );
        bytes[48..52].copy_from_slice(&2_u32.to_ne_bytes());
        bytes[52..54].copy_from_slice(&40_000_u16.to_be_bytes());
        bytes[54..56].copy_from_slice(&8443_u16.to_be_bytes());
        bytes[56] = Reason::RateLimited as u8;
        bytes[57] = 1;
        bytes[58] = 6;
        bytes[59] = 6;
        bytes[60..64].copy_from_slice(&3_u32.to_ne_bytes());
        let event = decode(&bytes[..33], &bytes[33..]).unwrap();
        assert_eq!(
            event,
            PacketEvent {
                reason: "rate_limited",
                effect: Effect::WouldDrop,
                source: Some("2001:db8::1:2:3:4".parse().unwrap()),
                counted_as: Some("2001:db8::".parse().unwrap()),
                source_port: 40_000,
                dest_port: 8443,
                protocol: Some("tcp"),
                ifindex: 2,
                at_ns: 9,
                generation: 3,
                total: 41,
                created_ns: 8,
                cpu: 3,
            }
        );
        assert_eq!(decode(&bytes[..40], &[]), None, "cut short");
        bytes[56] = 200;
        assert_eq!(decode(&bytes, &[]), None, "a reason of another ABI");
    }
}
