//! Which XDP program an interface runs, asked of the kernel by rtnetlink.
//!
//! A link's information does not say in which mode it is attached; the interface's does.

use std::io;

use aya::programs::loaded_programs;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send,
    socket_with, sockopt,
};

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

/// What runs there; `None` for nothing.
pub(super) fn query(interface: &str, index: u32) -> Result<Option<Hook>, EnforcerError> {
    ask(index).map_err(|source| EnforcerError::Query {
        interface: interface.to_owned(),
        source,
    })
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
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
/// Nested attributes carry flags in the two high bits of their type.
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSGHDR_BYTES: usize = 16;
const IFINFOMSG_BYTES: usize = 16;

fn ask(index: u32) -> io::Result<Option<Hook>> {
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
    let answer = buffer.get(..length).unwrap_or(&buffer);
    parse(answer).unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::InvalidData)))
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
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
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
