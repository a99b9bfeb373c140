//! Everything that is in a directory or in one file, a line for each.

use std::io::{self, ErrorKind, Read, Write};
use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use raftkv::disk::{DirReader, Entry, FileId, SegmentId};
use raftkv::kv::{Command, WriteOp};
use raftkv::node::was_established;
use raftkv::raft::Configuration;
use raftkv::types::HardState;
use raftkv::wal::{HeaderState, Item, Position, inspect_header, inspect_segment};

use super::Failure;
use super::look::{read_pieces, restore};

/// Shows it, and answers whether all checksums were right.
pub fn dump(path: &Path, out: &mut impl Write) -> Result<bool, Failure> {
    let unreadable = |error| Failure::Unreadable(path.to_path_buf(), error);
    let not_ours = || Failure::NotOurs(path.to_path_buf());
    let (dir, entries) = if std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        let entries = DirReader::new(path).entries().map_err(unreadable)?;
        let entries: Vec<Entry> = entries.into_iter().map(|(entry, _)| entry).collect();
        (path, entries)
    } else {
        let name = path.file_name().and_then(|name| name.to_str());
        let entry = name.and_then(Entry::of_name).ok_or_else(not_ours)?;
        (path.parent().unwrap_or(Path::new("")), vec![entry])
    };
    // The directory of a bare file name is the working directory.
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    if entries.is_empty() {
        return Err(not_ours());
    }
    let (reader, mut intact) = (DirReader::new(dir), true);
    for entry in entries {
        intact &= match dump_entry(&reader, entry, out) {
            // A running node has removed it meanwhile.
            Err(Failure::Unreadable(_, error))
                if error.kind() == ErrorKind::NotFound && entry != Entry::Meta =>
            {
                true
            }
            shown => shown?,
        };
    }
    Ok(intact)
}

fn dump_entry(reader: &DirReader, entry: Entry, out: &mut impl Write) -> Result<bool, Failure> {
    let unreadable = |error| Failure::Unreadable(entry.name().into(), error);
    match entry {
        Entry::Meta => match reader.meta() {
            Ok(meta) => {
                let meta = meta.ok_or_else(|| unreadable(ErrorKind::NotFound.into()))?;
                let replaces = meta
                    .replaces
                    .map_or("none".into(), |old| format!("{old:016x}"));
                writeln!(
                    out,
                    "meta version={} node={} cluster={:016x} incarnation={:016x} replaces={replaces} birth={} was_voter={}",
                    meta.version,
                    meta.node.0,
                    meta.cluster_id,
                    meta.incarnation,
                    meta.birth,
                    meta.was_voter
                )?;
                Ok(true)
            }
            Err(error) => damaged(out, "meta", &error.to_string()),
        },
        Entry::Segment(id) => {
            let mut bytes = Vec::new();
            let file = reader.open(entry).map_err(unreadable)?;
            { file }.read_to_end(&mut bytes).map_err(unreadable)?;
            dump_segment(id, &bytes, reader, out)
        }
        Entry::File(FileId::Peers) => {
            let mut content = Vec::new();
            let read = read_pieces(reader, entry, |piece| {
                content.extend_from_slice(piece);
                true
            });
            read.map_err(unreadable)?;
            dump_peers(&content, out)
        }
        Entry::File(FileId::Snapshot(_)) => dump_snapshot(reader, entry, out),
        Entry::File(_) => {
            writeln!(out, "{} unfinished", entry.name())?;
            Ok(true)
        }
    }
}

fn damaged(out: &mut impl Write, name: &str, reason: &str) -> Result<bool, Failure> {
    writeln!(out, "{name} DAMAGED: {reason}")?;
    Ok(false)
}

fn position(at: Position) -> String {
    format!("{:016x}.wal:{}", at.segment.0, at.offset)
}

fn dump_segment(
    id: SegmentId,
    bytes: &[u8],
    reader: &DirReader,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    let name = Entry::Segment(id).name();
    let incarnation = match inspect_header(bytes) {
        HeaderState::Valid(header) if header.id == id => {
            let continues = header.continues.map_or("none".to_owned(), position);
            writeln!(
                out,
                "{name} bytes={} node={} cluster={:016x} incarnation={:016x} first_batch={} continues={continues} mark={}",
                header.len,
                header.node.0,
                header.cluster_id,
                header.incarnation,
                header.first_seq,
                position(header.mark)
            )?;
            header.incarnation
        }
        HeaderState::Newer => return damaged(out, &name, "a newer format of the log"),
        // Made ahead and not begun, or recycled and not begun; or its header is damaged.
        HeaderState::Valid(_) | HeaderState::Invalid => {
            let Ok(Some(meta)) = reader.meta() else {
                return damaged(out, &name, "no header, and no `meta` to read it by");
            };
            writeln!(
                out,
                "{name} bytes={} without a header of its own",
                bytes.len()
            )?;
            meta.incarnation
        }
    };
    let mut shown = Ok(());
    let end = inspect_segment(bytes, id, incarnation, |at, item| {
        if shown.is_ok() {
            shown = show(out, at, item);
        }
    });
    shown?;
    writeln!(out, "  {} end: {}", end.offset, end.reason)?;
    if end.stray_batches > 0 {
        let reason = format!("{} batches behind the end", end.stray_batches);
        return damaged(out, &name, &reason);
    }
    Ok(true)
}

fn show(out: &mut impl Write, at: u64, item: Item<'_>) -> io::Result<()> {
    match item {
        Item::Batch { seq, records, mark } => writeln!(
            out,
            "  {at} batch {seq} records={records} mark={}",
            position(mark)
        ),
        Item::HardState(HardState { term, voted_for }) => {
            let vote = voted_for.map_or("none".to_owned(), |server| server.to_string());
            writeln!(out, "  {at} hard_state term={term} voted_for={vote}")
        }
        Item::Truncate(from) => writeln!(out, "  {at} truncate from={from}"),
        Item::SnapshotMark { id, restart } => {
            writeln!(out, "  {at} snapshot_mark {id} restart={restart}")
        }
        Item::Entry { id, kind, data } => {
            let what = match kind {
                "command" => command(data),
                "config" => members(data),
                _ => String::new(),
            };
            writeln!(out, "  {at} entry {id} {kind} bytes={}{what}", data.len())
        }
    }
}

/// What an entry asks for, without its value.
fn command(data: &[u8]) -> String {
    match Command::decode(&Bytes::copy_from_slice(data)) {
        Ok(Command::OpenSession { .. }) => " open_session".to_owned(),
        Ok(Command::Batch { operations, .. }) => {
            let each: Vec<String> = operations.iter().map(|op| operation(&op)).collect();
            format!(" batch{}", each.concat())
        }
        Ok(Command::Write { op, .. }) => operation(&op),
        Err(error) => format!(" not known here: {error}"),
    }
}

fn operation<B: AsRef<[u8]>>(op: &WriteOp<B>) -> String {
    let what = match op {
        WriteOp::Put { .. } => "put",
        WriteOp::Update { .. } => "update",
        WriteOp::Remove { .. } => "remove",
        WriteOp::Cas { .. } => "cas",
    };
    format!(" {what} key=\"{}\"", op.key().as_ref().escape_ascii())
}

fn members(data: &[u8]) -> String {
    match Configuration::decode(data) {
        Ok(configuration) => {
            let each = configuration
                .members()
                .map(|(server, _)| server.to_string());
            let each = each.collect::<Vec<_>>().join(",");
            format!(
                " level={} birth={} members={each}",
                configuration.level(),
                configuration.birth()
            )
        }
        Err(_) => " not known here".to_owned(),
    }
}

fn dump_peers(content: &[u8], out: &mut impl Write) -> Result<bool, Failure> {
    let Some(may_vote) = was_established(content) else {
        return damaged(
            out,
            "peers",
            "its checksum is wrong, or it is of a newer version",
        );
    };
    writeln!(out, "peers may_vote={may_vote}")?;
    Ok(true)
}

fn dump_snapshot(reader: &DirReader, entry: Entry, out: &mut impl Write) -> Result<bool, Failure> {
    let name = entry.name();
    let read = restore(reader, entry);
    let read = read.map_err(|error| Failure::Unreadable(name.clone().into(), error))?;
    let finished = read.and_then(|(info, restore)| Ok((info, restore.finish()?)));
    let (info, (machine, configuration)) = match finished {
        Ok(finished) => finished,
        Err(error) => return damaged(out, &name, &error.to_string()),
    };
    writeln!(
        out,
        "{name} last={} keys={} data_bytes={} bytes={} checksum={:08x} sessions={}{}",
        info.last,
        info.keys,
        info.data_bytes,
        info.total_bytes,
        info.checksum,
        machine.session_count(),
        members(&configuration)
    )?;
    for (key, value) in machine.range_from(Bound::Unbounded) {
        writeln!(
            out,
            "  key=\"{}\" value_bytes={}",
            key.escape_ascii(),
            value.len()
        )?;
    }
    Ok(true)
}
