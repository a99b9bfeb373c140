//! Every bound of the house, in one place, with what has to hold between them.
//!
//! A bound that outsiders can see (keys, values, frames) is a contract; the others
//! keep memory finite whatever clients, peers and disks do.

/// The longest key, in bytes. An empty key is refused.
pub const KEY_BYTES_MAX: usize = 64 << 10;
/// The longest value, in bytes. An empty value is a value.
pub const VALUE_BYTES_MAX: usize = 8 << 20;
/// The longest frame, header included, in bytes.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// The longest client uuid, in bytes.
pub const UUID_BYTES_MAX: usize = 256;

/// Members of a cluster, learners included.
pub const MEMBERS_MAX: usize = 32;

/// A learner that lacks no more entries than this has caught up: it is promoted without the
/// cluster having to wait for it.
pub const CAUGHT_UP_ENTRIES: u64 = 1_024;

/// What an envelope and a message around a key and a value may add, in bytes.
pub const MESSAGE_OVERHEAD_BYTES: usize = 4 << 10;
/// What a command adds to its key and value, in bytes.
pub const COMMAND_OVERHEAD_BYTES: usize = 64;
/// What an entry adds to its payload in messages and in the log, in bytes.
pub const ENTRY_OVERHEAD_BYTES: usize = 48;
/// The longest payload of an entry, in bytes.
pub const COMMAND_BYTES_MAX: usize = KEY_BYTES_MAX + VALUE_BYTES_MAX + COMMAND_OVERHEAD_BYTES;

/// Operations of one batch.
pub const BATCH_OPERATIONS_MAX: usize = 128;

/// Entries that one answer to a scan carries.
pub const SCAN_ENTRIES_MAX: usize = 4_096;
/// Bytes of keys and values that one answer to a scan carries, beside the entry that
/// reaches it.
pub const SCAN_BYTES_MAX: usize = 1 << 20;
/// What an entry of an answer to a scan is counted for beside its bytes.
pub const SCAN_ENTRY_OVERHEAD_BYTES: usize = 64;

/// How many bytes of entries one AppendEntries carries, if the first alone is not larger.
pub const APPEND_BYTES_MAX: usize = 1 << 20;
/// How many bytes of entries may be on their way to one follower; one entry always may.
pub const INFLIGHT_BYTES_MAX: usize = 4 << 20;
/// How many AppendEntries may be on their way to one follower.
pub const INFLIGHT_MESSAGES_MAX: usize = 256;
/// How many bytes of entries a leader holds that are not committed; one entry is always taken.
pub const UNCOMMITTED_BYTES_MAX: usize = 64 << 20;
/// How many entries may be committed and not applied while a leader takes more.
pub const UNAPPLIED_ENTRIES_MAX: u64 = 65_536;
/// One chunk of a snapshot on its way to a follower, in bytes.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;

/// After so many entries each node hashes its state, for the others to compare.
pub const STATE_CHECK_ENTRIES: u64 = 256;

/// One segment of the log, in bytes, if not configured otherwise.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// What header, batch headers and hard state take of a segment at most, in bytes.
pub const SEGMENT_OVERHEAD_BYTES: u64 = 64 << 10;

/// Implicit sessions, that is (uuid, sequence id) pairs: how far back in the log
/// they are remembered, in entries.
pub const IMPLICIT_SESSION_WINDOW: u64 = 1 << 18;
/// Explicit sessions in all; the one that was idle for longest makes room.
pub const SESSIONS_MAX: usize = 10_000;
/// How many entries an explicit session outlives its last write.
pub const SESSION_IDLE_ENTRIES: u64 = 10_000_000;
/// Answers that an explicit session keeps above `acked_below`, and so the writes
/// that its client may have in flight.
pub const SESSION_WINDOW: usize = 1_024;

/// Client requests that one reactor has with the raft thread at a time.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 16_384;
/// Client requests that one connection has in flight; more are not read from its socket.
pub const CONNECTION_REQUESTS_MAX: usize = 1_024;
/// Bytes that wait to be written to one connection before reading from it stops.
pub const OUTPUT_HIGH_WATER_BYTES: usize = 4 << 20;
/// Bytes of requests that one reactor has waiting for the raft thread; what comes then is
/// answered as too much.
pub const REQUEST_BYTES_MAX: usize = 64 << 20;
/// Bytes of values on their way from the raft thread to the reactors; reads wait then, of
/// which only the keys are held.
pub const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Bytes that wait to be written to one connection before a read of more is answered as too
/// much. A value is in addition to what is just below.
pub const CONNECTION_OUTPUT_BYTES_MAX: usize = 32 << 20;
/// Messages of one peer that wait for its connection; more are dropped, as a network would.
pub const PEER_QUEUE_MAX: usize = 4_096;
/// Connections of clients to one node.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Connections to the peer port whose other end has not introduced itself as a member; the
/// oldest of more is closed, so that strangers keep no member out.
pub const STRANGERS_MAX: usize = 4_096;
/// File descriptors kept for connections with members: one that each dials, one that we dial,
/// and as many again while they are made anew.
pub const MEMBER_DESCRIPTORS: usize = 4 * MEMBERS_MAX;
/// File descriptors of one event loop: poller, waker, listener and its reserve.
pub const REACTOR_DESCRIPTORS: usize = 4;
/// File descriptors kept for the disk, the log output and standard streams.
pub const OTHER_DESCRIPTORS: usize = 64;
/// The lowest limit on open files with which a node starts, beside its event loops.
pub const DESCRIPTORS_MIN: usize = MEMBER_DESCRIPTORS + OTHER_DESCRIPTORS + 32;

/// The most connections of clients, and of strangers on the peer port, that a limit of
/// `descriptors` open files allows beside what a node needs itself.
#[must_use]
pub fn connections_within(descriptors: usize) -> (usize, usize) {
    let free = descriptors.saturating_sub(MEMBER_DESCRIPTORS + OTHER_DESCRIPTORS);
    let strangers = (free / 4).min(STRANGERS_MAX);
    ((free - strangers).min(CONNECTIONS_MAX), strangers)
}

const _: () = assert!(
    KEY_BYTES_MAX + VALUE_BYTES_MAX + MESSAGE_OVERHEAD_BYTES <= FRAME_BYTES_MAX,
    "a put of the largest key and value fits a frame"
);
const _: () = assert!(
    COMMAND_BYTES_MAX + ENTRY_OVERHEAD_BYTES + MESSAGE_OVERHEAD_BYTES <= FRAME_BYTES_MAX,
    "an AppendEntries with the largest entry fits a frame"
);
const _: () = assert!(
    COMMAND_BYTES_MAX + BATCH_OPERATIONS_MAX * 16 + MESSAGE_OVERHEAD_BYTES <= FRAME_BYTES_MAX,
    "the largest batch fits a frame"
);
const _: () = assert!(
    SCAN_BYTES_MAX
        + SCAN_ENTRIES_MAX * SCAN_ENTRY_OVERHEAD_BYTES
        + 2 * KEY_BYTES_MAX
        + VALUE_BYTES_MAX
        + MESSAGE_OVERHEAD_BYTES
        <= FRAME_BYTES_MAX,
    "the largest answer to a scan fits a frame"
);
const _: () = assert!(
    APPEND_BYTES_MAX + MESSAGE_OVERHEAD_BYTES <= FRAME_BYTES_MAX,
    "a full AppendEntries fits a frame"
);
const _: () = assert!(
    (COMMAND_BYTES_MAX + ENTRY_OVERHEAD_BYTES) as u64 + SEGMENT_OVERHEAD_BYTES <= SEGMENT_BYTES,
    "the largest entry fits a fresh segment"
);
const _: () = assert!(
    SNAPSHOT_CHUNK_BYTES + MESSAGE_OVERHEAD_BYTES <= FRAME_BYTES_MAX,
    "a chunk of a snapshot fits a frame"
);
const _: () = assert!(
    APPEND_BYTES_MAX <= INFLIGHT_BYTES_MAX && INFLIGHT_BYTES_MAX <= UNCOMMITTED_BYTES_MAX,
    "a window holds at least one full message"
);
const _: () = assert!(
    OUTPUT_HIGH_WATER_BYTES < CONNECTION_OUTPUT_BYTES_MAX
        && VALUE_BYTES_MAX <= CONNECTION_OUTPUT_BYTES_MAX,
    "a client that takes its answers is asked to wait before it is refused"
);
const _: () = assert!(
    CONNECTION_REQUESTS_MAX <= REQUESTS_IN_FLIGHT_MAX,
    "one connection cannot ask for more than its reactor may have in flight"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_disk_and_members() {
        for limit in [0, DESCRIPTORS_MIN, 256, 1_024, 65_536, usize::MAX] {
            let (clients, strangers) = connections_within(limit);
            let reserve = MEMBER_DESCRIPTORS + OTHER_DESCRIPTORS;
            assert!(limit < reserve || clients + strangers <= limit - reserve);
            assert!(limit < DESCRIPTORS_MIN || (clients > 0 && strangers > 0));
        }
        let unlimited = connections_within(usize::MAX);
        assert_eq!(unlimited, (CONNECTIONS_MAX, STRANGERS_MAX));
    }
}
