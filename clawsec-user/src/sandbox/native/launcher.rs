//! One launcher of the `native` provider, as the supervisor sees it: started, told what to run,
//! heard of its end.
//!
//! Everything but the tool's own program is done before the order comes, so that a launcher that
//! stands ready costs an execution no more than one `execve`. Invariant: an order is written once;
//! a launcher whose order cannot be written has run nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::pipe::PipeFlags;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::process::Child;
use tokio::time::timeout;

use super::super::cgroup::Leaf;
use super::super::child::Rights;
use super::super::host_process::Launch;
use super::super::job::{Mount, MountAccess, WORKSPACE};
use super::super::live::Live;
use super::super::owner::Owner;
use super::super::{Job, SandboxError};
use super::Native;
use super::contain::{Order, Report};
use super::contain_root::host_paths;

#[derive(Debug)]
pub(in crate::sandbox) struct Launcher {
    pub(super) child: Child,
    pub(super) leaf: Leaf,
    pub(super) told: Told,
    order: Sender,
    /// What it has mounted, as it was found then.
    bound: Vec<Option<FileId>>,
    /// Of one that was started ahead: as long as it is here it is no orphan.
    _live: Option<Live>,
}

/// What a launcher says, line by line.
#[derive(Debug)]
pub(super) struct Told(Lines<BufReader<Receiver>>);

impl Told {
    /// The first report; `None` once nobody is left who could tell one.
    pub(super) async fn report(&mut self) -> Option<Report> {
        loop {
            let line = self.0.next_line().await.ok().flatten()?;
            match Report::parse(&line) {
                Some(Report::Ready) => {}
                report => return report,
            }
        }
    }
}

impl Launcher {
    /// Starts one, in a cgroup of its own that carries `id`.
    pub(super) async fn start(
        native: &Native,
        owner: &Owner,
        id: &str,
        workspace: Option<&Mount>,
        live: Option<Live>,
    ) -> Result<Self, SandboxError> {
        let failed = |source: std::io::Error| SandboxError::Spawn {
            program: native.launcher.to_string_lossy().into_owned(),
            source,
        };
        let pipe =
            || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()));
        let (told, telling) = pipe()?;
        let (ordered, order) = pipe()?;
        let filters = native.filters.try_clone().map_err(failed)?;
        let told = Receiver::from_owned_fd(told).map_err(failed)?;
        let order = Sender::from_owned_fd(order).map_err(failed)?;
        let argv = native.argv(
            workspace,
            [&telling, &ordered].map(AsRawFd::as_raw_fd),
            &filters,
        )?;
        let bound = bound(workspace);
        let leaf = native.host.leaf(owner, id)?;
        let launch = Launch {
            argv: &argv,
            // The tool's comes with the order.
            environment: &BTreeMap::new(),
            workdir: Path::new("/"),
            rights: Rights::Launcher {
                keep: vec![telling, ordered, filters.into()],
            },
        };
        match native.host.spawn(&leaf, launch) {
            Ok(child) => Ok(Self {
                child,
                leaf,
                told: Told(BufReader::new(told).lines()),
                order,
                bound,
                _live: live,
            }),
            Err(error) => {
                leaf.remove().await;
                Err(failed(error))
            }
        }
    }

    /// Waits until only the order is missing.
    pub(super) async fn ready(&mut self) -> Result<(), SandboxError> {
        let line = timeout(READY, self.told.0.next_line()).await;
        let line = line.ok().and_then(Result::ok).flatten();
        match line.as_deref().and_then(Report::parse) {
            Some(Report::Ready) => Ok(()),
            Some(Report::Failed(step)) => Err(SandboxError::Native(step)),
            other => Err(SandboxError::Native(format!(
                "a launcher that should stand ready said {other:?}"
            ))),
        }
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether it would be built the same now: a folder that was made anew since, or a file that
    /// an upgrade replaced, is still the old one in it.
    pub(super) fn is_current(&self, workspace: Option<&Mount>) -> bool {
        self.bound == bound(workspace)
    }

    /// Says what to run; an error means that nothing has run. What cannot be read to its end is
    /// no order.
    pub(super) async fn order(&mut self, job: &Job) -> std::io::Result<()> {
        let order = Order {
            argv: job.argv(),
            environment: job.environment(WORKSPACE),
            workdir: job.workdir.clone().unwrap_or_else(|| WORKSPACE.into()),
        };
        let text = serde_json::to_vec(&order)?;
        let length = u32::try_from(text.len()).map_err(|_long| std::io::ErrorKind::InvalidInput)?;
        self.order.write_all(&length.to_ne_bytes()).await?;
        self.order.write_all(&text).await
    }

    /// Whatever is left of it.
    pub(super) async fn remove(mut self) -> bool {
        let removed = self.leaf.remove().await;
        // Dead by now; this takes its exit status.
        timeout(READY, self.child.wait()).await.is_ok() && removed
    }
}

impl Native {
    fn argv(
        &self,
        workspace: Option<&Mount>,
        [tell, order]: [i32; 2],
        filters: &File,
    ) -> Result<Vec<String>, SandboxError> {
        let user = &self.host.user;
        let mut argv = vec![
            self.launcher.to_string_lossy().into_owned(),
            "contain".into(),
            format!("--tell={tell}"),
            format!("--order={order}"),
            format!("--filters={}", filters.as_raw_fd()),
            format!("--uid={}", user.uid),
            format!("--gid={}", user.gid),
            format!("--base={}", self.base.display()),
        ];
        if let Some(mount) = workspace {
            argv.push(format!("--workspace={}", text(mount)?));
            if mount.access == MountAccess::ReadOnly {
                argv.push("--read-only".into());
            }
        }
        Ok(argv)
    }
}

/// Device and inode.
type FileId = (u64, u64);

fn bound(workspace: Option<&Mount>) -> Vec<Option<FileId>> {
    let id = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    let workspace = workspace.map(|mount| id(&mount.source));
    host_paths()
        .map(|path| id(&path))
        .chain(workspace)
        .collect()
}

fn text(mount: &Mount) -> Result<String, SandboxError> {
    let path = mount.resolve()?;
    let refuse = || SandboxError::Workspace {
        path: path.clone(),
        problem: "its path is not plain text".into(),
    };
    path.to_str().map(str::to_owned).ok_or_else(refuse)
}

/// For what a launcher does before its order, and for its exit when it is dead.
const READY: Duration = Duration::from_secs(10);
