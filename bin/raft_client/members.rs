//! `members` and `transfer`: what operators ask for, with progress on stderr.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use raftkv::client::{Goal, NodeStatus};
use raftkv::pb::StatusResponse;
use serde::Serialize;

/// How often progress is shown where it is not a terminal that it overwrites.
const EVERY: Duration = Duration::from_secs(1);
/// A new member has to catch up first, which takes as long as there is data.
pub const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(300);

/// What the words behind `members` ask for; `None` if they are wrong.
pub fn goal(words: &[&str], learner: bool, force: bool) -> Option<Goal> {
    let id = |word: &str| word.parse::<u64>().ok();
    let addr = |word: &str| word.parse::<SocketAddr>().ok();
    let goal = match *words {
        ["add", n, peer, client] => Goal::Add {
            id: id(n)?,
            peer: addr(peer)?,
            client: addr(client)?,
            learner,
            force,
        },
        ["promote", n] => Goal::Promote(id(n)?),
        ["demote", n] => Goal::Demote(id(n)?),
        ["remove", n] => Goal::Remove(id(n)?),
        ["move", n, peer, client] => Goal::Move {
            id: id(n)?,
            peer: addr(peer)?,
            client: addr(client)?,
        },
        ["replace", old, n, peer, client] => Goal::Replace {
            old: id(old)?,
            id: id(n)?,
            peer: addr(peer)?,
            client: addr(client)?,
            force,
        },
        _ => return None,
    };
    let fits = match goal {
        Goal::Add { .. } => true,
        Goal::Replace { .. } => !learner,
        _ => !learner && !force,
    };
    fits.then_some(goal)
}

/// Whether it takes as long as a node needs to catch up.
pub fn takes_long(goal: &Goal) -> bool {
    matches!(goal, Goal::Add { .. } | Goal::Replace { .. })
}

/// Shows what is being waited for: in one line of a terminal, else now and then.
pub struct Progress {
    shown: Option<(String, Instant)>,
    terminal: bool,
}

impl Progress {
    pub fn new() -> Progress {
        Progress {
            shown: None,
            terminal: io::stderr().is_terminal(),
        }
    }

    pub fn show(&mut self, what: &str) {
        let due = match &self.shown {
            None => true,
            Some((last, at)) => last != what && (self.terminal || at.elapsed() >= EVERY),
        };
        if due {
            let mut err = io::stderr().lock();
            // Whom should a failure to print be told?
            let _ = if self.terminal {
                write!(err, "\r\x1b[Kwaiting: {what}")
            } else {
                writeln!(err, "waiting: {what}")
            };
            self.shown = Some((what.to_owned(), Instant::now()));
        }
    }

    /// Leaves the line to whatever comes next.
    pub fn end(self) {
        if self.terminal && self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// One member, as the leader has it.
#[derive(Serialize)]
struct Row {
    id: u64,
    standing: String,
    priority: u32,
    peer: String,
    client: String,
    leads: bool,
    /// Absent but from a leader.
    match_index: Option<u64>,
    lag: Option<u64>,
}

/// The members, by the word of the leader, else of whoever has the newest; `None` if nobody
/// said anything.
pub fn list(said: Vec<NodeStatus>, json: bool) -> Option<String> {
    let said = said.into_iter().filter_map(|node| node.status.ok());
    let newest = said.max_by_key(|said| (said.role == "leader", said.term, said.members_index))?;
    let rows: Vec<Row> = newest.members.iter().map(|m| row(m, &newest)).collect();
    if json {
        return Some(serde_json::to_string_pretty(&rows).expect("plain numbers and strings"));
    }
    let cell = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    let mut table = vec![
        [
            "ID", "STANDING", "PRIORITY", "PEER", "CLIENT", "MATCH", "LAG",
        ]
        .map(String::from),
    ];
    table.extend(rows.iter().map(|row| {
        let leads = if row.leads { " (leads)" } else { "" };
        [
            row.id.to_string(),
            format!("{}{leads}", row.standing),
            row.priority.to_string(),
            row.peer.clone(),
            row.client.clone(),
            cell(row.match_index),
            cell(row.lag),
        ]
    }));
    let width = |column: usize| table.iter().map(|line| line[column].len()).max();
    let widths: Vec<usize> = (0..7).map(|column| width(column).unwrap_or(0)).collect();
    let lines = table.iter().map(|line| {
        let cells = line.iter().zip(&widths);
        let text: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.join("  ").trim_end().to_owned()
    });
    Some(lines.collect::<Vec<_>>().join("\n"))
}

fn row(member: &raftkv::pb::MemberStatus, said: &StatusResponse) -> Row {
    let leads = u64::try_from(said.leader) == Ok(member.id);
    let own = member.id == said.id && said.role == "leader";
    let peer = said.peers.iter().find(|peer| peer.id == member.id);
    let match_index = match peer {
        Some(peer) => Some(peer.match_index),
        None => own.then_some(said.durable_index),
    };
    Row {
        id: member.id,
        standing: member.standing.clone(),
        priority: member.priority,
        peer: member.peer.clone(),
        client: member.client.clone(),
        leads,
        match_index,
        lag: match_index.map(|at| said.last_index.saturating_sub(at)),
    }
}
