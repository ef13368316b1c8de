//! The loopback device of a network namespace of our own.
//!
//! Invariant: called by single-threaded launchers inside a namespace they made, never by the
//! daemon.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::net::{AddressFamily, SocketType, socket};

use super::step::{Step, step};

/// As in every container: programs that talk to themselves over loopback work.
pub(super) fn loopback_up() -> Step<()> {
    let mut request = request("lo")?;
    // IFF_UP; the kernel keeps the flags that are its own.
    request.ifr_ifru.ifru_flags = 1;
    apply(libc::SIOCSIFFLAGS, &request, "bring loopback up")
}

/// Gives loopback one more address, under a label such as `lo:1`.
pub(super) fn loopback_also(label: &str, address: Ipv4Addr) -> Step<()> {
    let mut request = request(label)?;
    let [a, b, c, d] = address.octets().map(u8::cast_signed);
    // A sockaddr_in: two bytes of port, four of address in network order.
    let mut data = [0; 14];
    data[2..6].copy_from_slice(&[a, b, c, d]);
    request.ifr_ifru.ifru_addr = libc::sockaddr {
        sa_family: INET,
        sa_data: data,
    };
    apply(libc::SIOCSIFADDR, &request, "give loopback an address")
}

/// `AF_INET`, as the field's type has it.
const INET: libc::sa_family_t = 2;

fn request(name: &str) -> Step<libc::ifreq> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(format!("the device name {name} is too long"));
    }
    // SAFETY: an ifreq of zeros is a valid one: its fields are integers and arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

fn apply(operation: libc::Ioctl, request: &libc::ifreq, name: &str) -> Step<()> {
    let socket: OwnedFd =
        socket(AddressFamily::INET, SocketType::DGRAM, None).map_err(step("open a socket"))?;
    // SAFETY: both operations read one ifreq, and get a pointer to a whole one that outlives them.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), operation, std::ptr::from_ref(request)) };
    if result == 0 {
        Ok(())
    } else {
        Err(step(name)(std::io::Error::last_os_error()))
    }
}
