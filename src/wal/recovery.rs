//! Reading the log after a restart: which segments belong to it, where it ends, and
//! whether what is missing was ever promised.
//!
//! 1. Each segment's header is read. One that never became valid is a spare, or a
//!    write that was torn, unless a durable mark says otherwise.
//! 2. The chain is followed back from the newest valid header. A segment that it
//!    passes by is void: an earlier recovery cut the log before it.
//! 3. The chain is replayed from its oldest segment to where it breaks or ends.
//! 4. All marks count, those of batches behind the break too. A break before the
//!    highest of them is damage.
//!
//! Step 3 relies on a rule of the writer: it begins a segment only when the header
//! and the opening of the one before are durable. So a segment that another one
//! continues from must be there in full, or have been compacted away. In the second
//! case the log begins in the middle, which is right if the snapshot mark covers
//! what is missing, and is checked at the end.

use super::record::{Batch, BatchError, Record, Salt, decode_batch, scan};
use super::replay::Replay;
use super::segment::{
    Continues, HEADER_BYTES, HeaderPage, Owner, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SegmentHeader,
};
use super::{ADVICE, Position, Recovered, RecoveryReport, TornTail, WalError, WalOptions};
use crate::disk::{LogSource, SegmentId, SegmentInfo};
use crate::types::Index;

/// A segment that is part of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct LiveSegment {
    pub(super) info: SegmentInfo,
    /// The highest entry that was ever written into it, [`Index::ZERO`] if none.
    pub(super) max_index: Index,
    /// Where its batches end.
    pub(super) end: u64,
}

/// The newest segment, if nothing was written into it but its opening.
fn is_unused(stop: &Stop) -> bool {
    stop.batches <= 1 && stop.reason.is_none()
}

/// What the writer needs to go on from what was recovered.
#[derive(Debug)]
pub(super) struct Tail {
    /// The segments of the log, oldest first.
    pub(super) live: Vec<LiveSegment>,
    /// Segments that are not part of it, and never will be.
    pub(super) garbage: Vec<SegmentInfo>,
    /// Where the fresh segment continues from.
    pub(super) continues: Option<Continues>,
    /// The highest mark that was found.
    pub(super) mark: Option<Position>,
    pub(super) next_seq: u64,
    pub(super) last_id: SegmentId,
}

/// Also what is found when the very record that allowed a segment to go is damaged,
/// though no later mark vouches for it.
pub(super) const SEGMENT_MISSING: &str =
    "the segment is missing, or the snapshot mark that stands for it is damaged";

const NEWEST_MISSING: &str = "the segment is missing";

fn corrupt(segment: SegmentId, offset_bytes: u64, reason: &'static str) -> WalError {
    WalError::Corrupt {
        segment,
        offset_bytes,
        reason,
        advice: ADVICE,
    }
}

/// Reads the first `len` bytes of a segment, no more than one can have.
fn read<S: LogSource>(
    disk: &mut S,
    id: SegmentId,
    buf: &mut Vec<u8>,
    len: u64,
) -> Result<(), WalError> {
    let len = len.min(SEGMENT_BYTES_MAX) as usize;
    // What is there already will be written over: not worth clearing first.
    buf.resize(len, 0);
    let mut done = 0;
    while done < len {
        match disk.read_segment(id, done as u64, &mut buf[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(source) => {
                let segment = Some(id);
                return Err(WalError::Read { segment, source });
            }
        }
    }
    buf.truncate(done);
    Ok(())
}

/// Where replaying stopped.
struct Stop {
    at: Position,
    chain: u32,
    /// How many batches of the last segment were replayed.
    batches: u64,
    /// Set unless it is the end of the newest segment.
    reason: Option<&'static str>,
}

struct Reader<'a, S> {
    disk: &'a mut S,
    owner: Owner,
    buf: Vec<u8>,
    /// The highest mark seen, and where it stood.
    mark: Option<(Position, Position)>,
    replay: Replay,
    next_seq: Option<u64>,
    report: RecoveryReport,
}

impl<S: LogSource> Reader<'_, S> {
    fn see_mark(&mut self, mark: Position, at: Position) {
        if self.mark.is_none_or(|(highest, _)| mark > highest) {
            self.mark = Some((mark, at));
        }
    }

    /// The headers of all segments; none for one that is not valid.
    fn headers(&mut self, infos: &[SegmentInfo]) -> Result<Vec<Option<SegmentHeader>>, WalError> {
        let mut headers = Vec::with_capacity(infos.len());
        for info in infos {
            // It gets its name when all of it is on the disk.
            if info.len < SEGMENT_BYTES_MIN || info.len % HEADER_BYTES as u64 != 0 {
                return Err(corrupt(info.id, info.len, "the file is cut short"));
            }
            read(self.disk, info.id, &mut self.buf, HEADER_BYTES as u64)?;
            headers.push(match SegmentHeader::decode(&self.buf) {
                HeaderPage::Invalid => None,
                HeaderPage::Newer => {
                    return Err(WalError::Unsupported {
                        segment: info.id,
                        offset_bytes: 0,
                        reason: "a newer format of the log",
                    });
                }
                HeaderPage::Valid(header) => {
                    self.check_owner(info.id, header.owner)?;
                    // One that was recycled has the header of its earlier life.
                    let valid = header.id == info.id;
                    if valid && header.len != info.len {
                        let end = header.len.min(info.len);
                        return Err(corrupt(info.id, end, "the length is not the header's"));
                    }
                    valid.then_some(header)
                }
            });
        }
        Ok(headers)
    }

    fn check_owner(&self, segment: SegmentId, owner: Owner) -> Result<(), WalError> {
        let pairs = [
            ("node", owner.node.0, self.owner.node.0),
            ("cluster", owner.cluster_id, self.owner.cluster_id),
            ("incarnation", owner.incarnation, self.owner.incarnation),
        ];
        match pairs
            .into_iter()
            .find(|(_, found, expected)| found != expected)
        {
            None => Ok(()),
            Some((what, found, expected)) => Err(WalError::Foreign {
                segment,
                what,
                found,
                expected,
            }),
        }
    }

    /// Replays one segment, from which the log goes on at `next` if it is not the newest.
    fn replay_segment(
        &mut self,
        info: SegmentInfo,
        header: &SegmentHeader,
        next: Option<Continues>,
    ) -> Result<(LiveSegment, Stop), WalError> {
        let mut buf = std::mem::take(&mut self.buf);
        read(self.disk, info.id, &mut buf, info.len)?;
        let limit = next.map_or(buf.len(), |next| next.from.offset as usize);
        let salt = Salt::new(self.owner.incarnation, info.id);
        let mut chain = salt.chain();
        let mut at = HEADER_BYTES;
        let mut max_index = Index::ZERO;
        if self.next_seq.is_some_and(|seq| seq != header.first_seq) {
            return Err(corrupt(info.id, 0, "batches are missing before it"));
        }
        let mut seq = header.first_seq;
        let reason = loop {
            if next.is_some() && at == limit {
                break next
                    .is_some_and(|next| next.chain != chain)
                    .then_some("the log does not continue in the next segment");
            }
            let batch = match decode_batch(&buf, at, limit, salt, chain) {
                Ok(batch) if batch.header.seq == seq => batch,
                Ok(_) => break Some("a batch out of sequence"),
                Err(BatchError::Broken { reason, .. }) => break Some(reason),
                Err(BatchError::Unknown { offset, reason }) => {
                    return Err(WalError::Unsupported {
                        segment: info.id,
                        offset_bytes: offset,
                        reason,
                    });
                }
            };
            max_index = max_index.max(self.apply(info.id, at, &batch)?);
            (at, chain, seq) = (batch.end, batch.chain, seq.wrapping_add(1));
        };
        self.next_seq = Some(seq);
        self.report.segments += 1;
        self.report.bytes += (at - HEADER_BYTES) as u64;
        let end = Position {
            segment: info.id,
            offset: at as u64,
        };
        let torn = reason.is_some() && self.scan(&buf, at, info.id);
        // The newest segment ends where its last batch ends: nothing is wrong there.
        let reason = reason.filter(|_| next.is_some() || torn);
        self.buf = buf;
        let live = LiveSegment {
            info,
            max_index,
            end: end.offset,
        };
        let stop = Stop {
            at: end,
            chain,
            batches: seq.wrapping_sub(header.first_seq),
            reason,
        };
        Ok((live, stop))
    }

    /// Takes in one batch; the answer is the highest entry in it.
    fn apply(&mut self, segment: SegmentId, at: usize, batch: &Batch) -> Result<Index, WalError> {
        let offset = at as u64;
        self.see_mark(batch.header.mark, Position { segment, offset });
        let mut max_index = Index::ZERO;
        for (offset, record) in &batch.records {
            if let Record::Entry { id, .. } = record {
                max_index = max_index.max(id.index);
            }
            let applied = self.replay.apply(record);
            applied.map_err(|reason| corrupt(segment, *offset, reason))?;
        }
        Ok(max_index)
    }

    /// Looks for marks behind a break; whether there was any batch.
    fn scan(&mut self, segment: &[u8], from: usize, id: SegmentId) -> bool {
        let salt = Salt::new(self.owner.incarnation, id);
        let mut found = false;
        for (offset, header) in scan(segment, from, salt) {
            found = true;
            let at = Position {
                segment: id,
                offset: offset as u64,
            };
            self.see_mark(header.mark, at);
        }
        found
    }

    /// Looks for marks in a segment that is not replayed.
    fn scan_segment(&mut self, info: SegmentInfo) -> Result<(), WalError> {
        let mut buf = std::mem::take(&mut self.buf);
        read(self.disk, info.id, &mut buf, info.len)?;
        self.scan(&buf, HEADER_BYTES, info.id);
        self.buf = buf;
        Ok(())
    }
}

/// Follows the chain back from the newest valid header: the places in `infos` of the
/// segments of the log, oldest first.
fn chain(infos: &[SegmentInfo], headers: &[Option<SegmentHeader>]) -> Result<Vec<usize>, WalError> {
    let mut places = Vec::new();
    let mut place = headers.iter().rposition(Option::is_some);
    while let Some(at) = place {
        places.push(at);
        let Some(header) = &headers[at] else {
            return Err(corrupt(infos[at].id, 0, "the header is damaged"));
        };
        let Some(continues) = header.continues else {
            break;
        };
        if continues.from.segment >= header.id {
            return Err(corrupt(
                header.id,
                0,
                "it continues from a later segment than itself",
            ));
        }
        // One that is not there was compacted away, or the end of recovery finds out.
        place = infos
            .iter()
            .position(|info| info.id == continues.from.segment);
    }
    places.reverse();
    Ok(places)
}

/// Reads the log; changes nothing on the disk.
pub(super) fn recover<S: LogSource>(
    disk: &mut S,
    options: &WalOptions,
) -> Result<(Recovered, Tail), WalError> {
    let infos = disk.list_segments().map_err(|source| WalError::Read {
        segment: None,
        source,
    })?;
    let mut reader = Reader {
        disk,
        owner: Owner {
            node: options.node,
            cluster_id: options.cluster_id,
            incarnation: options.incarnation,
        },
        buf: Vec::new(),
        mark: None,
        replay: Replay::default(),
        next_seq: None,
        report: RecoveryReport::default(),
    };
    let headers = reader.headers(&infos)?;
    for header in headers.iter().flatten() {
        let at = Position {
            segment: header.id,
            offset: 0,
        };
        reader.see_mark(header.mark, at);
    }
    let places = chain(&infos, &headers)?;
    let (live, stop) = replay_chain(&mut reader, &infos, &headers, &places)?;
    check_break(&mut reader, &infos, &places, live.len(), stop.as_ref())?;
    check_start(&reader.replay, live.first(), places.first(), &headers)?;

    let tail = tail(&reader, &infos, &headers, &places, live, stop.as_ref());
    reader.report.torn = stop.and_then(|stop| {
        stop.reason.map(|reason| TornTail {
            at: stop.at,
            reason,
        })
    });
    let recovered = Recovered {
        hard_state: reader.replay.hard_state,
        snapshot_mark: reader.replay.mark,
        entries: reader.replay.entries,
        report: reader.report,
    };
    Ok((recovered, tail))
}

/// What the writer goes on from.
fn tail<S>(
    reader: &Reader<'_, S>,
    infos: &[SegmentInfo],
    headers: &[Option<SegmentHeader>],
    places: &[usize],
    mut live: Vec<LiveSegment>,
    stop: Option<&Stop>,
) -> Tail {
    let mut next_seq = reader.next_seq.unwrap_or(1);
    let mut continues = stop.map(|stop| Continues {
        from: stop.at,
        chain: stop.chain,
    });
    // A node that restarts again and again shall not fill the disk: what an unused
    // segment says is said by those before it, if they are still there. No mark may
    // speak of it: the one that does could outlive it.
    if stop.is_some_and(is_unused)
        && let Some(header) = places.last().and_then(|place| headers[*place].as_ref())
        && (places.len() > 1 || header.continues.is_none())
        && reader.mark.is_none_or(|(mark, _)| mark.segment < header.id)
    {
        live.pop();
        (continues, next_seq) = (header.continues, header.first_seq);
    }
    let garbage = infos
        .iter()
        .filter(|info| live.iter().all(|segment| segment.info.id != info.id));
    Tail {
        garbage: garbage.copied().collect(),
        continues,
        mark: reader.mark.map(|(mark, _)| mark),
        next_seq,
        last_id: infos.last().map_or(SegmentId(0), |info| info.id),
        live,
    }
}

/// Replays the chain up to where it breaks or ends.
fn replay_chain<S: LogSource>(
    reader: &mut Reader<'_, S>,
    infos: &[SegmentInfo],
    headers: &[Option<SegmentHeader>],
    places: &[usize],
) -> Result<(Vec<LiveSegment>, Option<Stop>), WalError> {
    let header = |place: usize| {
        headers[place]
            .as_ref()
            .expect("the chain has valid headers")
    };
    if places
        .first()
        .is_some_and(|first| header(*first).continues.is_none())
    {
        reader.replay.base = Some(Index::ZERO);
    }
    let mut live = Vec::with_capacity(places.len());
    let mut last = None;
    for (n, place) in places.iter().enumerate() {
        let next = places.get(n + 1).and_then(|next| header(*next).continues);
        let (segment, stop) = reader.replay_segment(infos[*place], header(*place), next)?;
        live.push(segment);
        let broken = stop.reason.is_some();
        last = Some(stop);
        if broken {
            break;
        }
    }
    Ok((live, last))
}

/// Reads the rest of the marks, and decides between a torn write and damage.
fn check_break<S: LogSource>(
    reader: &mut Reader<'_, S>,
    infos: &[SegmentInfo],
    places: &[usize],
    replayed: usize,
    stop: Option<&Stop>,
) -> Result<(), WalError> {
    for place in &places[replayed..] {
        reader.scan_segment(infos[*place])?;
    }
    let newest = places.last().map_or(0, |newest| newest + 1);
    for info in &infos[newest..] {
        reader.scan_segment(*info)?;
    }
    let end = stop.map_or(Position::ZERO, |stop| stop.at);
    let Some((mark, told_by)) = reader.mark else {
        return Ok(());
    };
    if mark <= end {
        return Ok(());
    }
    let lost = infos.iter().find(|info| info.id == mark.segment);
    Err(match (stop, lost) {
        // A later segment was durable, and its header is not there any more.
        (_, Some(info)) if info.id > end.segment && places.len() == replayed => {
            corrupt(info.id, 0, "the header is damaged")
        }
        (Some(_), None) if mark.segment > end.segment => corrupt(mark.segment, 0, NEWEST_MISSING),
        (Some(stop), _) => {
            let reason = stop.reason.unwrap_or("the rest of the log is missing");
            corrupt(end.segment, end.offset, reason)
        }
        (None, _) => corrupt(told_by.segment, 0, "the header is damaged"),
    })
}

/// A log that begins in the middle must begin behind its snapshot.
fn check_start(
    replay: &Replay,
    first: Option<&LiveSegment>,
    place: Option<&usize>,
    headers: &[Option<SegmentHeader>],
) -> Result<(), WalError> {
    let (Some(first), Some(place)) = (first, place) else {
        return Ok(());
    };
    if replay.base.is_some_and(|base| base > replay.mark.index) {
        let missing = headers[*place].as_ref().and_then(|header| header.continues);
        let missing = missing.map_or(first.info.id, |continues| continues.from.segment);
        return Err(corrupt(missing, 0, SEGMENT_MISSING));
    }
    Ok(())
}
