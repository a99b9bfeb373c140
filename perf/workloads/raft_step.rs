//! A round of 24 entries of 150 bytes through the core: on the leader from the proposals
//! to the commit, and on a follower from the AppendEntries to its reply.

use std::time::Duration;

use bytes::Bytes;
use raftkv::raft::{Accepted, Body, Config, Configuration, Log, Message, Raft, RoleName};
use raftkv::time::Time;
use raftkv::types::{
    Birth, Entry, EntryId, HardState, Incarnation, Index, NodeId, Payload, Server,
};

use super::{Workload, repeated};

pub(super) const WORKLOADS: [Workload; 2] = [
    Workload::new("raft_step/leader commits 24", 500, leader),
    Workload::new("raft_step/follower appends 24", 500, follower),
];

const BATCH: u64 = 24;
const BIRTH: Birth = Birth(1);
/// No timer is due while this is measured.
const NOW: Time = Time::from_millis(10_000);

fn node(id: u64) -> Raft {
    let first_members = Configuration::of_voters(
        (0..3).map(|id| (NodeId(id), 0, format!("p{id}"), format!("c{id}"))),
    );
    let config = Config {
        server: Server::new(id, 1),
        configuration: first_members.upgraded(BIRTH, |_| Incarnation(1)),
        first_members,
        election_timeout: (Duration::from_millis(150), Duration::from_millis(300)),
        heartbeat: Duration::from_millis(50),
        seed: 1,
        established: false,
        read_lease: false,
        promised: Duration::ZERO,
        disk_patience: Duration::from_secs(2),
    };
    let log = Log::restore(EntryId::ZERO, Vec::new());
    Raft::new(config, HardState::default(), log, Time::ZERO)
}

fn message(from: u64, to: u64, term: raftkv::types::Term, body: Body) -> Message {
    Message {
        birth: BIRTH,
        from: Server::new(from, 1),
        to: Server::new(to, 1),
        term,
        call: 0,
        lost_directory: false,
        body,
    }
}

/// Carries out what a step asks for as a node over an immediate disk does; returns the
/// number of messages.
fn carry_out(raft: &mut Raft) -> usize {
    let ready = raft.take_ready(NOW);
    let last = raft.unwritten().last().map(|entry| entry.id.index);
    let hard_state = ready.write.hard_state;
    if last.is_some() || hard_state.is_some() {
        raft.persisted(NOW, hard_state, last.unwrap_or(Index::ZERO));
    }
    ready.messages.len() + ready.promises.len()
}

fn accepted(index: u64) -> Body {
    Body::AppendReply(Ok(Accepted {
        match_index: Index(index),
    }))
}

fn payload() -> Payload {
    Payload::Command(Bytes::from(vec![b'v'; 150]))
}

fn leader() -> Box<dyn FnMut(u64)> {
    let mut raft = node(0);
    raft.tick(NOW);
    carry_out(&mut raft);
    let pre_vote = Body::PreVoteReply { granted: true };
    let (one, payload) = (raftkv::types::Term(1), payload());
    raft.step(NOW, message(1, 0, one, pre_vote));
    carry_out(&mut raft);
    raft.step(NOW, message(1, 0, one, Body::VoteReply { granted: true }));
    carry_out(&mut raft);
    assert_eq!(raft.role(), RoleName::Leader);
    let mut last = 1;
    repeated(move || {
        for _ in 0..BATCH {
            raft.propose(payload.clone()).expect("it leads");
        }
        last += BATCH;
        let sent = carry_out(&mut raft);
        for peer in [1, 2] {
            raft.step(NOW, message(peer, 0, one, accepted(last)));
        }
        let sent = sent + carry_out(&mut raft);
        assert_eq!(raft.commit_index(), Index(last), "a majority has it");
        raft.compact(Index(last));
        sent
    })
}

fn follower() -> Box<dyn FnMut(u64)> {
    let mut raft = node(1);
    let (one, payload) = (raftkv::types::Term(1), payload());
    let mut prev = EntryId::ZERO;
    repeated(move || {
        let entries: Vec<Entry> = (1..=BATCH)
            .map(|n| Entry {
                id: EntryId::new(1, prev.index.0 + n),
                payload: payload.clone(),
            })
            .collect();
        let last = entries.last().expect("some").id;
        let commit = prev.index;
        let append = Body::Append {
            prev,
            entries: entries.into(),
            commit,
        };
        raft.step(NOW, message(0, 1, one, append));
        let sent = carry_out(&mut raft);
        raft.compact(commit);
        prev = last;
        sent
    })
}
