//! The status of the nodes, as a table for people and as JSON for programs.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use raftkv::client::{NodeStatus, status_of};
use raftkv::config::Member;
use raftkv::pb::{PeerStatus, StatusResponse};
use serde::Serialize;

/// One node; what it did not say is absent (`null`).
#[derive(Serialize)]
pub struct Row {
    id: Option<u64>,
    addr: SocketAddr,
    reachable: bool,
    #[serde(flatten)]
    said: Said,
    /// Why it is not reachable.
    error: Option<String>,
}

/// What a node says about itself.
#[derive(Default, Serialize)]
struct Said {
    role: Option<String>,
    term: Option<u64>,
    /// Absent as well if it knows of none.
    leader: Option<u64>,
    commit_index: Option<u64>,
    applied_index: Option<u64>,
    first_index: Option<u64>,
    last_index: Option<u64>,
    snapshot_index: Option<u64>,
    durable_index: Option<u64>,
    /// How many committed entries it has yet to apply, as far as any node knows.
    lag: Option<u64>,
    log_bytes: Option<u64>,
    keys: Option<u64>,
    data_bytes: Option<u64>,
    sessions: Option<u64>,
    syncs: Option<u64>,
    /// How long the last write took to become durable, or how long one that is not has been
    /// waiting; 0 if nothing was written lately.
    disk_us: Option<u64>,
    /// How late timers were at most in the last ten to twenty seconds.
    tick_late_max_us: Option<u64>,
    /// How often a timer was more than 75 ms late since the start.
    late_ticks: Option<u64>,
    /// How long the last answer to a heartbeat of the leader took.
    round_trip_us: Option<u64>,
    /// For how long the leader has not heard of it.
    silent_ms: Option<u64>,
    /// `voter`, `learner`, …; absent if it is no member.
    standing: Option<String>,
    /// To whom it hands its leadership.
    transferee: Option<u64>,
    snapshots_taken: Option<u64>,
    snapshots_installed: Option<u64>,
    /// There is no room for more on its disk.
    disk_full: Option<bool>,
    /// Bytes that count towards its memory limit, and the limit, 0 for none.
    memory_used_bytes: Option<u64>,
    memory_limit_bytes: Option<u64>,
    memory_full: Option<bool>,
    /// Where it last hashed its state for comparison with others', and the hash, hexadecimal.
    state_index: Option<u64>,
    state_hash: Option<String>,
    /// Where another node had another one; absent if none had.
    differs_index: Option<u64>,
    differs_from: Option<u64>,
    uptime_ms: Option<u64>,
    /// Hexadecimal: JSON numbers are not exact above 2^53.
    incarnation: Option<String>,
    /// The configuration names its data directory a voter.
    may_vote: Option<bool>,
    /// The cluster that it belongs to, hexadecimal; absent before it is founded or adopted.
    birth: Option<String>,
    /// The cluster's feature level.
    level: Option<u32>,
    /// Its place in a cluster, where an operator has to know or do something.
    notice: Option<String>,
    /// It was a member, and is none any more.
    removed: Option<bool>,
    version: Option<String>,
    peers: Vec<Peer>,
}

/// How a node sees another one; the indexes are the leader's knowledge.
#[derive(Serialize)]
struct Peer {
    id: u64,
    connected: bool,
    match_index: u64,
    next_index: u64,
    state: String,
    silent_ms: u64,
    round_trip_us: u64,
    disk_us: u64,
    disk_full: bool,
}

impl Row {
    /// The way in which it answered, for a sentence about it.
    fn answer(&self) -> String {
        match &self.error {
            Some(error) => format!("its client address {} fails: {error}", self.addr),
            None => format!("says at {} that it does not", self.addr),
        }
    }
}

/// The client addresses of the members and their ids, by the word of the leader, else of
/// whoever has the newest.
pub fn members_of(asked: &[NodeStatus]) -> Vec<(SocketAddr, u64)> {
    let said = asked.iter().filter_map(|node| node.status.as_ref().ok());
    let newest = said.max_by_key(|said| (said.role == "leader", said.term, said.members_index));
    let members = newest.iter().flat_map(|said| &said.members);
    let at = members.filter_map(|member| Some((member.client.parse().ok()?, member.id)));
    at.collect()
}

/// Asks for the status of all nodes: those at `addrs` and those that have joined since these
/// were written down.
///
/// Members that were removed are left out, by the word of the leader, if the addresses come
/// from the file of the `first` members.
pub fn ask(addrs: &[SocketAddr], first: Option<&[Member]>, timeout: Duration) -> Vec<Row> {
    let mut asked = status_of(addrs, timeout);
    let members = members_of(&asked);
    let others = members.iter().map(|(addr, _)| *addr);
    let others: Vec<SocketAddr> = others.filter(|addr| !addrs.contains(addr)).collect();
    asked.extend(status_of(&others, timeout));
    if first.is_some() && leader_of(&asked).is_some() {
        let members = members_of(&asked);
        asked.retain(|node| members.iter().any(|(addr, _)| *addr == node.addr));
    }
    let first = first.unwrap_or_default().iter();
    let known = members.into_iter();
    let known = known.chain(first.map(|member| (member.client, member.id.0)));
    rows(asked, &known.collect::<Vec<_>>())
}

fn leader_of(asked: &[NodeStatus]) -> Option<&StatusResponse> {
    let said = asked.iter().filter_map(|node| node.status.as_ref().ok());
    let leaders = said.filter(|said| said.role == "leader");
    leaders.max_by_key(|said| said.term)
}

/// The answers of the nodes; `known` gives an id to those that said nothing.
fn rows(asked: Vec<NodeStatus>, known: &[(SocketAddr, u64)]) -> Vec<Row> {
    let answers = asked.iter().filter_map(|node| node.status.as_ref().ok());
    let commit_index = answers.map(|said| said.commit_index).max().unwrap_or(0);
    let leader = leader_of(&asked).cloned();
    let row = |node: NodeStatus| {
        let member = known.iter().find(|(addr, _)| *addr == node.addr);
        let (id, mut said, error) = match node.status {
            Ok(said) => (Some(said.id), Said::new(said, commit_index), None),
            Err(error) => (member.map(|(_, id)| *id), Said::default(), Some(error)),
        };
        if let (Some(id), Some(leader)) = (id, &leader) {
            said.add_view_of(leader, id);
        }
        Row {
            id,
            addr: node.addr,
            reachable: error.is_none(),
            said,
            error,
        }
    };
    asked.into_iter().map(row).collect()
}

/// Says that there is no leader, and what is known of why; `None` if one answers.
pub fn no_leader(rows: &[Row]) -> Option<String> {
    if rows
        .iter()
        .any(|row| row.said.role.as_deref() == Some("leader"))
    {
        return None;
    }
    let members = rows.iter().filter(|row| row.said.removed != Some(true));
    let nodes = members.clone().count();
    let answering = members.filter(|row| row.reachable).count();
    let named = rows
        .iter()
        .filter_map(|row| Some((row.said.term?, row.said.leader?)));
    let reason = match named.max() {
        Some((_, id)) => match rows.iter().find(|row| row.id == Some(id)) {
            Some(row) => format!(
                "node {id} leads by the word of others, and {}",
                row.answer()
            ),
            None => format!("node {id} leads by the word of others, its address is not known"),
        },
        None if 2 * answering <= nodes => "a majority is needed".to_owned(),
        None => "an election is under way, or the peer ports do not reach each other".to_owned(),
    };
    Some(format!(
        "no leader: {answering} of {nodes} nodes answer; {reason}"
    ))
}

impl Said {
    fn new(said: StatusResponse, commit_index: u64) -> Said {
        Said {
            birth: (said.birth != 0).then(|| format!("{:016x}", said.birth)),
            level: Some(said.level),
            notice: Some(said.notice).filter(|notice| !notice.is_empty()),
            role: Some(said.role),
            term: Some(said.term),
            leader: u64::try_from(said.leader).ok(),
            commit_index: Some(said.commit_index),
            applied_index: Some(said.applied_index),
            first_index: Some(said.first_index),
            last_index: Some(said.last_index),
            snapshot_index: Some(said.snapshot_index),
            durable_index: Some(said.durable_index),
            lag: Some(commit_index.saturating_sub(said.applied_index)),
            log_bytes: Some(said.log_bytes),
            keys: Some(said.keys),
            data_bytes: Some(said.data_bytes),
            sessions: Some(said.sessions),
            syncs: Some(said.syncs),
            disk_us: Some(said.disk_us),
            tick_late_max_us: Some(said.tick_late_max_us),
            late_ticks: Some(said.late_ticks),
            round_trip_us: None,
            silent_ms: None,
            standing: None,
            transferee: u64::try_from(said.transferee).ok(),
            snapshots_taken: Some(said.snapshots_taken),
            snapshots_installed: Some(said.snapshots_installed),
            disk_full: Some(said.disk_full),
            memory_used_bytes: Some(said.memory_used_bytes),
            memory_limit_bytes: Some(said.memory_limit_bytes),
            memory_full: Some(said.memory_full),
            state_index: Some(said.state_index),
            state_hash: Some(format!("{:016x}", said.state_hash)),
            differs_index: Some(said.differs_index).filter(|index| *index > 0),
            differs_from: u64::try_from(said.differs_from)
                .ok()
                .filter(|_| said.differs_index > 0),
            uptime_ms: Some(said.uptime_ms),
            incarnation: Some(format!("{:016x}", said.incarnation)),
            may_vote: Some(said.may_vote),
            removed: Some(said.removed),
            version: Some(said.version),
            peers: said.peers.into_iter().map(Peer::new).collect(),
        }
    }

    /// What the leader knows of node `id`.
    fn add_view_of(&mut self, leader: &StatusResponse, id: u64) {
        if let Some(peer) = leader.peers.iter().find(|peer| peer.id == id) {
            self.round_trip_us = Some(peer.round_trip_us);
            self.silent_ms = Some(peer.silent_ms);
        }
        let member = leader.members.iter().find(|member| member.id == id);
        self.standing = member.map(|member| member.standing.clone());
    }
}

/// From here on something is worth a line of its own.
const SLOW_DISK_US: u64 = 50_000;
const LATE_US: u64 = 75_000;
const SLOW_ANSWER_US: u64 = 75_000;
const SILENT_MS: u64 = 300;
const LAG: u64 = 10_000;

/// What is wrong with whom, in words; nothing where all is well.
fn complaints(row: &Row) -> Vec<String> {
    let said = &row.said;
    let ms = |us: u64| us / 1000;
    let over = |value: Option<u64>, limit| value.filter(|value| *value >= limit);
    let mut found = Vec::new();
    if said.removed == Some(true) {
        found.push("removed, it is not a member of the cluster any more: stop it".to_owned());
    }
    found.extend(said.notice.clone());
    if said.disk_full == Some(true) {
        found.push("no space left on its disk: it takes no writes but removes".to_owned());
    }
    if said.memory_full == Some(true) {
        found.push(format!(
            "memory limit reached, {} of {} bytes: writes that grow the store are refused",
            said.memory_used_bytes.unwrap_or(0),
            said.memory_limit_bytes.unwrap_or(0)
        ));
    }
    if let (Some(index), Some(from)) = (said.differs_index, said.differs_from) {
        found.push(format!(
            "its state differs from that of node {from} at index {index}: one of them is wrong"
        ));
    }
    if let Some(us) = over(said.disk_us, SLOW_DISK_US) {
        found.push(format!(
            "slow disk, a write takes {} ms to be durable",
            ms(us)
        ));
    }
    if let Some(us) = over(said.tick_late_max_us, LATE_US) {
        let times = said.late_ticks.unwrap_or(0);
        found.push(format!(
            "late timers, by up to {} ms lately ({times} times since the start): the machine is busy or was away",
            ms(us)
        ));
    }
    if let Some(us) = over(said.round_trip_us, SLOW_ANSWER_US) {
        found.push(format!(
            "slow network, it answers the leader after {} ms",
            ms(us)
        ));
    }
    if let Some(ms) = over(said.silent_ms, SILENT_MS) {
        found.push(format!(
            "silent, the leader has not heard of it for {ms} ms"
        ));
    }
    if let Some(lag) = over(said.lag, LAG) {
        found.push(format!("behind, by {lag} entries"));
    }
    found
}

impl Peer {
    fn new(peer: PeerStatus) -> Peer {
        Peer {
            id: peer.id,
            connected: peer.connected,
            match_index: peer.match_index,
            next_index: peer.next_index,
            state: peer.state,
            silent_ms: peer.silent_ms,
            round_trip_us: peer.round_trip_us,
            disk_us: peer.disk_us,
            disk_full: peer.disk_full,
        }
    }
}

/// An array with an object a node.
pub fn json(rows: &[Row]) -> String {
    serde_json::to_string_pretty(rows).expect("rows are plain numbers and strings")
}

/// One line a node under a line of headings.
pub fn table(rows: &[Row]) -> String {
    const HEADINGS: [&str; 16] = [
        "ID",
        "ADDR",
        "ROLE",
        "TERM",
        "LEADER",
        "COMMIT",
        "APPLIED",
        "LOG",
        "SNAPSHOT",
        "LAG",
        "LOG BYTES",
        "KEYS",
        "SYNC",
        "LATE",
        "RTT",
        "UP",
    ];
    let mut lines = vec![HEADINGS.map(String::from).to_vec()];
    lines.extend(rows.iter().map(|row| match &row.error {
        // The reason may be longer than any column, and is the last of its line.
        Some(error) => vec![
            cell(row.id),
            row.addr.to_string(),
            format!("unreachable ({error})"),
        ],
        None => cells(row),
    }));
    let width = |column: usize| {
        let cells = lines.iter().filter(|line| line.len() > column + 1);
        cells
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let mut text = String::new();
    for (n, line) in lines.iter().enumerate() {
        if n > 0 {
            text.push('\n');
        }
        for (column, cell) in line.iter().enumerate() {
            if column + 1 == line.len() {
                text.push_str(cell);
            } else {
                // Writing to a string cannot fail.
                let _ = write!(text, "{cell:<width$}  ", width = widths[column]);
            }
        }
    }
    for row in rows {
        for complaint in complaints(row) {
            let _ = write!(text, "\nnode {}: {complaint}", cell(row.id));
        }
    }
    text
}

/// A time in milliseconds, as precise as is of use.
fn millis(us: Option<u64>) -> String {
    us.map_or_else(
        || cell(None::<u64>),
        |us| match us {
            0..10_000 => format!("{}.{:02}ms", us / 1000, us % 1000 / 10),
            _ => format!("{}ms", us / 1000),
        },
    )
}

fn cells(row: &Row) -> Vec<String> {
    let said = &row.said;
    vec![
        cell(row.id),
        row.addr.to_string(),
        match said.removed {
            Some(true) => "removed".to_owned(),
            _ => cell(said.role.as_deref()),
        },
        cell(said.term),
        cell(said.leader),
        cell(said.commit_index),
        cell(said.applied_index),
        format!("{}..{}", cell(said.first_index), cell(said.last_index)),
        cell(said.snapshot_index),
        cell(said.lag),
        cell(said.log_bytes),
        cell(said.keys),
        millis(said.disk_us.filter(|us| *us > 0)),
        millis(said.tick_late_max_us),
        millis(said.round_trip_us),
        said.uptime_ms
            .map_or_else(|| cell(None::<u64>), |ms| format!("{}s", ms / 1000)),
    ]
}

fn cell(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}
