//! Who could change a file: the agent that clawsec guards must not be able to edit its guard.
//!
//! Invariant: a file is trusted if it and every folder above it, by its own name and by where its
//! links lead, belong to root or to the running user and can be written by nobody else. A sticky
//! folder of root's, such as `/tmp`, is fine: others cannot replace what stands in it.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// What is made of a file that somebody else can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileTrust {
    /// For commands that enforce: an error.
    Run,
    /// For commands that only read: a warning in `Config::warnings`.
    Read,
}

/// A file or folder that the wrong user can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Distrust {
    pub(super) path: PathBuf,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// The owner's user id.
    Owner(u32),
    /// Permission bits.
    Writable(u32),
    /// The name led elsewhere between two looks at it.
    Moved,
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.why {
            Why::Owner(uid) => write!(
                f,
                "{path} belongs to user {uid}, not to root or the running user: chown root {path}"
            ),
            Why::Writable(mode) => write!(
                f,
                "{path} has mode {mode:04o}, so others can change it: chmod go-w {path}"
            ),
            Why::Moved => write!(f, "{path} was replaced while it was read"),
        }
    }
}

/// Reads a regular file whole, and says who else could change it.
pub(super) fn read(path: &Path, limit: u64) -> io::Result<(Zeroizing<String>, Vec<Distrust>)> {
    // NONBLOCK: opening a FIFO must not wait for a writer.
    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    if metadata.len() > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut text = Zeroizing::new(String::new());
    // Room for all of it at once: growing would leave copies that nobody wipes.
    text.reserve(usize::try_from(metadata.len()).unwrap_or(0) + 1);
    Read::by_ref(&mut file)
        .take(limit)
        .read_to_string(&mut text)?;
    let mut problems = judge(path)?;
    let now = path.metadata()?;
    if (now.dev(), now.ino()) != (metadata.dev(), metadata.ino()) {
        problems.push(Distrust {
            path: path.to_owned(),
            why: Why::Moved,
        });
    }
    Ok((text, problems))
}

/// Who besides root and the running user could change a file or folder, or one above it: each in
/// words, with the remedy.
///
/// # Errors
/// When it cannot be looked at.
pub fn changeable_by_others(path: &Path) -> io::Result<Vec<String>> {
    Ok(judge(path)?.iter().map(ToString::to_string).collect())
}

/// Judges a file or folder and everything above it.
pub(super) fn judge(path: &Path) -> io::Result<Vec<Distrust>> {
    let named = std::path::absolute(path)?;
    let real = path.canonicalize()?;
    let running = rustix::process::geteuid().as_raw();
    let mut problems = Vec::new();
    for ancestor in named.ancestors().chain(real.ancestors()) {
        let metadata = ancestor.symlink_metadata()?;
        if let Some(why) = distrust(&metadata, running) {
            let problem = Distrust {
                path: ancestor.to_owned(),
                why,
            };
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    Ok(problems)
}

fn distrust(metadata: &Metadata, running: u32) -> Option<Why> {
    let mode = metadata.mode() & 0o7777;
    let owner = metadata.uid();
    if owner != 0 && owner != running {
        return Some(Why::Owner(owner));
    }
    // A link's own mode is always 0777 and means nothing.
    let sticky = metadata.is_dir() && owner == 0 && mode & 0o1000 != 0;
    (mode & 0o022 != 0 && !sticky && !metadata.is_symlink()).then_some(Why::Writable(mode))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn tree() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().canonicalize().unwrap().join("dir");
        fs::create_dir(&dir).unwrap();
        chmod(&dir, 0o755);
        let file = dir.join("file");
        fs::write(&file, "text").unwrap();
        chmod(&file, 0o600);
        (root, file)
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn named(problems: &[Distrust]) -> Vec<String> {
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_that_others_can_write_is_named_with_mode_and_remedy() {
        let (_root, file) = tree();
        assert_eq!(judge(&file).unwrap(), []);
        chmod(&file, 0o620);
        let name = file.display();
        let expected = format!("{name} has mode 0620, so others can change it: chmod go-w {name}");
        assert_eq!(named(&judge(&file).unwrap()), [expected]);
    }

    #[test]
    fn a_folder_above_it_counts_too() {
        let (_root, file) = tree();
        let dir = file.parent().unwrap();
        chmod(dir, 0o777);
        assert_eq!(judge(&file).unwrap().len(), 1);
        chmod(dir, 0o1777);
        let own = rustix::process::geteuid().is_root();
        assert_eq!(
            judge(&file).unwrap().is_empty(),
            own,
            "sticky counts for root only"
        );
    }

    #[test]
    fn links_are_judged_at_both_ends() {
        let (root, file) = tree();
        let open = root.path().join("open");
        fs::create_dir(&open).unwrap();
        chmod(&open, 0o777);
        let link = open.join("link");
        symlink(&file, &link).unwrap();
        assert_eq!(
            judge(&link).unwrap().len(),
            1,
            "the link stands in an open folder"
        );
        let target = open.join("target");
        fs::write(&target, "x").unwrap();
        chmod(&target, 0o600);
        let link = file.with_file_name("link");
        symlink(&target, &link).unwrap();
        assert_eq!(
            judge(&link).unwrap().len(),
            1,
            "the target stands in an open folder"
        );
    }

    #[test]
    fn another_users_file_is_distrusted() {
        let (_root, file) = tree();
        if !rustix::process::geteuid().is_root() {
            return;
        }
        std::os::unix::fs::chown(&file, Some(12345), None).unwrap();
        let problems = named(&judge(&file).unwrap());
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].contains("belongs to user 12345"),
            "{problems:?}"
        );
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let (_root, file) = tree();
        assert_eq!(read(&file, 4).unwrap().0.as_str(), "text");
        assert!(read(&file, 3).is_err());
        assert!(read(file.parent().unwrap(), 100).is_err());
        assert!(read(Path::new("/dev/null"), 100).is_err());
    }
}
