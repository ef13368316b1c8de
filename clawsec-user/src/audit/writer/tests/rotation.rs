//! Rotation by size, age and room, with compression beside it and crashes in between.

use super::*;
use crate::audit::{Packing, parts};

fn packed(path: &Path) -> usize {
    let parts = parts(path).unwrap();
    let packed = parts.iter().filter(|part| part.packing == Packing::Zstd);
    packed.count()
}

async fn write(handle: &AuditHandle, count: u64) {
    for number in 0..count {
        while handle.health().queued > 4000 {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(handle.record(allowed(number)), Recorded::Queued);
    }
    handle.flush().await.unwrap();
}

#[tokio::test]
async fn rotated_parts_are_compressed_and_every_line_is_still_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let mut config = config(&path);
    config.rotate_bytes = 30_000;
    config.rotate_keep = 100;
    config.rotate_compress = true;
    let handle = start(&config, 8192);
    write(&handle, 1000).await;
    // The writer puts what is compressed in its place when it next has something to do.
    until("all but the newest are compressed", || {
        handle.reopen();
        let parts = parts(&path).unwrap().len();
        parts > 5 && packed(&path) == parts - 1
    })
    .await;
    handle.stop().await;
    let sent = records(&path);
    let sent = sent.iter().filter(|record| record.action == "send");
    assert_eq!(sent.count(), 1000);
    assert_eq!(problem(&path), None);
    assert!(!dir.path().join("audit.log.packing").exists());
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    for part in parts(&path).unwrap() {
        assert_eq!(mode(&part.path), 0o600, "{}", part.path.display());
    }
}

#[tokio::test]
async fn a_crash_at_any_step_of_compressing_leaves_each_line_once() {
    type Crash = fn(&Path);
    let rows: [(&str, Crash); 3] = [
        ("while the copy is filled", |log| {
            fs::write(log.with_extension("log.packing"), "half a fra").unwrap();
        }),
        ("before the copy has its name", |log| {
            let part = fs::File::open(log.with_extension("log.1")).unwrap();
            let packed = zstd::encode_all(part, 3).unwrap();
            fs::write(log.with_extension("log.packing"), packed).unwrap();
        }),
        ("before the original is removed", |log| {
            let part = fs::File::open(log.with_extension("log.1")).unwrap();
            let packed = zstd::encode_all(part, 3).unwrap();
            fs::write(log.with_extension("log.1.zst"), packed).unwrap();
        }),
    ];
    for (name, crash) in rows {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut config = config(&path);
        config.rotate_bytes = 30_000;
        config.rotate_keep = 100;
        let handle = start(&config, 8192);
        write(&handle, 200).await;
        handle.stop().await;
        crash(&path);
        assert_eq!(problem(&path), None, "{name}: readable as it was left");
        config.rotate_compress = true;
        let handle = start(&config, 8192);
        write(&handle, 200).await;
        until("all but the newest are compressed", || {
            handle.reopen();
            packed(&path) + 1 == parts(&path).unwrap().len()
        })
        .await;
        handle.stop().await;
        let sent = records(&path);
        let sent = sent.iter().filter(|record| record.action == "send");
        assert_eq!(sent.count(), 400, "{name}");
        assert_eq!(problem(&path), None, "{name}");
        let files = fs::read_dir(dir.path()).unwrap().count();
        // Head and lock besides the parts.
        assert_eq!(files, parts(&path).unwrap().len() + 2, "{name}");
    }
}

#[tokio::test]
async fn a_file_is_rotated_when_it_is_old_though_small_and_idle() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let mut config = config(&path);
    let handle = start(&config, 16);
    write(&handle, 2).await;
    handle.stop().await;
    config.rotate_age = Some(Duration::from_hours(1));
    let young = start(&config, 16);
    young.flush().await.unwrap();
    young.stop().await;
    assert_eq!(parts(&path).unwrap().len(), 1, "not old yet");
    config.rotate_age = Some(Duration::from_millis(1));
    // What began in another life is old in this one.
    let handle = start(&config, 16);
    handle.reopen();
    until("it is rotated", || parts(&path).unwrap().len() == 2).await;
    until("and the new file begins", || {
        records(&path).iter().any(|record| record.reason == "age")
    })
    .await;
    handle.stop().await;
    assert_eq!(parts(&path).unwrap().len(), 2, "an empty file never is old");
    assert_eq!(problem(&path), None);
}

#[tokio::test]
async fn parts_together_are_no_larger_than_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let mut config = config(&path);
    config.rotate_bytes = 10_000;
    config.rotate_keep = 1000;
    config.rotate_total_bytes = Some(45_000);
    let handle = start(&config, 8192);
    write(&handle, 1000).await;
    handle.stop().await;
    let parts = parts(&path).unwrap();
    let rotated = parts.iter().filter(|part| part.number > 0);
    let bytes: u64 = rotated
        .map(|part| fs::metadata(&part.path).unwrap().len())
        .sum();
    assert!(bytes <= 45_000 && parts.len() >= 5, "{bytes} {parts:?}");
    assert_eq!(problem(&path), None);
    let rotated = records(&path);
    let mut told = rotated.iter().filter_map(|record| record.detail.as_deref());
    assert!(told.next_back().unwrap().ends_with("1 older parts removed"));
}
