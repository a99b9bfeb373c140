//! What nodes say to each other: `proto/raft.proto` ↔ [`crate::raft::Message`].

mod append;
mod hello;

use std::time::Duration;

use prost::Message as _;

use crate::limits;
use crate::mem::Buffer;
use crate::net::envelope::{Ends, Envelope, Head, encode_peer_call};
use crate::pb;
use crate::proto::{PeerError, RAFT_SERVICE};
use crate::raft::{
    Accepted, Body, Configuration, Message, Rejected, SnapshotChunk, SnapshotMeta, StateClaim,
    StateHash,
};
use crate::types::{Birth, Entry, EntryId, Incarnation, Index, NodeId, Payload, Server, Term};

pub use self::append::AppendEncoder;
pub use self::hello::{decode_hello, decode_hello_reply, encode_hello, encode_hello_reply};

const REQUEST_VOTE: &str = "RequestVote";
const APPEND_ENTRIES: &str = "AppendEntries";
const INSTALL_SNAPSHOT: &str = "InstallSnapshot";
const READ_INDEX: &str = "ReadIndex";
const TIMEOUT_NOW: &str = "TimeoutNow";

/// Terms and indexes from the wire stay far enough below the top that adding one to
/// them never overflows, however many members lie.
const NUMBER_MAX: i64 = i64::MAX / 2;

/// The longest promise to a lease that is believed.
const PROMISE_MAX: Duration = Duration::from_secs(3_600);

/// Appends `message` to `out` as a frame; see [`AppendEncoder`] for those that several
/// followers get alike. Requests get `sequence`; answers repeat the
/// sequence id of the call that they answer.
pub fn encode_message(out: &mut Buffer, message: &Message, sequence: u64) {
    let term = signed(message.term.0);
    let mut call = |method: &str, payload: &dyn DynMessage| {
        payload.call(out, head(method, sequence, message));
    };
    match &message.body {
        Body::PreVote { last } => {
            call(REQUEST_VOTE, &request_vote(message, *last, true, false));
        }
        Body::Vote { last, transfer } => {
            call(
                REQUEST_VOTE,
                &request_vote(message, *last, false, *transfer),
            );
        }
        Body::PreVoteReply { granted } => {
            call(REQUEST_VOTE, &vote_reply(message, *granted, true));
        }
        Body::VoteReply { granted } => {
            call(REQUEST_VOTE, &vote_reply(message, *granted, false));
        }
        Body::Append { .. } => {
            let payload = AppendEncoder::default().encode(out, message, sequence);
            out.extend_from_slice(&payload.expect("it is an AppendEntries"));
        }
        Body::Heartbeat {
            commit,
            round,
            last,
            lease,
            state,
        } => call(
            APPEND_ENTRIES,
            &pb::AppendEntriesRequest {
                term,
                leader_id: signed(message.from.id.0),
                leader_commit: signed(commit.0),
                heartbeat: true,
                read_round: *round,
                leader_last: signed(last.0),
                lease: *lease,
                state_index: state.map_or(0, |claim| signed(claim.at.index.0)),
                state_hash: state.map_or(0, |claim| claim.at.hash),
                state_confirmed: state.is_some_and(|claim| claim.confirmed),
                ..Default::default()
            },
        ),
        Body::AppendReply(reply) => call(APPEND_ENTRIES, &append_reply(message, *reply)),
        Body::HeartbeatReply {
            round,
            promise,
            disk,
            full,
            memory_full,
            state,
        } => call(
            APPEND_ENTRIES,
            &pb::AppendEntriesResponse {
                term,
                lost_directory: message.lost_directory,
                success: true,
                heartbeat: true,
                read_round: *round,
                promise_us: u64::try_from(promise.as_micros()).unwrap_or(0),
                disk_us: u64::try_from(disk.as_micros()).unwrap_or(u64::MAX),
                disk_full: *full,
                memory_full: *memory_full,
                state_index: state.map_or(0, |at| signed(at.index.0)),
                state_hash: state.map_or(0, |at| at.hash),
                ..Default::default()
            },
        ),
        Body::ReadIndex { context } => call(
            READ_INDEX,
            &pb::ReadIndexRequest {
                term,
                follower_id: signed(message.from.id.0),
                context: *context,
            },
        ),
        Body::ReadIndexReply { context, index } => call(
            READ_INDEX,
            &pb::ReadIndexResponse {
                term,
                context: *context,
                confirmed: index.is_some(),
                index: signed(index.unwrap_or_default().0),
                lost_directory: message.lost_directory,
            },
        ),
        Body::TimeoutNow => call(
            TIMEOUT_NOW,
            &pb::TimeoutNowRequest {
                term,
                leader_id: signed(message.from.id.0),
            },
        ),
        Body::Snapshot(chunk) => call(INSTALL_SNAPSHOT, &snapshot_chunk(message, chunk)),
        Body::SnapshotReply {
            snapshot,
            next_offset,
            installed,
        } => call(
            INSTALL_SNAPSHOT,
            &pb::InstallSnapshotResponse {
                term,
                last_included_index: signed(snapshot.last.index.0),
                last_included_term: signed(snapshot.last.term.0),
                checksum: snapshot.checksum,
                next_offset: signed(*next_offset),
                installed: *installed,
                lost_directory: message.lost_directory,
                total_bytes: signed(snapshot.total_bytes),
            },
        ),
    }
}

/// Lets one closure frame messages of several types.
trait DynMessage {
    fn call(&self, out: &mut Buffer, head: Head<'_>);
}

impl<M: prost::Message> DynMessage for M {
    fn call(&self, out: &mut Buffer, head: Head<'_>) {
        encode_peer_call(out, head, self);
    }
}

/// The envelope of a message: it names the directories at both ends.
fn head<'a>(method: &'a str, sequence: u64, message: &Message) -> Head<'a> {
    Head {
        service: RAFT_SERVICE,
        method,
        sequence,
        ends: Ends {
            to: message.to.incarnation.0,
            from: message.from.incarnation.0,
        },
    }
}

/// A connection between two nodes that have introduced themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The peer, as it introduced itself.
    pub peer: Server,
    /// The peer's cluster.
    pub birth: Birth,
    /// This node.
    pub own: NodeId,
}

impl Link {
    /// A message that came on this connection.
    fn message(
        &self,
        envelope: &Envelope,
        (term, lost_directory, body): (Term, bool, Body),
    ) -> Result<Message, PeerError> {
        let Ends { to, from } = envelope.ends;
        if from != 0 && from != self.peer.incarnation.0 {
            return Err(PeerError::Invalid(
                "the sender names another directory than it introduced",
            ));
        }
        Ok(Message {
            birth: self.birth,
            from: self.peer,
            to: Server {
                id: self.own,
                incarnation: Incarnation(to),
            },
            term,
            call: envelope.sequence,
            lost_directory,
            body,
        })
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).expect("numbers are bounded where they come in")
}

fn request_vote(
    message: &Message,
    last: EntryId,
    pre_vote: bool,
    transfer: bool,
) -> pb::RequestVoteRequest {
    pb::RequestVoteRequest {
        term: signed(message.term.0),
        candidate_id: signed(message.from.id.0),
        last_log_index: signed(last.index.0),
        last_log_term: signed(last.term.0),
        pre_vote,
        transfer,
    }
}

fn vote_reply(message: &Message, granted: bool, pre_vote: bool) -> pb::RequestVoteResponse {
    pb::RequestVoteResponse {
        term: signed(message.term.0),
        vote_granted: granted,
        pre_vote,
        lost_directory: message.lost_directory,
    }
}

fn append_reply(message: &Message, reply: Result<Accepted, Rejected>) -> pb::AppendEntriesResponse {
    let (term, lost_directory) = (signed(message.term.0), message.lost_directory);
    match reply {
        Ok(Accepted { match_index }) => pb::AppendEntriesResponse {
            term,
            lost_directory,
            success: true,
            last_log_index: signed(match_index.0),
            ..Default::default()
        },
        Err(Rejected { rejected, hint }) => pb::AppendEntriesResponse {
            term,
            lost_directory,
            success: false,
            rejected_index: signed(rejected.0),
            hint_index: signed(hint.index.0),
            hint_term: signed(hint.term.0),
            ..Default::default()
        },
    }
}

fn snapshot_chunk(message: &Message, chunk: &SnapshotChunk) -> pb::InstallSnapshotRequest {
    let SnapshotChunk {
        snapshot,
        offset,
        data,
    } = chunk;
    pb::InstallSnapshotRequest {
        term: signed(message.term.0),
        leader_id: signed(message.from.id.0),
        offset: signed(*offset),
        last_included_index: signed(snapshot.last.index.0),
        last_included_term: signed(snapshot.last.term.0),
        data: data.clone(),
        done: offset + data.len() as u64 >= snapshot.total_bytes,
        checksum: snapshot.checksum,
        total_bytes: signed(snapshot.total_bytes),
    }
}

fn number(value: i64) -> Result<u64, PeerError> {
    if value > NUMBER_MAX {
        return Err(PeerError::Invalid("a number is out of range"));
    }
    u64::try_from(value).map_err(|_| PeerError::Invalid("a number is negative"))
}

fn entry_id(index: i64, term: i64) -> Result<EntryId, PeerError> {
    Ok(EntryId {
        term: Term(number(term)?),
        index: Index(number(index)?),
    })
}

/// Reads a request that came on a connection.
///
/// # Errors
/// The reason why it does not count.
pub fn decode_request(link: &Link, envelope: &Envelope) -> Result<Message, PeerError> {
    let (method, payload) = (&envelope.method, envelope.payload.clone());
    let (term, claims, body) = if method == REQUEST_VOTE.as_bytes() {
        let vote = pb::RequestVoteRequest::decode(payload)?;
        let last = entry_id(vote.last_log_index, vote.last_log_term)?;
        let body = if vote.pre_vote {
            Body::PreVote { last }
        } else {
            Body::Vote {
                last,
                transfer: vote.transfer,
            }
        };
        (vote.term, vote.candidate_id, body)
    } else if method == APPEND_ENTRIES.as_bytes() {
        let append = pb::AppendEntriesRequest::decode(payload)?;
        let (term, leader) = (append.term, append.leader_id);
        (term, leader, decode_append(append)?)
    } else if method == READ_INDEX.as_bytes() {
        let read = pb::ReadIndexRequest::decode(payload)?;
        let context = read.context;
        (read.term, read.follower_id, Body::ReadIndex { context })
    } else if method == TIMEOUT_NOW.as_bytes() {
        let now = pb::TimeoutNowRequest::decode(payload)?;
        (now.term, now.leader_id, Body::TimeoutNow)
    } else if method == INSTALL_SNAPSHOT.as_bytes() {
        let chunk = pb::InstallSnapshotRequest::decode(payload)?;
        let (term, leader) = (chunk.term, chunk.leader_id);
        (term, leader, Body::Snapshot(decode_chunk(chunk)?))
    } else {
        return Err(PeerError::UnknownMethod);
    };
    if number(claims)? != link.peer.id.0 {
        return Err(PeerError::Invalid("the sender speaks for another node"));
    }
    let term = Term(number(term)?);
    if term == Term::ZERO {
        return Err(PeerError::Invalid("nobody campaigns for or leads term 0"));
    }
    if let Body::Append { entries, prev, .. } = &body
        && entries.last().map_or(prev.term, |last| last.id.term) > term
    {
        return Err(PeerError::Invalid(
            "an entry is of a term above the leader's",
        ));
    }
    link.message(envelope, (term, false, body))
}

/// Nothing is said of the state before the first entry.
fn state_hash(index: i64, hash: u64) -> Result<Option<StateHash>, PeerError> {
    let index = Index(number(index)?);
    Ok((index != Index::ZERO).then_some(StateHash { index, hash }))
}

fn decode_append(append: pb::AppendEntriesRequest) -> Result<Body, PeerError> {
    let commit = Index(number(append.leader_commit)?);
    if append.heartbeat {
        return Ok(Body::Heartbeat {
            commit,
            round: append.read_round,
            last: Index(number(append.leader_last)?),
            lease: append.lease,
            state: state_hash(append.state_index, append.state_hash)?.map(|at| StateClaim {
                at,
                confirmed: append.state_confirmed,
            }),
        });
    }
    let prev = entry_id(append.prev_log_index, append.prev_log_term)?;
    let mut last = prev;
    let mut entries = Vec::with_capacity(append.entries.len());
    for entry in append.entries {
        let id = entry_id(entry.index, entry.term)?;
        if id.index != last.index.next() || id.term < last.term {
            return Err(PeerError::Invalid("entries do not follow each other"));
        }
        if entry.command.len() > limits::COMMAND_BYTES_MAX {
            return Err(PeerError::Invalid("an entry is too long"));
        }
        let payload = match pb::EntryKind::try_from(entry.kind) {
            Ok(pb::EntryKind::Command) => Payload::Command(entry.command),
            Ok(pb::EntryKind::Noop) if entry.command.is_empty() => Payload::Noop,
            Ok(pb::EntryKind::Config) if Configuration::decode(&entry.command).is_ok() => {
                Payload::Config(entry.command)
            }
            Ok(pb::EntryKind::Config) => {
                return Err(PeerError::Invalid("invalid configuration"));
            }
            Ok(pb::EntryKind::Noop) => return Err(PeerError::Invalid("a no-op with content")),
            Err(_) => return Err(PeerError::Invalid("an entry of unknown kind")),
        };
        last = id;
        entries.push(Entry { id, payload });
    }
    Ok(Body::Append {
        prev,
        entries: entries.into(),
        commit,
    })
}

fn decode_chunk(chunk: pb::InstallSnapshotRequest) -> Result<SnapshotChunk, PeerError> {
    let snapshot = SnapshotMeta {
        last: entry_id(chunk.last_included_index, chunk.last_included_term)?,
        checksum: chunk.checksum,
        total_bytes: number(chunk.total_bytes)?,
    };
    let offset = number(chunk.offset)?;
    if offset + chunk.data.len() as u64 > snapshot.total_bytes {
        return Err(PeerError::Invalid("a chunk reaches beyond its snapshot"));
    }
    Ok(SnapshotChunk {
        snapshot,
        offset,
        data: chunk.data,
    })
}

/// Reads the answer to a request of ours, which came on a connection.
///
/// # Errors
/// The reason why it does not count.
pub fn decode_reply(link: &Link, envelope: &Envelope) -> Result<Message, PeerError> {
    let (method, payload) = (&envelope.method, envelope.payload.clone());
    let (term, lost_directory, body) = if method == REQUEST_VOTE.as_bytes() {
        let vote = pb::RequestVoteResponse::decode(payload)?;
        let granted = vote.vote_granted;
        let body = if vote.pre_vote {
            Body::PreVoteReply { granted }
        } else {
            Body::VoteReply { granted }
        };
        (vote.term, vote.lost_directory, body)
    } else if method == APPEND_ENTRIES.as_bytes() {
        let reply = pb::AppendEntriesResponse::decode(payload)?;
        (
            reply.term,
            reply.lost_directory,
            decode_append_reply(&reply)?,
        )
    } else if method == READ_INDEX.as_bytes() {
        let reply = pb::ReadIndexResponse::decode(payload)?;
        let index = Index(number(reply.index)?);
        let body = Body::ReadIndexReply {
            context: reply.context,
            index: reply.confirmed.then_some(index),
        };
        (reply.term, reply.lost_directory, body)
    } else if method == INSTALL_SNAPSHOT.as_bytes() {
        let reply = pb::InstallSnapshotResponse::decode(payload)?;
        let snapshot = SnapshotMeta {
            last: entry_id(reply.last_included_index, reply.last_included_term)?,
            checksum: reply.checksum,
            total_bytes: number(reply.total_bytes)?,
        };
        let (next_offset, installed) = (number(reply.next_offset)?, reply.installed);
        (
            reply.term,
            reply.lost_directory,
            Body::SnapshotReply {
                snapshot,
                next_offset,
                installed,
            },
        )
    } else {
        return Err(PeerError::UnknownMethod);
    };
    link.message(envelope, (Term(number(term)?), lost_directory, body))
}

fn decode_append_reply(reply: &pb::AppendEntriesResponse) -> Result<Body, PeerError> {
    if reply.heartbeat {
        return Ok(Body::HeartbeatReply {
            round: reply.read_round,
            // No election time-out is an hour: a longer promise is a mistake.
            promise: Duration::from_micros(reply.promise_us).min(PROMISE_MAX),
            disk: Duration::from_micros(reply.disk_us),
            full: reply.disk_full,
            memory_full: reply.memory_full,
            state: state_hash(reply.state_index, reply.state_hash)?,
        });
    }
    Ok(Body::AppendReply(if reply.success {
        Ok(Accepted {
            match_index: Index(number(reply.last_log_index)?),
        })
    } else {
        Err(Rejected {
            rejected: Index(number(reply.rejected_index)?),
            hint: entry_id(reply.hint_index, reply.hint_term)?,
        })
    }))
}

#[cfg(test)]
mod tests;
