//! Hands listening sockets over the socketpair (SCM_RIGHTS), before its first message.
//!
//! The supervisor binds, since it may need privileged ports; the gateway accepts. Passing
//! descriptors as a message leaves no moment in which another child could inherit them.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Well below the kernel's SCM_MAX_FD (253).
pub const MAX_LISTENERS: usize = 64;

/// Sends all listeners in one message.
pub fn send_listeners(stream: &UnixStream, listeners: &[TcpListener]) -> std::io::Result<()> {
    let count = u8::try_from(listeners.len())
        .ok()
        .filter(|&count| usize::from(count) <= MAX_LISTENERS && count > 0)
        .ok_or_else(|| std::io::Error::other("1 to 64 listeners can be handed over"))?;
    let fds: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(std::io::Error::other(
            "the listeners do not fit one message",
        ));
    }
    let sent = sendmsg(
        stream,
        &[IoSlice::new(&[count])],
        &mut control,
        SendFlags::empty(),
    )?;
    if sent == 1 {
        Ok(())
    } else {
        Err(std::io::Error::other("the listeners were not sent"))
    }
}

/// Receives what `send_listeners` sent; waits for it.
pub fn receive_listeners(stream: &UnixStream) -> std::io::Result<Vec<TcpListener>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut count = [0];
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut count)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut listeners = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            listeners.extend(fds.map(|fd: OwnedFd| TcpListener::from(fd)));
        }
    }
    if received.bytes == 1 && listeners.len() == usize::from(count[0]) {
        Ok(listeners)
    } else {
        Err(std::io::Error::other(
            "the supervisor did not hand over its listeners",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_cross_the_socketpair_and_accept() {
        let (here, there) = UnixStream::pair().unwrap();
        let bound: Vec<_> = (0..3)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let addresses: Vec<_> = bound.iter().map(|l| l.local_addr().unwrap()).collect();
        send_listeners(&here, &bound).unwrap();
        drop(bound);
        let received = receive_listeners(&there).unwrap();
        let seen: Vec<_> = received.iter().map(|l| l.local_addr().unwrap()).collect();
        assert_eq!(seen, addresses);
        let client = std::net::TcpStream::connect(addresses[2]).unwrap();
        let (_, peer) = received[2].accept().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
    }

    #[test]
    fn none_or_too_many_listeners_are_refused() {
        let (here, _there) = UnixStream::pair().unwrap();
        assert!(send_listeners(&here, &[]).is_err());
    }
}
