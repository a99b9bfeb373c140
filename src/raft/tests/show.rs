//! How the scripts write what they see.

use crate::raft::{Accepted, Body, Configuration, Message, Rejected, RoleName, Standing, Write};
use crate::types::{Entry, NodeId, Payload, Server, Term};

pub(super) fn entry(entry: &Entry) -> String {
    let content = match &entry.payload {
        Payload::Noop => "noop".to_owned(),
        Payload::Command(bytes) if bytes.len() <= 16 => String::from_utf8_lossy(bytes).into_owned(),
        Payload::Config(bytes) => {
            configuration(&Configuration::decode(bytes).expect("a configuration"))
        }
        payload => format!("<{} bytes>", payload.bytes().len()),
    };
    format!("{} {content}", entry.id)
}

/// A node, with a stroke for each directory that it has lost.
pub(super) fn server(server: Server) -> String {
    let lost = server.incarnation.0.saturating_sub(1);
    format!("{}{}", server.id, "'".repeat(lost as usize))
}

/// The voters; other members with their part; first members that are pending.
pub(super) fn configuration(configuration: &Configuration) -> String {
    let mut text = "members".to_owned();
    for (member_server, member) in configuration.members() {
        let id = server(member_server);
        text += &match member.standing {
            Standing::Voter => format!(" {id}"),
            standing => format!(" {id}:{}", standing.as_str()),
        };
    }
    for (id, _) in configuration.pending() {
        text += &format!(" {id}:pending");
    }
    if configuration.is_founding() {
        text += " (founding)";
    }
    text
}

pub(super) fn entries<'a>(entries: impl Iterator<Item = &'a Entry>) -> String {
    let list: Vec<String> = entries.map(entry).collect();
    match list.as_slice() {
        [first, .., last] if list.len() > 8 => format!("[{first} .. {last}]"),
        _ => format!("[{}]", list.join(", ")),
    }
}

pub(super) fn kind(body: &Body) -> &'static str {
    body.kind()
}

fn yes(granted: bool) -> &'static str {
    if granted { "yes" } else { "no" }
}

pub(super) fn message(message: &Message) -> String {
    let body = match &message.body {
        Body::PreVote { last } => format!("last={last}"),
        Body::Vote { last, transfer } => {
            format!("last={last}{}", if *transfer { " transfer" } else { "" })
        }
        Body::PreVoteReply { granted } | Body::VoteReply { granted } => yes(*granted).to_owned(),
        Body::Append {
            prev,
            entries: list,
            commit,
        } => format!("prev={prev} {} commit={commit}", entries(list.iter())),
        Body::AppendReply(Ok(Accepted { match_index })) => format!("match={match_index}"),
        Body::AppendReply(Err(Rejected { rejected, hint })) => {
            format!("rejected={rejected} hint={hint}")
        }
        Body::Heartbeat {
            commit,
            round,
            lease,
            ..
        } => {
            let lease = if *lease { " lease" } else { "" };
            format!("commit={commit} round={round}{lease}")
        }
        Body::HeartbeatReply { round, disk, .. } if disk.is_zero() => format!("round={round}"),
        Body::HeartbeatReply { round, disk, .. } => {
            format!("round={round} disk={}ms", disk.as_millis())
        }
        // Contexts begin at a random number; a script tells them apart by what comes of them.
        Body::ReadIndex { .. } => String::new(),
        Body::ReadIndexReply { index, .. } => match index {
            Some(index) => format!("index={index}"),
            None => "lost".to_owned(),
        },
        Body::TimeoutNow => String::new(),
        Body::Snapshot(chunk) => format!("last={} offset={}", chunk.snapshot.last, chunk.offset),
        Body::SnapshotReply {
            snapshot,
            next_offset,
            installed,
        } => format!(
            "last={} next={next_offset} installed={}",
            snapshot.last,
            yes(*installed)
        ),
    };
    let (from, to, term) = (server(message.from), server(message.to), message.term);
    let line = format!("{from}->{to} t{term} {} {body}", kind(&message.body));
    line.trim_end().to_owned()
}

pub(super) fn write(write: &Write, list: &[Entry]) -> String {
    let mut line = String::new();
    if let Some(state) = write.hard_state {
        line += &format!(" term={}", state.term);
        if let Some(candidate) = state.voted_for {
            line += &format!(" vote={}", server(candidate));
        }
    }
    if let Some(base) = write.reset_to {
        line += &format!(" reset={base}");
    }
    if let Some(from) = write.truncate_from {
        line += &format!(" truncate={from}");
    }
    if !list.is_empty() {
        line += &format!(" {}", entries(list.iter()));
    }
    line
}

pub(super) fn change(old: (Term, RoleName), new: (Term, RoleName), id: NodeId) -> String {
    let term = if old.0 == new.0 {
        format!("t{}", new.0)
    } else {
        format!("t{}->t{}", old.0, new.0)
    };
    let role = if old.1 == new.1 {
        new.1.as_str().to_owned()
    } else {
        format!("{}->{}", old.1.as_str(), new.1.as_str())
    };
    format!("{id} {term} {role}")
}
