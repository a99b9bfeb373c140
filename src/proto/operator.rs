//! What operators ask and are told: `proto/operator.proto` ↔ [`Request`],
//! [`OperatorAnswer`].

use std::net::SocketAddr;

use prost::Message as _;

use crate::limits;
use crate::net::envelope::EnvelopeRef;
use crate::node::{OperatorAnswer, Request};
use crate::pb;
use crate::pb::operator_response::Outcome;
use crate::raft::Change;
use crate::types::NodeId;

/// The service for operators, on client ports.
pub const OPERATOR_SERVICE: &str = "OperatorService";
/// Changes the members.
pub const CHANGE_MEMBERS: &str = "ChangeMembers";
/// Hands leadership over.
pub const TRANSFER_LEADERSHIP: &str = "TransferLeadership";

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
    } else {
        Err("unknown method".to_owned())
    })
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

/// What an operator is told whose request is not one.
pub(super) fn refused_operator(reason: &str) -> pb::OperatorResponse {
    pb::OperatorResponse {
        outcome: Outcome::Refused.into(),
        address: String::new(),
        reason: reason.to_owned(),
    }
}
