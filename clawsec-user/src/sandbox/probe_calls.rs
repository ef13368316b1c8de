//! The probes that are one system call each, and how one runs in a process of its own.
//!
//! Invariant: none harms the machine where it succeeds: it opens and does not write, asks with
//! arguments the kernel refuses after it has judged the caller's rights, or changes only its own
//! process, which ends at once.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, alarm, fork};

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Blocked(String),
    /// The way out is there.
    Open(String),
}

impl Outcome {
    /// Success is a way out.
    pub(super) fn of<T, E: std::fmt::Display>(result: Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Open("it worked".into()),
            Err(error) => Self::Blocked(error.to_string()),
        }
    }
}

/// Runs a probe in a child, so that what it changes, or how it dies, is the child's alone.
pub(super) fn apart(probe: impl FnOnce() -> Outcome) -> Outcome {
    let Ok((mut reader, mut writer)) = std::io::pipe() else {
        return Outcome::Blocked("no pipe".into());
    };
    // SAFETY: the process that probes has one thread, so the child may do whatever it could.
    match unsafe { fork() } {
        Err(error) => Outcome::Blocked(format!("fork: {error}")),
        Ok(ForkResult::Child) => {
            // A probe that hangs is ended by the kernel.
            alarm::set(SECONDS);
            let text = match probe() {
                Outcome::Open(detail) => format!("o{detail}"),
                Outcome::Blocked(detail) => format!("b{detail}"),
            };
            writer.write_all(text.as_bytes()).ok();
            leave()
        }
        Ok(ForkResult::Parent { child }) => {
            drop(writer);
            let mut text = String::new();
            reader.read_to_string(&mut text).ok();
            let status = waitpid(child, None);
            match text.split_at_checked(1) {
                Some(("o", detail)) => Outcome::Open(detail.to_owned()),
                Some((_, detail)) => Outcome::Blocked(detail.to_owned()),
                None => Outcome::Blocked(match status {
                    Ok(WaitStatus::Signaled(_, signal, _)) => format!("ended by {signal}"),
                    other => format!("ended without a word: {other:?}"),
                }),
            }
        }
    }
}

/// Forks children that do nothing until `most` run; all are ended before it returns.
pub(super) fn processes(most: usize) -> Outcome {
    let mut children = Vec::new();
    let mut outcome = Outcome::Open(format!("{most} processes run at once"));
    for count in 0..most {
        // SAFETY: one thread; the child waits and touches nothing.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                std::thread::sleep(Duration::from_mins(1));
                leave()
            }
            Ok(ForkResult::Parent { child }) => children.push(child),
            Err(error) => {
                outcome = Outcome::Blocked(format!("after {count}: {error}"));
                break;
            }
        }
    }
    for child in children {
        kill(child, Signal::SIGKILL).ok();
        waitpid(child, None).ok();
    }
    outcome
}

pub(super) fn ptrace() -> Outcome {
    // SAFETY: one thread; the child waits and touches nothing.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            std::thread::sleep(Duration::from_secs(2));
            leave()
        }
        Ok(ForkResult::Parent { child }) => {
            let seize = 0x4206;
            let outcome = call(libc::SYS_ptrace, &[seize, i64::from(child.as_raw()), 0, 0]);
            kill(child, Signal::SIGKILL).ok();
            waitpid(child, None).ok();
            Outcome::of(outcome)
        }
        Err(error) => Outcome::Blocked(format!("fork: {error}")),
    }
}

/// A child in a new user namespace, by `clone` or `clone3`.
pub(super) fn cloned(number: libc::c_long) -> Outcome {
    let flags = i64::from(libc::CLONE_NEWUSER);
    let child_signal = i64::from(libc::SIGCHLD);
    // struct clone_args, of which only the flags and the exit signal are set.
    let mut arguments = [0_u64; 8];
    arguments[0] = flags.cast_unsigned();
    arguments[4] = child_signal.cast_unsigned();
    let result = if number == libc::SYS_clone3 {
        call(number, &[address(&arguments), 64])
    } else {
        call(number, &[flags | child_signal])
    };
    if result == Ok(0) {
        leave();
    }
    Outcome::of(result)
}

/// Asks `calls` in turn. `EINVAL` and the like come after the rights were judged, and are a way
/// in; what the kernel says to those without rights, or has not got, is none.
pub(super) fn judged(number: libc::c_long, arguments: &[i64]) -> Outcome {
    match call(number, arguments) {
        Ok(_) => Outcome::Open("it worked".into()),
        Err(errno)
            if matches!(
                errno.raw_os_error(),
                Some(libc::EPERM | libc::EACCES | libc::ENOSYS)
            ) =>
        {
            Outcome::Blocked(errno.to_string())
        }
        Err(errno) => Outcome::Open(format!("the kernel only minds the arguments: {errno}")),
    }
}

/// One system call whose pointers, if any, come from `address` of what outlives it.
pub(super) fn call(number: libc::c_long, arguments: &[i64]) -> Result<i64, Failed> {
    let at = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: every caller is in this module or `probe_inside`, and passes null, or the address of
    // a buffer of at least the size that the call reads or writes; a call that makes a second
    // process copies memory and is left at once by its child.
    let result = unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4), at(5)) };
    if result < 0 {
        Err(Failed(std::io::Error::last_os_error().raw_os_error()))
    } else {
        Ok(result)
    }
}

/// Where a value is, for the kernel.
pub(super) fn address<T: ?Sized>(value: &T) -> i64 {
    number(std::ptr::from_ref(value).cast::<u8>().expose_provenance())
}

/// Where the kernel may write.
pub(super) fn room<T>(value: &mut T) -> i64 {
    number(std::ptr::from_mut(value).expose_provenance())
}

fn number(address: usize) -> i64 {
    i64::from_ne_bytes((address as u64).to_ne_bytes())
}

/// An error number that compares.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed(Option<i32>);

impl Failed {
    fn raw_os_error(&self) -> Option<i32> {
        self.0
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = self.0.unwrap_or(0);
        write!(f, "{}", std::io::Error::from_raw_os_error(number))
    }
}

fn leave() -> ! {
    // SAFETY: `_exit` runs no handler and touches no memory of ours; it does not return.
    unsafe { libc::_exit(0) }
}

/// Longer than any probe takes.
const SECONDS: u32 = 20;
