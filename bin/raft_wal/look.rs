//! One look at a directory: what a start would find, and what is wrong.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use raftkv::disk::{DirReader, Entry, FileId, Meta};
use raftkv::kv::{Restore, SessionLimits, SnapshotError, SnapshotInfo};
use raftkv::node::{OpenError, was_established};
use raftkv::types::{Birth, EntryId, Payload};
use raftkv::wal::{HeaderState, Recovered, WalOptions, inspect_header, verify_log};
use serde::Serialize;

use super::Failure;

const READ_BYTES: usize = 1 << 20;
/// The longest header of a segment.
const HEADER_BYTES: usize = 4096;

/// What was seen.
#[derive(Default)]
pub struct Look {
    /// A line for each thing that is as it should be.
    pub notes: Vec<String>,
    /// A line for each that is not, with what to do.
    pub problems: Vec<String>,
    /// Sizes and counts, as far as things can be read.
    pub stats: Stats,
}

/// Sizes and counts of a directory.
#[derive(Default, Serialize)]
pub struct Stats {
    node: Option<u64>,
    cluster: Option<String>,
    incarnation: Option<String>,
    /// The incarnation of a damaged directory whose place it took.
    replaces: Option<String>,
    /// The cluster that the directory belongs to, if it was founded or adopted.
    birth: Option<String>,
    /// True if a configuration has named the directory a voter.
    was_voter: Option<bool>,
    /// By the file `peers` of the version before: whether the node took part in elections.
    may_vote: Option<bool>,
    segments: usize,
    /// Those that are part of the log.
    segments_live: usize,
    segment_bytes: u64,
    /// Bytes of batches that belong to the log.
    batch_bytes: u64,
    term: Option<u64>,
    voted_for: Option<u64>,
    /// The log begins behind this entry.
    log_begins_behind: Option<u64>,
    last_index: Option<u64>,
    entries: usize,
    commands: usize,
    command_bytes: u64,
    /// A write was cut off that a crash had left incomplete.
    torn: bool,
    snapshots: Vec<SnapshotStats>,
    /// Bytes of snapshots that are being received.
    incoming_bytes: u64,
}

/// One snapshot.
#[derive(Serialize)]
pub struct SnapshotStats {
    last_index: u64,
    last_term: u64,
    bytes: u64,
    intact: bool,
    keys: Option<u64>,
    data_bytes: Option<u64>,
    checksum: Option<String>,
}

impl Stats {
    /// As lines for people.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let text = serde_json::to_value(self).map_err(io::Error::from)?;
        for (name, value) in text.as_object().into_iter().flatten() {
            if name != "snapshots" {
                let value = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                writeln!(out, "{:20} {value}", name.replace('_', " "))?;
            }
        }
        for snapshot in &self.snapshots {
            let keys = snapshot
                .keys
                .map_or("?".to_owned(), |keys| keys.to_string());
            writeln!(
                out,
                "snapshot             {}@{} bytes={} keys={keys} intact={}",
                snapshot.last_index, snapshot.last_term, snapshot.bytes, snapshot.intact
            )?;
        }
        Ok(())
    }
}

/// Reads a file to its end, a piece at a time; `false` from `take` ends it early.
pub fn read_pieces(
    reader: &DirReader,
    entry: Entry,
    mut take: impl FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    let (mut file, mut piece) = (reader.open(entry)?, vec![0; READ_BYTES]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) if take(&piece[..count]) => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads a snapshot as a start would.
///
/// # Errors
/// When it cannot be read.
pub fn restore(
    reader: &DirReader,
    entry: Entry,
) -> io::Result<Result<(SnapshotInfo, Restore), SnapshotError>> {
    let mut restore = Restore::new(SessionLimits::default());
    let mut fed = Ok(());
    read_pieces(reader, entry, |piece| {
        fed = restore.feed(piece);
        fed.is_ok()
    })?;
    Ok(fed.and_then(|()| Ok((restore.info()?, restore))))
}

impl Look {
    /// Reads all of a directory.
    pub fn at(dir: &Path) -> Result<Look, Failure> {
        let reader = DirReader::new(dir);
        let unreadable = |error| Failure::Unreadable(dir.to_path_buf(), error);
        let entries = reader.entries().map_err(unreadable)?;
        if entries.is_empty() {
            return Err(Failure::NotOurs(dir.to_path_buf()));
        }
        let mut look = Look::default();
        let meta = look.meta(&reader);
        look.peers(&reader, &entries).map_err(unreadable)?;
        let newest = look.snapshots(&reader, &entries).map_err(unreadable)?;
        let meta = meta.or_else(|| owner_by_log(&reader, &entries));
        look.log(reader, &entries, meta, newest);
        Ok(look)
    }

    fn meta(&mut self, reader: &DirReader) -> Option<Meta> {
        match reader.meta() {
            Ok(Some(meta)) => {
                self.stats.node = Some(meta.node.0);
                self.stats.cluster = Some(format!("{:016x}", meta.cluster_id));
                self.stats.incarnation = Some(format!("{:016x}", meta.incarnation));
                self.stats.replaces = meta.replaces.map(|old| format!("{old:016x}"));
                let is_born = meta.birth != Birth::NONE;
                self.stats.birth = is_born.then(|| meta.birth.to_string());
                self.stats.was_voter = is_born.then_some(meta.was_voter);
                self.notes.push(format!(
                    "meta: node {} of cluster {:016x}, incarnation {:016x}, birth {}",
                    meta.node.0, meta.cluster_id, meta.incarnation, meta.birth
                ));
                Some(meta)
            }
            Ok(None) => {
                self.problems.push("meta: is missing".to_owned());
                None
            }
            Err(error) => {
                self.problems.push(error.to_string());
                None
            }
        }
    }

    fn peers(&mut self, reader: &DirReader, entries: &[(Entry, u64)]) -> io::Result<()> {
        let entry = Entry::File(FileId::Peers);
        if !entries.iter().any(|(found, _)| *found == entry) {
            return Ok(());
        }
        let mut content = Vec::new();
        read_pieces(reader, entry, |piece| {
            content.extend_from_slice(piece);
            content.len() <= READ_BYTES
        })?;
        match was_established(&content) {
            Some(may_vote) => {
                self.stats.may_vote = Some(may_vote);
                self.notes.push(format!("peers: may_vote={may_vote}"));
            }
            None => self.problems.push(OpenError::Peers.to_string()),
        }
        Ok(())
    }

    /// The newest intact snapshot, and why it is not the newest file, if it is not.
    fn snapshots(
        &mut self,
        reader: &DirReader,
        entries: &[(Entry, u64)],
    ) -> io::Result<(EntryId, Option<String>)> {
        let (mut newest, mut damaged) = (EntryId::ZERO, None);
        for (entry, bytes) in entries {
            let last = match entry {
                Entry::File(FileId::Snapshot(last)) => *last,
                Entry::File(FileId::SnapshotIncoming { .. }) => {
                    self.stats.incoming_bytes += bytes;
                    continue;
                }
                _ => continue,
            };
            let name = entry.name();
            let info = match restore(reader, *entry)? {
                Ok((info, _)) => {
                    self.notes.push(format!(
                        "{name}: state up to {last}, {} keys, {bytes} bytes, checksum {:08x}",
                        info.keys, info.checksum
                    ));
                    (newest, damaged) = (last, None);
                    Some(info)
                }
                Err(error) => {
                    self.problems.push(format!(
                        "{name}: {error}; a start uses an older one if the log reaches back to it"
                    ));
                    damaged = Some(format!(
                        "the snapshot that ends at {last} is damaged ({error})"
                    ));
                    None
                }
            };
            self.stats.snapshots.push(SnapshotStats {
                last_index: last.index.0,
                last_term: last.term.0,
                bytes: *bytes,
                intact: info.is_some(),
                keys: info.map(|info| info.keys),
                data_bytes: info.map(|info| info.data_bytes),
                checksum: info.map(|info| format!("{:08x}", info.checksum)),
            });
        }
        Ok((newest, damaged))
    }

    fn log(
        &mut self,
        mut reader: DirReader,
        entries: &[(Entry, u64)],
        meta: Option<Meta>,
        (newest, damaged): (EntryId, Option<String>),
    ) {
        let segments = entries.iter().filter_map(|(entry, len)| match entry {
            Entry::Segment(_) => Some(*len),
            _ => None,
        });
        self.stats.segments = segments.clone().count();
        self.stats.segment_bytes = segments.sum();
        if self.stats.segments == 0 {
            return self.no_log();
        }
        let Some(meta) = meta else {
            return; // Nothing says whose log it should be, which is a problem already.
        };
        let options = WalOptions::new(meta.node, meta.cluster_id, meta.incarnation);
        match verify_log(&mut reader, &options) {
            Ok((recovered, _)) if recovered.report.segments == 0 => self.no_log(),
            Ok((recovered, live)) => {
                self.stats.segments_live = live.len();
                self.recovered(&recovered);
                let mark = recovered.snapshot_mark;
                if newest.index < mark.index {
                    let found = damaged.unwrap_or_else(|| match newest {
                        EntryId::ZERO => "there is no snapshot".to_owned(),
                        last => format!("the newest snapshot ends at {last}"),
                    });
                    self.problems
                        .push(OpenError::SnapshotMissing { mark, found }.to_string());
                }
            }
            Err(error) => self.problems.push(error.to_string()),
        }
    }

    /// There is none, which is as it should be in a new directory alone.
    fn no_log(&mut self) {
        let found = match () {
            () if !self.stats.snapshots.is_empty() => "a snapshot is there",
            () if self.stats.may_vote.is_some() => "the file `peers` is there",
            () if self.stats.birth.is_some() => "`meta` names the cluster that it belonged to",
            () => return self.notes.push("log: none yet".to_owned()),
        };
        let problem = OpenError::LogMissing { found };
        self.problems.push(problem.to_string());
    }

    fn recovered(&mut self, recovered: &Recovered) {
        let stats = &mut self.stats;
        let last = recovered.entries.last().map(|entry| entry.id);
        let last = last.unwrap_or(recovered.snapshot_mark);
        stats.batch_bytes = recovered.report.bytes;
        stats.term = Some(recovered.hard_state.term.0);
        stats.voted_for = recovered.hard_state.voted_for.map(|server| server.id.0);
        stats.log_begins_behind = Some(recovered.snapshot_mark.index.0);
        stats.last_index = Some(last.index.0);
        stats.entries = recovered.entries.len();
        for entry in &recovered.entries {
            if let Payload::Command(bytes) = &entry.payload {
                stats.commands += 1;
                stats.command_bytes += bytes.len() as u64;
            }
        }
        stats.torn = recovered.report.torn.is_some();
        self.notes.push(format!(
            "log: term {}, entries behind {} up to {last}, {} segments, {} bytes of batches",
            recovered.hard_state.term,
            recovered.snapshot_mark,
            recovered.report.segments,
            recovered.report.bytes
        ));
        if let Some(torn) = &recovered.report.torn {
            self.notes.push(format!(
                "log: an incomplete write of a crash at {:016x}.wal offset {} will be cut off: {}",
                torn.at.segment.0, torn.at.offset, torn.reason
            ));
        }
    }
}

/// Without `meta`, the newest header says whose log it is.
fn owner_by_log(reader: &DirReader, entries: &[(Entry, u64)]) -> Option<Meta> {
    let segments = entries.iter().rev().map(|(entry, _)| *entry);
    segments
        .filter(|entry| matches!(entry, Entry::Segment(_)))
        .find_map(|entry| {
            let mut page = Vec::with_capacity(HEADER_BYTES);
            let file = reader.open(entry).ok()?;
            file.take(HEADER_BYTES as u64).read_to_end(&mut page).ok()?;
            match inspect_header(&page) {
                HeaderState::Valid(header) => Some(Meta::new(
                    header.node,
                    header.cluster_id,
                    header.incarnation,
                )),
                HeaderState::Newer | HeaderState::Invalid => None,
            }
        })
}
