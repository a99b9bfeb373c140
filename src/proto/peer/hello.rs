//! How nodes introduce themselves to each other on a new connection.

use bytes::Bytes;
use prost::Message as _;

use super::{number, signed};
use crate::mem::Buffer;
use crate::net::envelope::encode_call;
use crate::node::{Addresses, Facts, Hello, HelloReply};
use crate::pb;
use crate::proto::{HELLO, PeerError, RAFT_SERVICE};
use crate::types::{Birth, Incarnation, NodeId, Term};

/// Appends an introduction to `out` as a frame.
pub fn encode_hello(out: &mut Buffer, hello: &Hello, sequence: u64) {
    let Hello {
        cluster_id,
        from,
        to,
        version,
        facts,
    } = hello;
    let hello = pb::HelloRequest {
        cluster_id: *cluster_id,
        from: from.0,
        to: to.0,
        incarnation: facts.incarnation.0,
        version: *version,
        established: facts.established,
        facts: Some(encode_facts(facts)),
    };
    encode_call(out, RAFT_SERVICE, HELLO, sequence, &hello);
}

fn encode_facts(facts: &Facts) -> pb::Facts {
    let Facts {
        incarnation: _,
        birth,
        is_new,
        was_voter,
        established,
        level,
        addresses: Addresses { peer, client },
    } = facts;
    pb::Facts {
        birth: birth.0,
        is_new: *is_new,
        was_voter: *was_voter,
        established: *established,
        level: u32::from(*level),
        peer: peer.clone(),
        client: client.clone(),
    }
}

/// A node of the version before states nothing but its incarnation and, when it introduces
/// itself, whether it is established.
fn decode_facts(
    incarnation: u64,
    established: bool,
    facts: Option<pb::Facts>,
) -> Result<Facts, PeerError> {
    let stated = facts.unwrap_or_default();
    if stated.peer.len().max(stated.client.len()) > usize::from(u8::MAX) {
        return Err(PeerError::Invalid("an address is too long"));
    }
    Ok(Facts {
        incarnation: Incarnation(incarnation),
        birth: Birth(stated.birth),
        is_new: stated.is_new,
        was_voter: stated.was_voter,
        established: established || stated.established,
        level: u16::try_from(stated.level).unwrap_or(u16::MAX),
        addresses: Addresses {
            peer: stated.peer,
            client: stated.client,
        },
    })
}

/// Reads an introduction.
///
/// # Errors
/// What is wrong with it.
pub fn decode_hello(payload: Bytes) -> Result<Hello, PeerError> {
    let pb::HelloRequest {
        cluster_id,
        from,
        to,
        incarnation,
        version,
        established,
        facts,
    } = pb::HelloRequest::decode(payload)?;
    Ok(Hello {
        cluster_id,
        from: NodeId(from),
        to: NodeId(to),
        version,
        facts: decode_facts(incarnation, established, facts)?,
    })
}

/// Appends the answer to an introduction to `out` as a frame.
pub fn encode_hello_reply(out: &mut Buffer, reply: &HelloReply, sequence: u64) {
    let reply = pb::HelloResponse {
        refused: reply.refused.clone().unwrap_or_default(),
        lost_directory: reply.lost_directory,
        incarnation: reply.facts.incarnation.0,
        term: signed(reply.term.0),
        facts: Some(encode_facts(&reply.facts)),
    };
    encode_call(out, RAFT_SERVICE, HELLO, sequence, &reply);
}

/// Reads the answer to an introduction of `to`.
///
/// # Errors
/// What is wrong with it.
pub fn decode_hello_reply(to: NodeId, payload: Bytes) -> Result<HelloReply, PeerError> {
    let pb::HelloResponse {
        refused,
        lost_directory,
        incarnation,
        term,
        facts,
    } = pb::HelloResponse::decode(payload)?;
    Ok(HelloReply {
        to,
        refused: (!refused.is_empty()).then_some(refused),
        lost_directory,
        term: Term(number(term)?),
        facts: decode_facts(incarnation, false, facts)?,
    })
}
