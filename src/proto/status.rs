//! What operators see: [`Status`] → `proto/status.proto`.

use crate::node::Status;
use crate::pb;

/// The status of a node as a message. What the server alone knows comes as arguments:
/// the peers that are connected, and for how long it has been running.
#[must_use]
pub fn encode_status(
    status: &Status,
    connected: impl Fn(u64) -> bool,
    uptime_ms: u64,
) -> pb::StatusResponse {
    pb::StatusResponse {
        id: status.id.0,
        role: status.role.as_str().to_owned(),
        term: status.term.0,
        leader: status
            .leader
            .map_or(-1, |leader| i64::try_from(leader.0).unwrap_or(-1)),
        commit_index: status.commit_index.0,
        applied_index: status.applied_index.0,
        first_index: status.first_index.0,
        last_index: status.last_index.0,
        durable_index: status.durable_index.0,
        snapshot_index: status.snapshot_index.0,
        log_bytes: status.log_bytes,
        keys: status.keys,
        data_bytes: status.data_bytes,
        sessions: status.sessions,
        waiting: status.waiting,
        syncs: status.syncs,
        log_bytes_written: status.log_bytes_written,
        incarnation: status.incarnation,
        may_vote: status.may_vote,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_ms,
        snapshots_taken: status.snapshots_taken,
        snapshots_installed: status.snapshots_installed,
        peers: status
            .peers
            .iter()
            .map(|peer| pb::PeerStatus {
                id: peer.id.0,
                connected: connected(peer.id.0),
                match_index: peer.match_index.0,
                next_index: peer.next_index.0,
                state: peer.state.to_owned(),
            })
            .collect(),
    }
}
