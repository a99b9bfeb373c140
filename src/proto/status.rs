//! What operators see: [`Status`] → `proto/status.proto`.

use std::time::Duration;

use crate::node::Status;
use crate::pb;
use crate::types::NodeId;

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
        leader: signed(status.leader),
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
                silent_ms: u64::try_from(peer.silent.as_millis()).unwrap_or(u64::MAX),
                round_trip_us: micros(peer.round_trip),
                disk_us: micros(peer.disk),
                disk_full: peer.full,
            })
            .collect(),
        members: status
            .members
            .iter()
            .map(|member| pb::MemberStatus {
                id: member.id.0,
                standing: member.standing.to_owned(),
                priority: member.priority.into(),
                peer: member.peer.clone(),
                client: member.client.clone(),
                incarnation: member.incarnation.0,
            })
            .collect(),
        members_index: status.members_index.0,
        disk_us: micros(status.disk),
        tick_late_max_us: micros(status.tick_late_max),
        late_ticks: status.late_ticks,
        transferee: signed(status.transferee),
        disk_full: status.disk_full,
        memory_used_bytes: status.memory_used,
        memory_limit_bytes: status.memory_limit.unwrap_or(0),
        memory_full: status.memory_full,
        state_index: status.state.map_or(0, |at| at.index.0),
        state_hash: status.state.map_or(0, |at| at.hash),
        differs_index: status.differs.map_or(0, |(index, _)| index.0),
        differs_from: signed(status.differs.map(|(_, from)| from)),
        birth: status.birth.0,
        level: status.level.into(),
        notice: status.notice.clone(),
        pending: status.pending.iter().map(|id| id.0).collect(),
        removed: status.removed,
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A node that there may not be: -1.
fn signed(id: Option<NodeId>) -> i64 {
    id.map_or(-1, |id| i64::try_from(id.0).unwrap_or(-1))
}
