//! What is needed beside the parts themselves: the head, the key, readable packing, true sums.

use super::*;

#[test]
fn the_head_is_needed_unless_it_is_waived_and_must_be_this_logs() {
    for chain in [plain(), keyed()] {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        let lines = grow(&chain, Digest::ZERO, 1, 12, "user");
        fs::write(&log, lines.concat()).unwrap();
        let kind = |head: &HeadCheck| {
            let report = check(&log, &chain, head);
            report.problem.map(|problem| problem.kind)
        };
        assert_eq!(kind(&HeadCheck::Required), Some(BadHead), "missing");
        assert_eq!(kind(&HeadCheck::Skipped), None);
        write_head(&log, &chain, &lines[11]);
        assert_eq!(kind(&HeadCheck::Required), None);
        let good = fs::read_to_string(head_path(&log)).unwrap();
        fs::write(head_path(&log), good.replace("\"seq\":12", "\"seq\":11")).unwrap();
        assert_eq!(kind(&HeadCheck::Required), Some(BadHead), "edited");
        fs::write(head_path(&log), "{").unwrap();
        assert_eq!(kind(&HeadCheck::Required), Some(BadHead), "damaged");
        // A copy made earlier still names a record of this log.
        write_head(&log, &chain, &lines[5]);
        let copy = dir.path().join("copy");
        fs::rename(head_path(&log), &copy).unwrap();
        assert_eq!(kind(&HeadCheck::Copy(copy)), None);
        let other = grow(&chain, Digest::ZERO, 1, 12, "other");
        write_head(&log, &chain, &other[11]);
        assert_eq!(kind(&HeadCheck::Required), Some(Forked), "another log's");
        fs::write(dir.path().join("audit.log"), lines[4..].concat()).unwrap();
        write_head(&log, &chain, &lines[2]);
        assert_eq!(
            kind(&HeadCheck::Required),
            Some(BadHead),
            "older than the log"
        );
    }
}

#[test]
fn a_key_is_asked_for_where_the_log_was_written_with_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let lines = grow(&keyed(), Digest::ZERO, 1, 3, "user");
    fs::write(&log, lines.concat()).unwrap();
    write_head(&log, &keyed(), &lines[2]);
    let problem = check(&log, &plain(), &HeadCheck::Required).problem.unwrap();
    assert_eq!(problem.kind, BadHead);
    assert!(problem.detail.contains("--key-file"), "{problem:?}");
    let other = Chain::new(Some(&Secret::new("another".to_owned())));
    let problem = check(&log, &other, &HeadCheck::Required).problem.unwrap();
    assert_eq!((problem.kind, problem.seq), (Edited, Some(1)));
    assert!(
        problem.detail.contains("the key may be another"),
        "{problem:?}"
    );
}

#[test]
fn a_part_that_cannot_be_unpacked_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let lines = grow(&plain(), Digest::ZERO, 1, 4_000, "user");
    write_head(&log, &plain(), &lines[3_999]);
    let packed = zstd::stream::encode_all(&*lines[..3_996].concat(), 1).unwrap();
    let part = dir.path().join("audit.log.1.zst");
    fs::write(&part, &packed[..packed.len() / 2]).unwrap();
    fs::write(&log, lines[3_996..].concat()).unwrap();
    let report = check(&log, &plain(), &HeadCheck::Required);
    let problem = report.problem.unwrap();
    assert_eq!((problem.kind, problem.file), (Unreadable, part));
    assert_eq!(problem.seq, Some(report.records + 1));
    assert_eq!(problem.line, report.records + 1);
}

#[test]
fn totals_that_are_not_the_sums_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let mut text = Vec::new();
    let mut prev = Digest::ZERO;
    let rows = [
        (1, None),
        (2, Some(1)),
        (3, None),
        (4, Some(2)),
        (5, Some(3)),
    ];
    for (seq, total) in rows {
        let action = if total.is_some() {
            "checkpoint"
        } else {
            "drop"
        };
        let mut event = Event::new(EventKind::Network, action, Outcome::Deny, "banned");
        event.count = u64::from(total.is_none());
        let mut entry = Entry::from(event);
        entry.totals = total.map(|total| [("banned".to_owned(), total)].into());
        let mut record = Record::new(&entry, seq, prev);
        record.encode(&plain(), &mut text);
        prev = record.hash;
    }
    fs::write(&log, text).unwrap();
    let report = check(&log, &plain(), &HeadCheck::Skipped);
    let problem = report.problem.unwrap();
    assert_eq!((problem.kind, problem.seq), (ProblemKind::Sums, Some(5)));
    assert_eq!((problem.line, report.checkpoints), (5, 2));
}
