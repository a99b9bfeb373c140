//! What scripts can't say well: tables, and calls that come between a step and its
//! ready value.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use crate::raft::{
    Accepted, Body, Config, Configuration, Log, Message, Raft, ReadId, ReadOutcome, RoleName,
};
use crate::time::Time;
use crate::types::{Entry, EntryId, HardState, Index, NodeId, Payload, Term};

const NOW: Time = Time::from_millis(1);
const ME: NodeId = NodeId(1);

fn node(nodes: u64, state: HardState, log: &[EntryId], seed: u64) -> Raft {
    let config = Config {
        id: ME,
        configuration: members(nodes),
        election_timeout: (Duration::from_millis(150), Duration::from_millis(300)),
        heartbeat: Duration::from_millis(50),
        seed,
        lost_directory: false,
        read_lease: false,
        disk_patience: Duration::from_secs(2),
    };
    let entries = log.iter().copied().map(entry).collect();
    Raft::new(config, state, Log::restore(EntryId::ZERO, entries), NOW)
}

fn members(nodes: u64) -> Configuration {
    let member = |id| (NodeId(id), 0, format!("p{id}"), format!("c{id}"));
    Configuration::of_voters((1..=nodes).map(member))
}

fn in_term(term: u64) -> HardState {
    HardState {
        term: Term(term),
        voted_for: None,
    }
}

fn entry(id: EntryId) -> Entry {
    let payload = Payload::Command(Bytes::from(id.to_string()));
    Entry { id, payload }
}

fn from(from: u64, term: u64, body: Body) -> Message {
    Message {
        from: NodeId(from),
        to: ME,
        term: Term(term),
        call: 0,
        lost_directory: false,
        body,
    }
}

fn append(prev: EntryId, ids: &[EntryId]) -> Body {
    Body::Append {
        prev,
        entries: ids.iter().copied().map(entry).collect(),
        commit: Index::ZERO,
    }
}

/// A leader of term 2 whose first entry, at index 1, is committed.
fn leader(nodes: u64) -> Raft {
    let mut raft = node(nodes, in_term(1), &[], 1);
    raft.tick(raft.next_deadline());
    for granted in [true, true] {
        for peer in 2..=nodes {
            raft.step(NOW, from(peer, 2, Body::PreVoteReply { granted }));
            raft.step(NOW, from(peer, 2, Body::VoteReply { granted }));
        }
    }
    let state = raft.hard_state();
    drop(raft.take_ready(NOW));
    raft.persisted(NOW, Some(state), Index::ZERO);
    drop(raft.take_ready(NOW));
    raft.unwritten();
    raft.persisted(NOW, None, Index(1));
    for peer in 2..=nodes {
        let body = Body::AppendReply(Ok(Accepted {
            match_index: Index(1),
        }));
        raft.step(NOW, from(peer, 2, body));
    }
    assert_eq!(
        (raft.role(), raft.commit_index()),
        (RoleName::Leader, Index(1))
    );
    raft
}

/// §5.2: "Raft uses randomized election timeouts to ensure that split votes are rare".
#[test]
fn election_timeouts_of_nodes_and_of_rounds_differ_and_stay_in_their_range() {
    let mut drawn = BTreeSet::new();
    for seed in 0..20 {
        let mut raft = node(3, in_term(1), &[], seed);
        for _ in 0..20 {
            let start = raft.next_deadline();
            raft.tick(start);
            let timeout = raft.next_deadline().since(start);
            assert!((150..=300).contains(&timeout.as_millis()));
            drawn.insert(timeout);
        }
    }
    assert!(
        drawn.len() > 390,
        "nearly all are different: {}",
        drawn.len()
    );
}

/// §5.4.1, over all small logs and all earlier votes.
#[test]
fn a_vote_is_granted_exactly_to_a_log_at_least_as_up_to_date_and_once_a_term() {
    let logs: Vec<Vec<EntryId>> = (0..=3u64)
        .flat_map(|len| (1..=3u64).map(move |term| (len, term)))
        .map(|(len, term)| (1..=len).map(move |i| EntryId::new(if i == len { term } else { 1 }, i)))
        .map(Iterator::collect)
        .collect();
    for own in &logs {
        for theirs in &logs {
            for (term, voted_for) in [(3, None), (4, None), (4, Some(2)), (4, Some(3)), (5, None)] {
                let state = HardState {
                    term: Term(term),
                    voted_for: voted_for.map(NodeId),
                };
                let mut raft = node(3, state, own, 1);
                let last = |log: &[EntryId]| log.last().copied().unwrap_or_default();
                let (mine, its) = (last(own), last(theirs));
                raft.step(
                    NOW,
                    from(
                        2,
                        4,
                        Body::Vote {
                            last: its,
                            transfer: false,
                        },
                    ),
                );
                let current = (its.term, its.index) >= (mine.term, mine.index);
                let free = term < 4 || term == 4 && voted_for != Some(3);
                let ready = raft.take_ready(NOW);
                let granted = ready
                    .promises
                    .iter()
                    .any(|m| m.body == Body::VoteReply { granted: true });
                assert_eq!(granted, current && free, "{mine} {its} {state:?}");
                let refused = ready
                    .messages
                    .iter()
                    .any(|m| m.body == Body::VoteReply { granted: false });
                assert_ne!(granted, refused, "each request is answered once");
            }
        }
    }
}

/// §5.1: "if a server receives a request with a stale term number, it rejects".
#[test]
fn requests_of_an_older_term_change_nothing_and_are_told_the_newer_one() {
    let first = EntryId::new(1, 1);
    let heartbeat = Body::Heartbeat {
        lease: false,
        last: Index(9),
        commit: Index(1),
        round: 1,
    };
    for body in [
        append(first, &[EntryId::new(1, 2)]),
        heartbeat,
        Body::Vote {
            last: first,
            transfer: false,
        },
    ] {
        let mut raft = node(3, in_term(5), &[first], 1);
        raft.step(NOW, from(2, 4, body));
        let ready = raft.take_ready(NOW);
        assert_eq!(ready.messages.len(), 1);
        assert_eq!(ready.messages[0].term, Term(5));
        assert!(ready.promises.is_empty());
        assert_eq!((raft.log().last(), raft.leader()), (first, None));
        assert_eq!(raft.commit_index(), Index::ZERO);
    }
}

/// §5.3: an acknowledgement speaks for the disk, a heartbeat's answer does not.
#[test]
fn only_promises_wait_for_the_disk() {
    let mut raft = node(3, in_term(1), &[], 1);
    raft.step(
        NOW,
        from(2, 1, append(EntryId::ZERO, &[EntryId::new(1, 1)])),
    );
    let heartbeat = Body::Heartbeat {
        lease: false,
        last: Index(9),
        commit: Index::ZERO,
        round: 3,
    };
    raft.step(NOW, from(2, 1, heartbeat));
    let ready = raft.take_ready(NOW);
    assert_eq!(
        ready.messages[0].body,
        Body::HeartbeatReply {
            round: 3,
            disk: Duration::ZERO
        }
    );
    assert_eq!(ready.promises.len(), 1);
}

#[test]
fn one_answer_stands_for_all_appends_of_a_batch() {
    let mut raft = node(3, in_term(1), &[], 1);
    for i in 1..=5 {
        let prev = if i == 1 {
            EntryId::ZERO
        } else {
            EntryId::new(1, i - 1)
        };
        raft.step(NOW, from(2, 1, append(prev, &[EntryId::new(1, i)])));
    }
    let promises = raft.take_ready(NOW).promises;
    let last = Accepted {
        match_index: Index(5),
    };
    assert_eq!(promises.len(), 1);
    assert_eq!(promises[0].body, Body::AppendReply(Ok(last)));
}

#[test]
fn a_confirmation_between_a_truncation_and_its_ready_value_counts_only_for_what_is_left() {
    let (first, old, new) = (EntryId::new(1, 1), EntryId::new(1, 2), EntryId::new(2, 2));
    let mut raft = node(3, in_term(1), &[first], 1);
    raft.step(NOW, from(2, 1, append(first, &[old])));
    drop(raft.take_ready(NOW));
    assert_eq!(raft.unwritten().len(), 1);
    raft.step(NOW, from(3, 2, append(first, &[new])));
    raft.persisted(NOW, None, Index(2));
    assert_eq!(raft.log().stable(), Index(1));
    assert_eq!(raft.take_ready(NOW).write.truncate_from, Some(Index(2)));
    assert_eq!(raft.unwritten(), [entry(new)]);
}

/// §7: what follows the snapshot stays, but the log file must not go on behind a gap.
#[test]
fn a_snapshot_over_unwritten_entries_begins_the_log_file_anew() {
    let ids: Vec<EntryId> = (1..=4).map(|i| EntryId::new(1, i)).collect();
    let mut raft = node(3, in_term(1), &ids[..1], 1);
    raft.step(NOW, from(2, 1, append(ids[0], &ids[1..])));
    assert!(raft.install_snapshot(NOW, ids[2], members(3)));
    let write = raft.take_ready(NOW).write;
    assert_eq!((write.truncate_from, write.reset_to), (None, Some(ids[2])));
    assert_eq!(raft.unwritten(), [entry(ids[3])]);
}

#[test]
fn a_leader_takes_commands_up_to_its_cap_and_again_when_they_are_committed() {
    let mut raft = leader(3);
    let big = || Payload::Command(Bytes::from(vec![0; 16 << 20]));
    let mut taken = 0;
    while raft.propose(big()).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 3, "64 MiB and what entries add");
    let last = raft.log().last().index;
    let accepted = Accepted { match_index: last };
    raft.step(NOW, from(2, 2, Body::AppendReply(Ok(accepted))));
    assert!(
        raft.propose(big()).is_err(),
        "its own disk does not have them"
    );
    drop(raft.take_ready(NOW));
    raft.unwritten();
    raft.persisted(NOW, None, last);
    assert_eq!(raft.commit_index(), last);
    assert!(raft.propose(big()).is_ok());
}

#[test]
fn nonsense_from_a_follower_is_ignored() {
    let mut raft = leader(3);
    let far = Accepted {
        match_index: Index(99),
    };
    for body in [
        Body::AppendReply(Ok(far)),
        Body::HeartbeatReply {
            round: 99,
            disk: Duration::ZERO,
        },
        Body::VoteReply { granted: true },
        Body::PreVoteReply { granted: true },
    ] {
        raft.step(NOW, from(2, 2, body));
    }
    assert_eq!(
        (raft.role(), raft.commit_index()),
        (RoleName::Leader, Index(1))
    );
}

/// Thesis §6.4: a cluster of one is its own majority.
#[test]
fn a_single_node_answers_reads_at_once() {
    let mut raft = leader(1);
    raft.read(ReadId(7));
    let reads = raft.take_ready(NOW).reads;
    assert_eq!(reads, [ReadOutcome::Ready(ReadId(7), Index(1))]);
}
