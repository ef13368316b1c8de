//! The listening sockets that systemd hands to a daemon it starts (`sd_listen_fds(3)`).
//!
//! They outlive the daemon: while it is started again, connections wait in them and none is
//! refused. Invariant: every socket that came is given out or an error that names it; none is held
//! open unused, where connections would wait for ever.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::sockopt;

/// A socket of the unit's, as it is told apart in an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    number: RawFd,
    /// `FileDescriptorName=`, else the unit's own name.
    given: Option<String>,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.given {
            Some(given) => write!(f, "{given:?} (descriptor {})", self.number),
            None => write!(f, "descriptor {}", self.number),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    #[error("LISTEN_FDS is {value:?}, not a number from 0 to {MOST}")]
    Count { value: String },
    #[error("{name}, which systemd was to hand over, is not open")]
    Absent {
        name: String,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{name} is not a listening TCP socket; the socket unit needs ListenStream= with an address and a port, and no Accept=yes"
    )]
    NotListening { name: String },
    #[error(
        "{name} listens on {address} for IPv4, too; the socket unit needs BindIPv6Only=ipv6-only, and a ListenStream= of its own for IPv4"
    )]
    BothFamilies { name: String, address: SocketAddr },
    #[error("{name} listens on {address}, as another socket of the unit does")]
    Twice { name: String, address: SocketAddr },
    #[error(
        "{name} listens on {address}, which gateway.listen does not name; name it there or take it out of the socket unit"
    )]
    NotNamed { name: String, address: SocketAddr },
}

/// The sockets that came, each to be taken by its address.
#[derive(Debug, Default)]
pub(super) struct Inherited(Vec<Socket>);

#[derive(Debug)]
struct Socket {
    name: Name,
    address: SocketAddr,
    listener: TcpListener,
}

impl Inherited {
    /// Takes what the environment says came. Called once, before anything is opened or started:
    /// whoever calls it again would own the same descriptors twice.
    pub(super) fn of_this_process() -> Result<Self, InheritedError> {
        let variable = |name: &str| std::env::var(name).ok();
        let names = announced(&variable, std::process::id())?;
        let open = names.into_iter().map(|name| {
            let source = |error: rustix::io::Errno| InheritedError::Absent {
                name: name.to_string(),
                source: error.into(),
            };
            // SAFETY: the descriptor is only asked for its flags, and not kept; one that is not
            // open answers EBADF.
            let borrowed = unsafe { BorrowedFd::borrow_raw(name.number) };
            fcntl_getfd(borrowed).map_err(source)?;
            // systemd leaves it to us; no child of ours is to have it.
            fcntl_setfd(borrowed, FdFlags::CLOEXEC).map_err(source)?;
            // SAFETY: it is open, LISTEN_PID says that it was opened for this very process, and
            // nothing else here takes descriptors by their number.
            let owned = unsafe { OwnedFd::from_raw_fd(name.number) };
            Ok((name, owned))
        });
        // All are owned before the first is judged, so that an error closes each.
        Self::of(open.collect::<Result<_, _>>()?)
    }

    fn of(sockets: Vec<(Name, OwnedFd)>) -> Result<Self, InheritedError> {
        let mut taken: Vec<Socket> = Vec::new();
        for (name, fd) in sockets {
            let is_listening = sockopt::socket_acceptconn(&fd).unwrap_or_default()
                && sockopt::socket_type(&fd).ok() == Some(rustix::net::SocketType::STREAM);
            let listener = TcpListener::from(fd);
            // A socket of another family has no such address.
            let address = listener.local_addr().ok().filter(|_| is_listening);
            let name_of = |name: &Name| name.to_string();
            let Some(address) = address else {
                let name = name_of(&name);
                return Err(InheritedError::NotListening { name });
            };
            if address.is_ipv6() && !sockopt::ipv6_v6only(&listener).unwrap_or_default() {
                let name = name_of(&name);
                return Err(InheritedError::BothFamilies { name, address });
            }
            if taken.iter().any(|other| other.address == address) {
                let name = name_of(&name);
                return Err(InheritedError::Twice { name, address });
            }
            taken.push(Socket {
                name,
                address,
                listener,
            });
        }
        Ok(Self(taken))
    }

    #[cfg(test)]
    pub(super) fn of_one(listener: TcpListener) -> Self {
        let name = Name {
            number: FIRST,
            given: None,
        };
        Self::of(vec![(name, listener.into())]).unwrap()
    }

    /// The socket that listens on this very address.
    pub(super) fn take(&mut self, address: SocketAddr) -> Option<OwnedFd> {
        let is_it =
            |other: SocketAddr| (other.ip(), other.port()) == (address.ip(), address.port());
        let at = self.0.iter().position(|socket| is_it(socket.address))?;
        Some(self.0.swap_remove(at).listener.into())
    }

    /// Refuses a socket that nothing has taken.
    pub(super) fn finish(self) -> Result<(), InheritedError> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some(Socket { name, address, .. }) => Err(InheritedError::NotNamed {
                name: name.to_string(),
                address,
            }),
        }
    }
}

/// The descriptors that were announced to the process `pid`; to another's child, none.
fn announced(
    variable: &dyn Fn(&str) -> Option<String>,
    pid: u32,
) -> Result<Vec<Name>, InheritedError> {
    let is_ours = variable("LISTEN_PID").is_some_and(|text| text.parse() == Ok(pid));
    let Some(value) = variable("LISTEN_FDS").filter(|_| is_ours) else {
        return Ok(Vec::new());
    };
    let count = value.parse().ok().filter(|count| *count <= MOST);
    let count: RawFd = count.ok_or(InheritedError::Count { value })?;
    let given = variable("LISTEN_FDNAMES").unwrap_or_default();
    let mut given = given.split(':').filter(|name| !name.is_empty());
    let names = (FIRST..FIRST + count).map(|number| Name {
        number,
        given: given.next().map(str::to_owned),
    });
    Ok(names.collect())
}

/// `SD_LISTEN_FDS_START`.
const FIRST: RawFd = 3;
/// As many as can be handed to the gateway process.
const MOST: RawFd = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`, what is found.
    type AnnouncedRow = (
        &'static str,
        Option<&'static str>,
        Option<&'static str>,
        &'static str,
        &'static str,
    );
    type SocketRow = (&'static str, Vec<(Name, OwnedFd)>, &'static str);

    #[test]
    fn descriptors_are_announced_to_one_process() {
        let rows: [AnnouncedRow; 8] = [
            ("nothing", None, None, "", ""),
            ("another's", Some("2"), Some("8"), "", ""),
            ("nobody's", Some("2"), None, "", ""),
            ("none", Some("0"), Some("7"), "", ""),
            (
                "two",
                Some("2"),
                Some("7"),
                "",
                "descriptor 3, descriptor 4",
            ),
            (
                "named",
                Some("2"),
                Some("7"),
                "https:hooks",
                "\"https\" (descriptor 3), \"hooks\" (descriptor 4)",
            ),
            (
                "no number",
                Some("two"),
                Some("7"),
                "",
                "LISTEN_FDS is \"two\", not a number from 0 to 64",
            ),
            (
                "too many",
                Some("65"),
                Some("7"),
                "",
                "LISTEN_FDS is \"65\", not a number from 0 to 64",
            ),
        ];
        for (name, count, pid, names, expected) in rows {
            let variable = |key: &str| {
                let value = match key {
                    "LISTEN_FDS" => count,
                    "LISTEN_PID" => pid,
                    _ => Some(names),
                };
                value.map(str::to_owned)
            };
            let found = match announced(&variable, 7) {
                Ok(names) => {
                    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                    names.join(", ")
                }
                Err(error) => error.to_string(),
            };
            assert_eq!(found, expected, "{name}");
        }
    }

    fn named(number: RawFd, fd: impl Into<OwnedFd>) -> (Name, OwnedFd) {
        let given = None;
        (Name { number, given }, fd.into())
    }

    #[test]
    fn a_socket_that_cannot_be_used_is_named() {
        let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
        let one = listener();
        let address = one.local_addr().unwrap();
        let both = TcpListener::bind("[::]:0").unwrap();
        let (pipe, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let unix = tempfile::tempdir().unwrap();
        let unix = std::os::unix::net::UnixListener::bind(unix.path().join("s")).unwrap();
        let rows: [SocketRow; 5] = [
            ("none", Vec::new(), ""),
            (
                "a stream",
                vec![named(3, pipe)],
                "descriptor 3 is not a listening TCP socket",
            ),
            (
                "a unix socket",
                vec![named(4, unix)],
                "descriptor 4 is not a listening TCP socket",
            ),
            (
                "both families",
                vec![named(5, both)],
                "needs BindIPv6Only=ipv6-only",
            ),
            (
                "twice",
                vec![named(3, one.try_clone().unwrap()), named(4, one)],
                "as another socket of the unit does",
            ),
        ];
        for (name, sockets, expected) in rows {
            let told =
                Inherited::of(sockets).map_or_else(|error| error.to_string(), |_| String::new());
            assert!(told.contains(expected), "{name}: {told}");
            assert_eq!(told.is_empty(), expected.is_empty(), "{name}: {told}");
        }
        let mut inherited = Inherited::of(vec![named(3, listener())]).unwrap();
        assert!(inherited.take(address).is_none(), "another's address");
        let told = inherited.finish().unwrap_err().to_string();
        assert!(
            told.contains("which gateway.listen does not name"),
            "{told}"
        );
    }
}
