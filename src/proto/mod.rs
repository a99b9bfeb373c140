//! Between the wire and the house: the only place that turns what a remote sent into
//! domain types, and so the only validator. What it lets through, the layers below
//! may rely on; what it refuses gets a reason that the sender can act upon.
//!
//! `peer.rs`: what nodes say to each other; `client.rs`: what clients ask and are
//! told; `operator.rs`, `status.rs`: what operators see. Frames and envelopes are [`crate::net`]'s.

mod client;
mod operator;
mod peer;
mod status;

pub use client::{
    Call, ClientError, CommandBuffer, Refusal, bad_request, decode_call, encode_answer,
    encode_answer_frame, encode_refusal_frame,
};
pub use operator::{
    BEGIN_BACKUP, CHANGE_MEMBERS, OPERATOR_SERVICE, READ_BACKUP, TRANSFER_LEADERSHIP,
    encode_backup_answer, encode_operator_answer,
};
pub use peer::{
    AppendEncoder, Link, decode_hello, decode_hello_reply, decode_reply,
    decode_request as decode_peer_request, encode_hello, encode_hello_reply, encode_message,
};
pub use status::encode_status;

/// The service on client ports.
pub const KV_SERVICE: &str = "KVOperationService";
/// Its only method.
pub const EXECUTE: &str = "Execute";
/// The service for operators, on client ports too.
pub const STATUS_SERVICE: &str = "StatusService";
/// Its only method.
pub const STATUS_GET: &str = "Get";
/// The service on peer ports.
pub const RAFT_SERVICE: &str = "RaftService";
/// How a node introduces itself.
pub const HELLO: &str = "Hello";

/// Why a message of a peer does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Not a protobuf message of this type.
    #[error("undecodable message: {0}")]
    Undecodable(#[from] prost::DecodeError),
    /// There is no such method.
    #[error("unknown method")]
    UnknownMethod,
    /// The message contradicts itself or the protocol.
    #[error("{0}")]
    Invalid(&'static str),
}
