//! The launcher of the `native` provider: builds the sandbox around itself, then becomes the tool.
//!
//! It is clawsec started once more, by `native`, as root, with one thread and nothing of the
//! daemon's memory. Three processes come of it: this one waits and tells how the tool ended; its
//! child is the init of the tool's process namespace; that one's child becomes the tool.
//! Invariant: the tool's program is the last step, and no step before it may fail.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};
use seccompiler::{BpfProgram, sock_filter};

use super::super::netdevice;
use super::super::step::{Step, step};
use super::contain_root::{self, Root};

/// What `native` asks for before it knows the tool, as command line arguments.
#[derive(Debug)]
pub struct Containment {
    /// Where the end is told; written by no tool.
    pub tell: RawFd,
    pub filters: RawFd,
    pub uid: u32,
    pub gid: u32,
    pub base: PathBuf,
    pub workspace: Option<PathBuf>,
    pub read_only: bool,
    /// Where the order comes from: its length in four bytes, native order, then JSON.
    pub order: RawFd,
}

/// What to run, once everything else is done.
#[derive(Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Order {
    /// An empty program is a check: everything but the last step.
    pub(super) argv: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) workdir: PathBuf,
}

/// How it ended, as the launcher tells the supervisor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// Only the order is missing.
    Ready,
    Ended {
        code: Option<i32>,
        signal: Option<i32>,
    },
    Workdir,
    /// The step that failed, and why.
    Failed(String),
}

impl Report {
    /// One line; `None` for what no launcher says.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (kind, rest) = line.split_once(' ')?;
        match kind {
            "ready" => Some(Self::Ready),
            "code" => Some(Self::Ended {
                code: Some(rest.parse().ok()?),
                signal: None,
            }),
            "signal" => Some(Self::Ended {
                code: None,
                signal: Some(rest.parse().ok()?),
            }),
            "workdir" => Some(Self::Workdir),
            "failed" => Some(Self::Failed(rest.to_owned())),
            _ => None,
        }
    }
}

/// Builds, runs, waits, tells.
pub fn contain(asked: &Containment) -> ExitCode {
    // SAFETY: `native` has opened these three for this process alone, and nothing else here knows
    // their numbers; a number that is not open makes the first use fail, which is told to nobody
    // and ends the launcher.
    let (tell, order, filters) = unsafe {
        (
            OwnedFd::from_raw_fd(asked.tell),
            OwnedFd::from_raw_fd(asked.order),
            OwnedFd::from_raw_fd(asked.filters),
        )
    };
    let (mut tell, order) = (File::from(tell), File::from(order));
    let filters = read_filters(&File::from(filters));
    let launched = filters.and_then(|filters| {
        launch(&Launch {
            asked,
            tell: &tell,
            order: &order,
            filters: &filters,
        })
    });
    match launched {
        Ok(line) => drop(writeln!(tell, "{line}")),
        Err(error) => drop(writeln!(tell, "failed {}", error.replace('\n', " "))),
    }
    ExitCode::SUCCESS
}

/// A launcher's own, for all three of its processes.
struct Launch<'a> {
    asked: &'a Containment,
    tell: &'a File,
    order: &'a File,
    filters: &'a [BpfProgram],
}

fn launch(launch: &Launch<'_>) -> Step<String> {
    for pipe in [launch.tell, launch.order] {
        rustix::io::fcntl_setfd(pipe, rustix::io::FdFlags::CLOEXEC).map_err(step("own a pipe"))?;
    }
    // The polite signal of a timeout goes to the whole group: it is for the tool.
    SigSet::all()
        .thread_block()
        .map_err(step("block signals"))?;
    // So that the tool, not its launcher, is what an emptied memory ends first.
    std::fs::write("/proc/self/oom_score_adj", "500").map_err(step("write oom_score_adj"))?;
    nix::sched::unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .map_err(step("make namespaces"))?;
    // SAFETY: this process has one thread, so the child may do whatever this one could.
    match unsafe { fork() }.map_err(step("fork the sandbox's init"))? {
        ForkResult::Child => {
            match init(launch) {
                Ok(line) => launch.tell(&line),
                Err(error) => launch.tell(&format!("failed {}", error.replace('\n', " "))),
            }
            leave()
        }
        ForkResult::Parent { child } => {
            stay_until(child, launch.tell)?;
            // The init has told how the tool ended, unless it was killed; then nobody knows more.
            leave()
        }
    }
}

impl Launch<'_> {
    /// One write, so that no line is cut by another's. A supervisor that does not listen any more
    /// is noticed elsewhere.
    fn tell(&self, line: &str) {
        drop(
            self.tell
                .try_clone()
                .and_then(|mut tell| tell.write_all(format!("{line}\n").as_bytes())),
        );
    }
}

/// Waits for the init, and ends with it if the supervisor goes first: its end of the pipe closes.
fn stay_until(init: Pid, tell: &File) -> Step<()> {
    close_streams()?;
    let raw = rustix::process::Pid::from_raw(init.as_raw()).ok_or("the init has no id")?;
    let process = pidfd_open(raw, PidfdFlags::empty()).map_err(step("watch the init"))?;
    loop {
        let mut watched = [
            PollFd::new(&process, PollFlags::IN),
            PollFd::new(tell, PollFlags::empty()),
        ];
        match poll(&mut watched, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(step("wait for the init")(error)),
        }
        let [process_event, tell_event] = &watched;
        if !process_event.revents().is_empty() {
            return Ok(());
        }
        if tell_event.revents().contains(PollFlags::ERR) {
            // The init of a process namespace takes everything in it along.
            // It may have ended this moment.
            nix::sys::signal::kill(init, Signal::SIGKILL).ok();
            return Ok(());
        }
    }
}

/// The first process of the namespace: builds the root, starts the tool, reaps.
fn init(launch: &Launch<'_>) -> Step<String> {
    let asked = launch.asked;
    let root = Root {
        base: &asked.base,
        workspace: asked.workspace.as_deref(),
        read_only: asked.read_only,
        uid: asked.uid,
        gid: asked.gid,
    };
    contain_root::build(&root)?;
    netdevice::loopback_up()?;
    nix::unistd::sethostname("sandbox").map_err(step("set the host's name"))?;
    // SAFETY: as in `launch`: one thread.
    match unsafe { fork() }.map_err(step("fork the tool"))? {
        ForkResult::Child => become_tool(launch),
        ForkResult::Parent { child } => {
            close_streams()?;
            lose_rights(asked)?;
            // A launcher that is killed takes the namespace along. After the change of user,
            // which clears it.
            prctl::set_pdeathsig(Signal::SIGKILL).map_err(step("set the death signal"))?;
            prctl::set_dumpable(false).map_err(step("stay unread"))?;
            reap_until(child)
        }
    }
}

fn reap_until(tool: Pid) -> Step<String> {
    loop {
        match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == tool => return Ok(format!("code {code}")),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == tool => {
                return Ok(format!("signal {}", signal as i32));
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(step("wait for the tool")(error)),
        }
    }
}

/// Gives up everything, waits for the order, then executes. Returns only where that did not come
/// about.
fn become_tool(launch: &Launch<'_>) -> Step<String> {
    let Launch { asked, filters, .. } = *launch;
    lose_rights(asked)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    prctl::set_no_new_privs().map_err(step("set no_new_privs"))?;
    contain_root::landlock(!asked.read_only).map_err(step("restrict files by Landlock"))?;
    for filter in filters {
        seccompiler::apply_filter(filter).map_err(step("install the system call filter"))?;
    }
    launch.tell("ready -");
    let order = read_order(launch.order)?;
    if rustix::process::chdir(&order.workdir).is_err() {
        return Ok("workdir -".into());
    }
    let [program, arguments @ ..] = order.argv.as_slice() else {
        return Err("no program".into());
    };
    if program.is_empty() {
        leave();
    }
    // Takes the blocked signals and the ignored SIGPIPE back, and the pipe closes by itself.
    let error = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(&order.environment)
        .exec();
    drop(writeln!(std::io::stderr(), "{program}: {error}"));
    let code = if error.kind() == std::io::ErrorKind::NotFound {
        127
    } else {
        126
    };
    Ok(format!("code {code}"))
}

/// No group, no capability, in no set, and the tool's user for good.
fn lose_rights(asked: &Containment) -> Step<()> {
    if asked.uid == 0 || asked.gid == 0 {
        return Err("the tool user may not be root".into());
    }
    for number in 0..64_u32 {
        // The numbers end at the kernel's last capability with EINVAL.
        let Some(capability) = CapabilitySet::from_bits(1 << number) else {
            continue;
        };
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)
                .map_err(step("empty the bounding set"))?,
            Ok(false) => {}
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(step("read the bounding set")(error)),
        }
    }
    let (uid, gid) = (Uid::from_raw(asked.uid), Gid::from_raw(asked.gid));
    nix::unistd::setgroups(&[]).map_err(step("drop the groups"))?;
    nix::unistd::setresgid(gid, gid, gid).map_err(step("become the tool group"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(step("become the tool user"))?;
    clear_ambient_capability_set().map_err(step("clear the ambient set"))?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    set_capabilities(None, sets).map_err(step("drop the capabilities"))
}

/// Lets go of the tool's streams, whose readers wait for their end.
fn close_streams() -> Step<()> {
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(step("open /dev/null"))?;
    rustix::stdio::dup2_stdin(null.as_fd()).map_err(step("close the input"))?;
    rustix::stdio::dup2_stdout(null.as_fd()).map_err(step("close the output"))?;
    rustix::stdio::dup2_stderr(null.as_fd()).map_err(step("close the errors"))
}

fn read_order(mut pipe: &File) -> Step<Order> {
    let mut length = [0; 4];
    pipe.read_exact(&mut length)
        .map_err(step("wait for the order"))?;
    let mut text = Vec::new();
    let length = u64::from(u32::from_ne_bytes(length));
    pipe.take(length)
        .read_to_end(&mut text)
        .map_err(step("read the order"))?;
    // One that was cut short is no JSON.
    serde_json::from_slice(&text).map_err(step("understand the order"))
}

fn read_filters(file: &File) -> Step<Vec<BpfProgram>> {
    // By position: the offset is shared with every other launcher.
    let length = file.metadata().map_err(step("measure the filters"))?.len();
    let length = usize::try_from(length).map_err(step("measure the filters"))?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)
        .map_err(step("read the filters"))?;
    parse_filters(&bytes).ok_or_else(|| "the filters are cut short".to_owned())
}

fn parse_filters(mut bytes: &[u8]) -> Option<Vec<BpfProgram>> {
    let mut programs = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        let count = usize::try_from(u64::from_ne_bytes(*head)).ok()?;
        let (body, rest) = rest.split_at_checked(count.checked_mul(8)?)?;
        let instruction = |chunk: &[u8; 8]| {
            let [code_0, code_1, jt, jf, k @ ..] = *chunk;
            sock_filter {
                code: u16::from_ne_bytes([code_0, code_1]),
                jt,
                jf,
                k: u32::from_ne_bytes(k),
            }
        };
        let (chunks, _) = body.as_chunks::<8>();
        programs.push(chunks.iter().map(instruction).collect());
        bytes = rest;
    }
    // None would be no filter at all.
    (!programs.is_empty()).then_some(programs)
}

/// Ends this process without running anything that the parent also would.
fn leave() -> ! {
    // SAFETY: `_exit` runs no handler and touches no memory of ours; it does not return.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_read_back() {
        let rows: &[(&str, Option<Report>)] = &[
            ("ready -", Some(Report::Ready)),
            (
                "code 3",
                Some(Report::Ended {
                    code: Some(3),
                    signal: None,
                }),
            ),
            (
                "signal 9",
                Some(Report::Ended {
                    code: None,
                    signal: Some(9),
                }),
            ),
            ("workdir -", Some(Report::Workdir)),
            (
                "failed make namespaces: no",
                Some(Report::Failed("make namespaces: no".into())),
            ),
            ("", None),
            ("code x", None),
        ];
        for (line, expected) in rows {
            assert_eq!(Report::parse(line), *expected, "{line:?}");
        }
    }

    #[test]
    fn filters_that_are_cut_short_are_none() {
        let mut bytes = 1_u64.to_ne_bytes().to_vec();
        bytes.extend([6, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse_filters(&bytes).unwrap()[0].len(), 1);
        for length in [0, 4, 8, 12] {
            assert!(parse_filters(&bytes[..length]).is_none(), "{length}");
        }
    }
}
