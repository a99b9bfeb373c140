//! What segments and files are called in a data directory. Names are parsed
//! strictly: whatever else lies there is left alone.

use super::{FileId, SegmentId};
use crate::types::{EntryId, NodeId};

/// The name of what the program begins but has not finished; gone at the next start.
pub(super) const DRAFT_SUFFIX: &str = ".draft";
const REMOVED_PREFIX: &str = "removed-";

pub(super) fn segment(id: SegmentId) -> String {
    format!("{:016x}.wal", id.0)
}

pub(super) fn segment_draft(id: SegmentId) -> String {
    segment(id) + DRAFT_SUFFIX
}

/// A file that is being removed.
pub(super) fn removed(number: u64) -> String {
    format!("{REMOVED_PREFIX}{number:016x}{DRAFT_SUFFIX}")
}

pub(super) fn file(id: FileId) -> String {
    let snapshot = |last: EntryId| format!("{:016x}-{:016x}", last.index.0, last.term.0);
    match id {
        FileId::Snapshot(last) => snapshot(last) + ".snap",
        FileId::SnapshotDraft(last) => snapshot(last) + ".snap.draft",
        FileId::SnapshotIncoming {
            last,
            checksum,
            leader,
        } => format!(
            "{}-{checksum:08x}-{:016x}.snap.incoming",
            snapshot(last),
            leader.0
        ),
        FileId::Meta => "meta".into(),
        FileId::MetaDraft => "meta.draft".into(),
        FileId::Peers => "peers".into(),
    }
}

/// Exactly so many lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u64> {
    let strict = text.len() == digits
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    strict.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

pub(super) fn parse_segment(name: &str) -> Option<SegmentId> {
    hex(name.strip_suffix(".wal")?, 16).map(SegmentId)
}

pub(super) fn parse_file(name: &str) -> Option<FileId> {
    match name {
        "meta" => return Some(FileId::Meta),
        "meta.draft" => return Some(FileId::MetaDraft),
        "peers" => return Some(FileId::Peers),
        _ => {}
    }
    let (numbers, suffix) = name.split_once('.')?;
    let mut numbers = numbers.split('-');
    let index = hex(numbers.next()?, 16)?;
    let term = hex(numbers.next()?, 16)?;
    let last = EntryId::new(term, index);
    let id = match suffix {
        "snap" => FileId::Snapshot(last),
        "snap.draft" => FileId::SnapshotDraft(last),
        "snap.incoming" => FileId::SnapshotIncoming {
            last,
            checksum: hex(numbers.next()?, 8)? as u32,
            leader: NodeId(hex(numbers.next()?, 16)?),
        },
        _ => return None,
    };
    numbers.next().is_none().then_some(id)
}

/// Whether it is something that was begun by an earlier run and is of no use now.
pub(super) fn is_stale_draft(name: &str) -> bool {
    match name.strip_suffix(DRAFT_SUFFIX) {
        Some(segment) if parse_segment(segment).is_some() => true,
        Some(name)
            if name
                .strip_prefix(REMOVED_PREFIX)
                .is_some_and(|n| hex(n, 16).is_some()) =>
        {
            true
        }
        _ => matches!(
            parse_file(name),
            Some(FileId::SnapshotDraft(_) | FileId::MetaDraft)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_parsed_back_to_what_it_names() {
        let last = EntryId::new(3, 0x1234);
        let ids = [
            FileId::Snapshot(last),
            FileId::SnapshotDraft(last),
            FileId::SnapshotIncoming {
                last,
                checksum: 0xfedc,
                leader: NodeId(u64::MAX),
            },
            FileId::Meta,
            FileId::MetaDraft,
            FileId::Peers,
        ];
        for id in ids {
            assert_eq!(parse_file(&file(id)), Some(id));
        }
        let id = SegmentId(0xabc);
        assert_eq!(segment(id), "0000000000000abc.wal");
        assert_eq!(parse_segment(&segment(id)), Some(id));
    }

    #[test]
    fn a_name_that_is_not_exactly_ours_is_not_ours() {
        for name in [
            "1.wal",
            "000000000000000A.wal",
            "+00000000000000a.wal",
            "000000000000000a.wal.bak",
            "000000000000000a.wa",
        ] {
            assert_eq!(parse_segment(name), None, "{name}");
        }
        let snapshot = file(FileId::Snapshot(EntryId::new(1, 1)));
        for name in [
            "notes.snap",
            "peers.bak",
            &format!("{snapshot}.draft.draft"),
            &format!("a{snapshot}"),
            &snapshot.replace(".snap", "-00.snap"),
        ] {
            assert_eq!(parse_file(name), None, "{name}");
        }
    }

    #[test]
    fn only_drafts_are_stale() {
        let last = EntryId::new(1, 1);
        assert!(is_stale_draft("meta.draft"));
        assert!(is_stale_draft(&segment_draft(SegmentId(1))));
        assert!(is_stale_draft(&file(FileId::SnapshotDraft(last))));
        assert!(is_stale_draft(&removed(7)));
        for name in [
            "meta",
            "mine.draft",
            ".draft",
            &file(FileId::Snapshot(last)),
        ] {
            assert!(!is_stale_draft(name), "{name}");
        }
    }
}
