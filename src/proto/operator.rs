//! What operators ask and are told: `proto/operator.proto` ↔ [`Request`],
//! [`OperatorAnswer`], [`BackupAnswer`].

use std::net::SocketAddr;

use prost::Message as _;

use crate::limits;
use crate::net::envelope::EnvelopeRef;
use crate::node::{BackupAnswer, BackupRequest, OperatorAnswer, Request};
use crate::pb;
use crate::pb::operator_response::Outcome;
use crate::raft::{Change, SnapshotMeta};
use crate::types::{EntryId, Index, NodeId};

/// The service for operators, on client ports.
pub const OPERATOR_SERVICE: &str = "OperatorService";
/// Changes the members.
pub const CHANGE_MEMBERS: &str = "ChangeMembers";
/// Hands leadership over.
pub const TRANSFER_LEADERSHIP: &str = "TransferLeadership";
/// Begins a backup, and waits for its snapshot.
pub const BEGIN_BACKUP: &str = "BeginBackup";
/// Fetches a piece of a backup.
pub const READ_BACKUP: &str = "ReadBackup";

/// Understands what an operator asks for. `None` if it is another service's call.
///
/// # Errors
/// What is wrong with it; nothing was done.
pub(super) fn decode_operator(call: &EnvelopeRef<'_>) -> Option<Result<Request, String>> {
    if call.service != OPERATOR_SERVICE.as_bytes() {
        return None;
    }
    Some(if call.method == CHANGE_MEMBERS.as_bytes() {
        decode_changes(call.payload).map(Request::Change)
    } else if call.method == TRANSFER_LEADERSHIP.as_bytes() {
        pb::TransferLeadershipRequest::decode(call.payload)
            .map(|request| Request::HandOver(NodeId(request.to)))
            .map_err(|error| format!("undecodable request: {error}"))
    } else if call.method == BEGIN_BACKUP.as_bytes() {
        pb::BeginBackupRequest::decode(call.payload)
            .map(|request| Request::Backup(decode_begin(&request)))
            .map_err(|error| format!("undecodable request: {error}"))
    } else if call.method == READ_BACKUP.as_bytes() {
        pb::ReadBackupRequest::decode(call.payload)
            .map(|request| Request::Backup(decode_read(&request)))
            .map_err(|error| format!("undecodable request: {error}"))
    } else {
        Err("unknown method".to_owned())
    })
}

fn decode_begin(request: &pb::BeginBackupRequest) -> BackupRequest {
    match request.index {
        0 => BackupRequest::Begin,
        index => BackupRequest::Await(Index(index)),
    }
}

fn decode_read(request: &pb::ReadBackupRequest) -> BackupRequest {
    BackupRequest::Read {
        snapshot: SnapshotMeta {
            last: EntryId::new(request.last_term, request.last_index),
            checksum: request.checksum,
            total_bytes: request.total_bytes,
        },
        offset: request.offset,
    }
}

fn decode_changes(payload: &[u8]) -> Result<Vec<Change>, String> {
    let request = pb::ChangeMembersRequest::decode(payload)
        .map_err(|error| format!("undecodable request: {error}"))?;
    if request.changes.len() > 2 * limits::MEMBERS_MAX {
        return Err(format!("{} changes at once", request.changes.len()));
    }
    request.changes.into_iter().map(decode_change).collect()
}

fn decode_change(change: pb::MemberChange) -> Result<Change, String> {
    use pb::member_change::Kind;
    let id = NodeId(change.id);
    Ok(match Kind::try_from(change.kind) {
        Ok(Kind::AddLearner) => Change::AddLearner {
            id,
            peer: address(&change.peer)?,
            client: address(&change.client)?,
        },
        Ok(Kind::Promote) => Change::Promote(id),
        Ok(Kind::Demote) => Change::Demote(id),
        Ok(Kind::Remove) => Change::Remove(id),
        Ok(Kind::Move) => Change::Move {
            id,
            peer: address(&change.peer)?,
            client: address(&change.client)?,
        },
        Err(_) => return Err(format!("unknown change {}", change.kind)),
    })
}

/// An address that others can reach, in its shortest form.
fn address(text: &str) -> Result<String, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 && !address.ip().is_unspecified() => {
            Ok(address.to_string())
        }
        Ok(_) => Err(format!(
            "`{text}`: others have to reach it, give a real ip and port"
        )),
        Err(_) => Err(format!("`{text}` is not an ip:port")),
    }
}

/// The answer to an operator, as a message. `address_of` knows where a node listens for
/// clients.
#[must_use]
pub fn encode_operator_answer(
    answer: OperatorAnswer,
    address_of: impl Fn(NodeId) -> Option<String>,
) -> pb::OperatorResponse {
    let response = |outcome: Outcome, address, reason| pb::OperatorResponse {
        outcome: outcome.into(),
        address,
        reason,
    };
    let of = |outcome, reason: &str| response(outcome, String::new(), reason.to_owned());
    match answer {
        OperatorAnswer::Done => of(Outcome::Done, ""),
        OperatorAnswer::Declined {
            reason,
            again: true,
        } => of(Outcome::NotNow, &reason),
        OperatorAnswer::Declined { reason, .. } => of(Outcome::Refused, &reason),
        OperatorAnswer::NotLeader(leader) => match leader.and_then(address_of) {
            Some(address) => response(Outcome::Redirect, address, String::new()),
            None => of(Outcome::NoLeader, "no leader"),
        },
        OperatorAnswer::Unknown => of(Outcome::Unknown, "leadership was lost meanwhile"),
    }
}

/// The answer to who makes a backup, as a message, and the method that it answers.
#[must_use]
pub fn encode_backup_answer(answer: BackupAnswer) -> (&'static str, pb::BackupResponse) {
    use pb::backup_response::Outcome;
    let of = |outcome: Outcome| pb::BackupResponse {
        outcome: outcome.into(),
        ..pb::BackupResponse::default()
    };
    match answer {
        BackupAnswer::Preparing { index, written } => {
            let mut response = of(Outcome::Preparing);
            (response.index, response.written_bytes) = (index.0, written);
            (BEGIN_BACKUP, response)
        }
        BackupAnswer::Ready(snapshot) => {
            let mut response = of(Outcome::Done);
            response.last_index = snapshot.last.index.0;
            response.last_term = snapshot.last.term.0;
            response.checksum = snapshot.checksum;
            response.total_bytes = snapshot.total_bytes;
            (BEGIN_BACKUP, response)
        }
        BackupAnswer::Piece { offset, data } => {
            let mut response = of(Outcome::Done);
            (response.offset, response.data) = (offset, data);
            (READ_BACKUP, response)
        }
        BackupAnswer::Declined { reason, again } => {
            let mut response = of(if again {
                Outcome::NotNow
            } else {
                Outcome::Refused
            });
            response.reason = reason;
            (BEGIN_BACKUP, response)
        }
    }
}

/// What an operator is told whose request is not one.
pub(super) fn refused_operator(reason: &str) -> pb::OperatorResponse {
    pb::OperatorResponse {
        outcome: Outcome::Refused.into(),
        address: String::new(),
        reason: reason.to_owned(),
    }
}
