//! Why a driver refused an XDP program, in the kernel's own words.
//!
//! `bpf_link_create` gives an error number and nothing else; rtnetlink gives the driver's text
//! (its «extended acknowledgement»). So a refusal is asked for once more, the older way. The
//! request says «only if nothing is there», so that it can never replace a program, and should
//! it be granted after all, it is taken back at once.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with, sockopt,
};

use super::hook::attribute;

/// `linux/if_link.h`.
const XDP_FLAGS_UPDATE_IF_NOEXIST: u32 = 1;
pub(super) const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
pub(super) const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_FLAGS: u16 = 3;
/// `linux/netlink.h`, `linux/rtnetlink.h`.
const RTM_SETLINK: u16 = 19;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLA_F_NESTED: u16 = 1 << 15;

/// Asks again; the kernel's text, if it gives one.
pub(super) fn ask(ifindex: u32, program: BorrowedFd<'_>, mode_flag: u32) -> Option<String> {
    match exchange(ifindex, program.as_raw_fd(), mode_flag) {
        Ok(Answer::Refused(text)) => text,
        Ok(Answer::Granted) => {
            // Nothing else is held here, so nothing else can be taken away.
            let _taken_back = exchange(ifindex, -1, mode_flag);
            None
        }
        Err(error) => {
            tracing::debug!(%error, "the kernel's reason cannot be had");
            None
        }
    }
}

enum Answer {
    Granted,
    Refused(Option<String>),
}

fn exchange(ifindex: u32, program: i32, mode_flag: u32) -> io::Result<Answer> {
    // Protocol 0 is `NETLINK_ROUTE`.
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let deadline = Duration::from_secs(5);
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(deadline))?;
    ask_for_texts(socket.as_fd())?;
    let flags = if program < 0 {
        mode_flag
    } else {
        mode_flag | XDP_FLAGS_UPDATE_IF_NOEXIST
    };
    send(
        &socket,
        &request(ifindex, program, flags),
        SendFlags::empty(),
    )?;
    let mut buffer = vec![0_u8; 8 * 1024];
    let (_, length) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
    parse(buffer.get(..length).unwrap_or(&buffer))
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Switches the texts on for this socket (`NETLINK_EXT_ACK`, kernel 4.12).
fn ask_for_texts(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the socket lives through the call, and the option's value is one int of its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_EXT_ACK,
            (&raw const on).cast(),
            4,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn request(ifindex: u32, program: i32, flags: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(52);
    message.extend(52_u32.to_ne_bytes());
    message.extend(RTM_SETLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]);
    // family, padding, type, index, flags, change
    message.extend([0; 4]);
    message.extend(ifindex.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(20_u16.to_ne_bytes());
    message.extend((IFLA_XDP | NLA_F_NESTED).to_ne_bytes());
    message.extend(8_u16.to_ne_bytes());
    message.extend(IFLA_XDP_FD.to_ne_bytes());
    message.extend(program.to_ne_bytes());
    message.extend(8_u16.to_ne_bytes());
    message.extend(IFLA_XDP_FLAGS.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message
}

/// `None` for an answer that is cut short.
fn parse(answer: &[u8]) -> Option<Answer> {
    let field16 = |at: usize| Some(u16::from_ne_bytes(*answer.get(at..)?.first_chunk()?));
    if field16(4)? != NLMSG_ERROR {
        return None;
    }
    let flags = field16(6)?;
    if answer.get(16..20)? == [0; 4] {
        return Some(Answer::Granted);
    }
    if flags & NLM_F_ACK_TLVS == 0 {
        return Some(Answer::Refused(None));
    }
    // The request stands before the text, whole, or its header alone.
    let asked = if flags & NLM_F_CAPPED != 0 {
        16
    } else {
        let length = u32::from_ne_bytes(*answer.get(20..)?.first_chunk()?);
        usize::try_from(length).ok()?.next_multiple_of(4)
    };
    let text = attribute(answer.get(20 + asked..)?, NLMSGERR_ATTR_MSG).map(|text| {
        String::from_utf8_lossy(text)
            .trim_end_matches(['\0', '.'])
            .to_owned()
    });
    Some(Answer::Refused(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(flags: u16, errno: i32, rest: &[u8]) -> Vec<u8> {
        let mut answer = vec![0; 4];
        answer.extend(NLMSG_ERROR.to_ne_bytes());
        answer.extend(flags.to_ne_bytes());
        answer.extend([0; 8]);
        answer.extend(errno.to_ne_bytes());
        answer.extend(rest);
        answer
    }

    #[test]
    fn reads_the_kernel_s_text_behind_the_request() {
        let text = b"\x0c\0\x01\0MTU big\0";
        let whole = [&request(7, 3, XDP_FLAGS_DRV_MODE)[..], text].concat();
        let header = [&[0; 16][..], text].concat();
        for (row, flags, rest) in [
            ("request whole", NLM_F_ACK_TLVS, whole),
            ("header alone", NLM_F_ACK_TLVS | NLM_F_CAPPED, header),
        ] {
            match parse(&answer(flags, -34, &rest)) {
                Some(Answer::Refused(Some(text))) => assert_eq!(text, "MTU big", "{row}"),
                _ => panic!("{row}"),
            }
        }
        assert!(matches!(
            parse(&answer(0, -95, &[0; 16])),
            Some(Answer::Refused(None))
        ));
        assert!(matches!(parse(&answer(0, 0, &[])), Some(Answer::Granted)));
        assert!(parse(&answer(NLM_F_ACK_TLVS, -34, &[])).is_none(), "cut");
    }
}
