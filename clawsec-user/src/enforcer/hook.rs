//! Which program an interface runs at its XDP and tcx hooks, asked of the kernel.
//!
//! A link's information does not say in which mode it is attached; the interface's does.

use std::io;

use aya::programs::{ProgramError, SchedClassifier, TcAttachType, loaded_programs};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send,
    socket_with, sockopt,
};

use super::advice::Device;
use super::attach::AttachedMode;
use super::error::EnforcerError;

/// What runs at an interface's XDP hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) mode: AttachedMode,
    pub(super) program_id: u32,
}

/// The interface's index in this network namespace.
pub(super) fn index(interface: &str) -> Result<u32, EnforcerError> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .and_then(|socket| netdevice::name_to_index(socket, interface))
    .map_err(|source| EnforcerError::NoInterface {
        interface: interface.to_owned(),
        source: source.into(),
    })
}

/// What runs at the XDP hook; `None` for nothing.
pub(super) fn query(interface: &str, index: u32) -> Result<Option<Hook>, EnforcerError> {
    ask(index)
        .and_then(|answer| {
            parse(&answer).unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::InvalidData)))
        })
        .map_err(|source| EnforcerError::Query {
            interface: interface.to_owned(),
            source,
        })
}

/// The programs at the tcx hook for what comes in, in the order they run, with their names.
///
/// # Errors
/// Before kernel 6.6 there is no such hook.
pub(super) fn query_tcx(interface: &str) -> Result<Vec<(u32, String)>, ProgramError> {
    let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress)?;
    Ok(programs
        .iter()
        .map(|info| {
            (
                info.id(),
                info.name_as_str().unwrap_or("unnamed").to_owned(),
            )
        })
        .collect())
}

/// What advice is made of; what cannot be found out stays empty.
pub(super) fn device(interface: &str, index: u32) -> Device {
    let mut device = ask(index)
        .ok()
        .and_then(|answer| parse_device(&answer))
        .unwrap_or_default();
    // sysfs may be another network namespace's, with another device of this name.
    let sys = std::path::Path::new("/sys/class/net").join(interface);
    let same = std::fs::read_to_string(sys.join("ifindex"))
        .is_ok_and(|text| text.trim().parse() == Ok(index));
    if same && let Ok(driver) = std::fs::read_link(sys.join("device/driver")) {
        device.driver = driver
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
    }
    device
}

/// The name of a loaded program, for messages.
pub(super) fn program_name(id: u32) -> String {
    loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .unwrap_or_else(|| "unnamed".to_owned())
}

/// `linux/rtnetlink.h`, `linux/if_link.h`.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
/// Nested attributes carry flags in the two high bits of their type.
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSGHDR_BYTES: usize = 16;
const IFINFOMSG_BYTES: usize = 16;

/// `RTM_GETLINK`: all that the kernel tells of one interface.
fn ask(index: u32) -> io::Result<Vec<u8>> {
    // Protocol 0 is `NETLINK_ROUTE`.
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let deadline = std::time::Duration::from_secs(5);
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(deadline))?;

    let mut request = Vec::with_capacity(NLMSGHDR_BYTES + IFINFOMSG_BYTES);
    request.extend(32_u32.to_ne_bytes());
    request.extend(RTM_GETLINK.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    // family, padding, type, index, flags, change
    request.extend([0; 4]);
    request.extend(index.to_ne_bytes());
    request.extend([0; 8]);
    send(&socket, &request, SendFlags::empty())?;

    let mut buffer = vec![0_u8; 32 * 1024];
    let (_, length) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
    buffer.truncate(length);
    Ok(buffer)
}

fn parse_device(answer: &[u8]) -> Option<Device> {
    let attributes = answer.get(NLMSGHDR_BYTES + IFINFOMSG_BYTES..)?;
    let number = |kind| {
        let value = attribute(attributes, kind)?.first_chunk()?;
        Some(u32::from_ne_bytes(*value))
    };
    let kind =
        attribute(attributes, IFLA_LINKINFO).and_then(|info| attribute(info, IFLA_INFO_KIND));
    Some(Device {
        driver: kind.map(|kind| {
            String::from_utf8_lossy(kind)
                .trim_end_matches('\0')
                .to_owned()
        }),
        mtu: number(IFLA_MTU)?,
        rx_queues: number(IFLA_NUM_RX_QUEUES).unwrap_or(1),
    })
}

/// `None` for an answer that is cut short.
fn parse(answer: &[u8]) -> Option<io::Result<Option<Hook>>> {
    match u16_at(answer, 4)? {
        RTM_NEWLINK => {}
        NLMSG_ERROR => {
            let errno = i32::from_ne_bytes(*answer.get(16..20)?.first_chunk()?);
            return Some(Err(io::Error::from_raw_os_error(-errno)));
        }
        _ => return None,
    }
    let attributes = answer.get(NLMSGHDR_BYTES + IFINFOMSG_BYTES..)?;
    let Some(xdp) = attribute(attributes, IFLA_XDP) else {
        return Some(Ok(None));
    };
    let mode = match attribute(xdp, IFLA_XDP_ATTACHED).and_then(|value| value.first()) {
        None | Some(0) => return Some(Ok(None)),
        Some(1) => AttachedMode::Native,
        Some(2) => AttachedMode::Generic,
        Some(3) => AttachedMode::Offloaded,
        Some(_) => AttachedMode::Several,
    };
    let id = attribute(xdp, IFLA_XDP_PROG_ID).and_then(|value| value.first_chunk());
    let program_id = id.map_or(0, |id| u32::from_ne_bytes(*id));
    Some(Ok(Some(Hook { mode, program_id })))
}

/// The value of the first attribute of this type.
pub(super) fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let kind = u16_at(attributes, 2)? & NLA_TYPE_MASK;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let value = bytes.get(offset..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, rest: &[u8]) -> Vec<u8> {
        let mut message = vec![0, 0, 0, 0];
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(rest);
        message
    }

    fn link(xdp: &[u8]) -> Vec<u8> {
        let mut rest = vec![0; IFINFOMSG_BYTES];
        // An interface name of 5 bytes, padded, comes first.
        rest.extend([9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0]);
        rest.extend(u16::try_from(4 + xdp.len()).unwrap().to_ne_bytes());
        rest.extend((IFLA_XDP | 0x8000).to_ne_bytes());
        rest.extend(xdp);
        message(RTM_NEWLINK, &rest)
    }

    #[test]
    fn reads_mode_and_program() {
        let native = link(&[5, 0, 2, 0, 1, 0, 0, 0, 8, 0, 4, 0, 77, 0, 0, 0]);
        let hook = parse(&native).unwrap().unwrap();
        assert_eq!(
            hook,
            Some(Hook {
                mode: AttachedMode::Native,
                program_id: 77
            })
        );
        let none = link(&[5, 0, 2, 0, 0, 0, 0, 0]);
        assert_eq!(parse(&none).unwrap().unwrap(), None);
        let refused = message(NLMSG_ERROR, &(-19_i32).to_ne_bytes());
        assert_eq!(
            parse(&refused).unwrap().unwrap_err().raw_os_error(),
            Some(19)
        );
        assert!(parse(&native[..3]).is_none(), "cut short");
    }

    #[test]
    fn loopback_runs_nothing() {
        assert_eq!(query("lo", index("lo").unwrap()).unwrap(), None);
        assert!(index("no-such-device").is_err());
    }
}
