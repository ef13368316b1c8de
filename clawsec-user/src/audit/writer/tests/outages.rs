//! What others do to the file and its disk, and that a record follows when it is over.

use std::os::unix::fs::symlink;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use super::*;

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _gone = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn whatever_stands_at_the_path_instead_is_noticed_and_never_written_through() {
    type Harm = fn(&Path, &Path);
    // What is done, the reason of the record that follows, whether it must be undone first.
    let rows: [(&str, Harm, &str, bool); 5] = [
        ("deleted", |_, _| {}, "file_moved", false),
        (
            "replaced",
            |log, _| fs::write(log, "{\"not\":\"ours\"}\n").unwrap(),
            "file_replaced",
            false,
        ),
        (
            "a link to another file",
            |log, other| symlink(other, log).unwrap(),
            "file_moved",
            true,
        ),
        (
            "a link to nothing",
            |log, _| symlink("/nonexistent/file", log).unwrap(),
            "file_moved",
            true,
        ),
        (
            "a FIFO",
            |log, _| {
                let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
                let kind = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, log, kind, mode, 0).unwrap();
            },
            "file_moved",
            true,
        ),
    ];
    for (name, harm, reason, undo) in rows {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let other = dir.path().join("passwd");
        fs::write(&other, "untouched").unwrap();
        let handle = start(&config(&path), 64);
        assert_eq!(handle.record(allowed(1)), Recorded::Queued, "{name}");
        handle.flush().await.unwrap();
        fs::remove_file(&path).unwrap();
        harm(&path, &other);
        assert_eq!(handle.record(allowed(2)), Recorded::Queued, "{name}");
        if undo {
            until(name, || handle.health().must_refuse).await;
            fs::remove_file(&path).unwrap();
            until(name, || !handle.health().must_refuse).await;
        }
        handle.stop().await;
        let text = fs::read_to_string(&path).unwrap();
        let ours = text
            .lines()
            .filter_map(|line| Record::parse(line.as_bytes()).ok());
        let all: Vec<_> = ours
            .map(|r| (r.action.into_owned(), r.reason.into_owned()))
            .collect();
        let row = |action: &str, reason: &str| (action.to_owned(), reason.to_owned());
        let mut expected = vec![row("reopen", reason), row("send", "ok")];
        if undo {
            expected.push(row("recovered", "unwritable"));
        }
        assert_eq!(all, expected, "{name}");
        assert_eq!(fs::read_to_string(&other).unwrap(), "untouched", "{name}");
    }
}

/// A real full disk, where the test may mount one.
#[tokio::test]
async fn a_full_disk_is_survived_without_a_torn_record() {
    let dir = tempfile::tempdir().unwrap();
    let size = c"size=128k,mode=0700";
    if mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), size).is_err() {
        eprintln!("not run: mounting a tmpfs needs root");
        return;
    }
    let _mounted = Mounted(dir.path().to_owned());
    let path = dir.path().join("audit.log");
    let handle = start(&config(&path), 200);
    let filler = dir.path().join("filler");
    fs::write(&filler, vec![0; 64 << 10]).unwrap();
    let (mut lost, mut reported) = (0, 0);
    while lost < 500 {
        reported += 1;
        lost += u64::from(handle.record(allowed(reported)) == Recorded::Lost);
        if reported % 50 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(!handle.health().writable);
    let full = records(&path);
    assert!(
        full.iter().all(|record| record.action == "send"),
        "whole records only"
    );
    fs::remove_file(&filler).unwrap();
    // 64 KiB of room are too few for a thousand waiting records.
    mount_remount(dir.path(), MountFlags::empty(), "size=8m").unwrap();
    until("health turns back", || handle.health().writable).await;
    handle.stop().await;
    let all = records(&path);
    let count = |action: &str| -> u64 {
        all.iter()
            .filter(|record| record.action == action)
            .map(|record| record.count)
            .sum()
    };
    assert_eq!(
        (count("lost"), count("send") + count("lost")),
        (lost, reported)
    );
    assert_eq!(problem(&path), None);
}

/// As a disk's failure does it: ext4 makes itself read-only under an open file.
#[tokio::test]
async fn a_disk_that_turns_read_only_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_mounted, device)) = ext4(dir.path()) else {
        eprintln!("not run: an ext4 on a loop device needs root and mkfs.ext4");
        return;
    };
    let path = dir.path().join("audit.log");
    let handle = start(&config(&path), 100);
    assert_eq!(handle.record(allowed(0)), Recorded::Queued);
    handle.flush().await.unwrap();
    fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").unwrap();
    let mut lost = 0;
    for number in 1..=500 {
        lost += u64::from(handle.record(allowed(number)) == Recorded::Lost);
        if number % 20 == 0 {
            sleep(Duration::from_millis(2)).await;
        }
    }
    until("health turns", || handle.health().must_refuse).await;
    let before = records(&path);
    assert!(before.iter().all(|record| record.action == "send"));
    // The disk is taken away; what the folder is on without it can be written.
    unmount(dir.path(), UnmountFlags::DETACH).unwrap();
    until("health turns back", || handle.health().writable).await;
    handle.stop().await;
    let all = records(&path);
    let count = |action: &str| -> u64 {
        let these = all.iter().filter(|record| record.action == action);
        these.map(|record| record.count).sum()
    };
    assert_eq!(all[0].action, "reopen");
    assert_eq!(
        all[0].prev,
        before.last().unwrap().hash,
        "the chain goes on"
    );
    assert_eq!(count("lost"), lost);
    assert_eq!(before.len() as u64 + count("send") + lost, 501);
    assert_eq!(count("recovered"), 1);
}

/// An ext4 of 16 MiB at `target`; the name of its device.
fn ext4(target: &Path) -> Option<(Mounted, String)> {
    let image = target.with_extension("ext4");
    fs::File::create(&image).ok()?.set_len(16 << 20).ok()?;
    let run = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let text = image.to_str()?;
    let made = run(
        "mkfs.ext4",
        &["-q", "-O", "^has_journal", "-e", "remount-ro", text],
    );
    // The kernel frees the device with its last user.
    let device = made.and_then(|_| run("losetup", &["--find", "--show", text]));
    fs::remove_file(&image).ok()?;
    let device = device?;
    let mounted = mount(&device, target, "ext4", MountFlags::empty(), None);
    run("losetup", &["--detach", &device])?;
    mounted.ok()?;
    let name = device.strip_prefix("/dev/")?.to_owned();
    Some((Mounted(target.to_owned()), name))
}

#[tokio::test]
async fn short_of_space_refuses_by_on_failure_while_records_go_on() {
    for (on_failure, refuses) in [
        (AuditOnFailure::Deny, true),
        (AuditOnFailure::Block, true),
        (AuditOnFailure::Continue, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut config = config(&path);
        config.on_failure = on_failure;
        // More than any disk has.
        config.space.refuse_bytes = u64::MAX / 2;
        let handle = start(&config, 16);
        assert_eq!(handle.record(allowed(1)), Recorded::Queued);
        handle.flush().await.unwrap();
        let health = handle.health();
        assert!(health.writable && health.short_of_space);
        assert_eq!(health.must_refuse, refuses, "{on_failure:?}");
        handle.stop().await;
        let actions: Vec<_> = records(&path).into_iter().map(|r| r.action).collect();
        assert_eq!(actions, ["space", "send"]);
    }
}
