//! The records that are asked for, in the order of the log, found by all cores.

use std::ops::ControlFlow;
use std::path::Path;

use super::blocks::{Blocks, lines};
use super::filter::Filter;
use super::glance::Glance;
use super::parts::ReadError;
use super::scan::{OnProgress, Piece, scan};

/// What a search came to.
#[derive(Debug, Default)]
pub struct Found {
    pub records: u64,
    /// Lines that are no records; what they were cannot be asked.
    pub unreadable: u64,
    /// What could not be read.
    pub damages: Vec<ReadError>,
}

/// Gives each record that the filter takes to `give`, as it stands in the file, until that says
/// that it wants no more.
///
/// # Errors
/// `Missing` when there is no log, and when a part cannot be read at all.
pub fn query(
    log: &Path,
    filter: &Filter,
    progress: OnProgress<'_>,
    mut give: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<Found, ReadError> {
    let as_it_is = |line: &[u8], text: &mut Vec<u8>| {
        text.extend_from_slice(line);
        text.push(b'\n');
        true
    };
    let mut records = 0;
    let found = convert(log, filter, progress, as_it_is, |text| {
        for (_, line, _) in lines(text) {
            records += 1;
            give(line)?;
        }
        ControlFlow::Continue(())
    })?;
    Ok(Found { records, ..found })
}

/// The same in another form, which all cores make: `form` appends a record to the text, or says that
/// it is none; `give` gets the text of many records at once.
///
/// # Errors
/// As `query`.
pub fn convert(
    log: &Path,
    filter: &Filter,
    progress: OnProgress<'_>,
    form: impl Fn(&[u8], &mut Vec<u8>) -> bool + Sync,
    mut give: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<Found, ReadError> {
    let mut blocks = Blocks::open(log)?;
    let mut found = Found::default();
    scan(
        &mut blocks,
        progress,
        || (),
        |(), block| {
            let mut text = Vec::new();
            let (mut records, mut unreadable) = (0, 0);
            for (_, line, whole) in lines(&block.text) {
                match Glance::parse(line) {
                    Ok(record) if whole && filter.takes(&record) => {
                        let is_record = form(line, &mut text);
                        records += u64::from(is_record);
                        unreadable += u64::from(!is_record);
                    }
                    Err(_) if whole => unreadable += 1,
                    _ => {}
                }
            }
            (text, records, unreadable)
        },
        |piece| match piece {
            Piece::Made((text, records, unreadable)) => {
                found.records += records;
                found.unreadable += unreadable;
                give(&text)
            }
            Piece::Damage(error) => {
                found.damages.push(error);
                ControlFlow::Continue(())
            }
        },
    );
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::audit::entry::Entry;
    use crate::audit::{Chain, Digest, Record};
    use crate::event::{Event, EventKind, Outcome};

    #[test]
    fn what_is_asked_for_comes_in_order_from_every_part_until_enough() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        let mut text = Vec::new();
        for seq in 1..=9_000_u64 {
            let mut event = Event::new(EventKind::Tool, "invoke", Outcome::Allow, "ok");
            event.user = Some(format!("user{}", seq % 100));
            Record::new(&Entry::from(event), seq, Digest::ZERO)
                .encode(&Chain::new(None), &mut text);
        }
        let half = memchr::memchr_iter(b'\n', &text).nth(4_500).unwrap() + 1;
        let packed = zstd::stream::encode_all(&text[..half], 1).unwrap();
        fs::write(dir.path().join("audit.log.1.zst"), packed).unwrap();
        fs::write(&log, [&text[half..], b"torn"].concat()).unwrap();
        let filter = Filter {
            users: vec!["user7".to_owned(), "user8".to_owned()],
            ..Filter::default()
        };
        let ask = |most: usize| {
            let mut seqs = Vec::new();
            let found = query(&log, &filter, &mut |_| {}, |line| {
                seqs.push(Glance::parse(line).unwrap().seq);
                if seqs.len() == most {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            (seqs, found.unwrap())
        };
        let (all, found) = ask(usize::MAX);
        let expected: Vec<_> = (1..=9_000)
            .filter(|seq| matches!(seq % 100, 7 | 8))
            .collect();
        assert_eq!(all, expected);
        assert_eq!((found.records, found.unreadable), (180, 0));
        assert_eq!(ask(3).0, expected[..3]);
    }
}
