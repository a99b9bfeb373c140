//! What scripts can't say well: tables, and calls that come between a step and its
//! ready value.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::cluster::BIRTH;
use crate::raft::{
    Accepted, Body, Config, Configuration, Log, Message, Raft, ReadId, ReadOutcome, Rejected,
    RoleName,
};
use crate::time::Time;
use crate::types::{Entry, EntryId, HardState, Incarnation, Index, NodeId, Payload, Server, Term};

pub(super) const NOW: Time = Time::from_millis(1);
pub(super) const ME: NodeId = NodeId(1);

pub(super) fn node(nodes: u64, state: HardState, log: &[EntryId], seed: u64) -> Raft {
    let config = Config {
        server: server(1),
        configuration: members(nodes),
        first_members: members(nodes),
        election_timeout: (Duration::from_millis(150), Duration::from_millis(300)),
        heartbeat: Duration::from_millis(50),
        seed,
        established: false,
        read_lease: false,
        disk_patience: Duration::from_secs(2),
    };
    let entries = log.iter().copied().map(entry).collect();
    Raft::new(config, state, Log::restore(EntryId::ZERO, entries), NOW)
}

pub(super) fn members(nodes: u64) -> Configuration {
    let member = |id| (NodeId(id), 0, format!("p{id}"), format!("c{id}"));
    let first = Configuration::of_voters((1..=nodes).map(member));
    first.upgraded(BIRTH, |_| Incarnation(1))
}

pub(super) fn server(id: u64) -> Server {
    Server::new(id, 1)
}

pub(super) fn in_term(term: u64) -> HardState {
    HardState {
        term: Term(term),
        voted_for: None,
    }
}

pub(super) fn entry(id: EntryId) -> Entry {
    let payload = Payload::Command(Bytes::from(id.to_string()));
    Entry { id, payload }
}

pub(super) fn from(from: u64, term: u64, body: Body) -> Message {
    Message {
        birth: BIRTH,
        from: server(from),
        to: server(1),
        term: Term(term),
        call: 0,
        lost_directory: false,
        body,
    }
}

pub(super) fn append(prev: EntryId, ids: &[EntryId]) -> Body {
    Body::Append {
        prev,
        entries: ids.iter().copied().map(entry).collect(),
        commit: Index::ZERO,
    }
}

/// A candidate of the term after `state`'s, whose own vote is on its disk.
pub(super) fn candidate(nodes: u64, state: HardState, log: &[EntryId]) -> Raft {
    let mut raft = node(nodes, state, log, 1);
    raft.tick(raft.next_deadline());
    for peer in 2..=nodes {
        let reply = Body::PreVoteReply { granted: true };
        raft.step(NOW, from(peer, state.term.0 + 1, reply));
    }
    drop(raft.take_ready(NOW));
    raft.persisted(NOW, Some(raft.hard_state()), Index::ZERO);
    raft
}

/// A leader of the term after `state`'s, whose first entry is on its disk.
pub(super) fn elected(nodes: u64, state: HardState, log: &[EntryId]) -> Raft {
    let mut raft = candidate(nodes, state, log);
    for peer in 2..=nodes {
        let reply = Body::VoteReply { granted: true };
        raft.step(NOW, from(peer, state.term.0 + 1, reply));
    }
    write_all(&mut raft);
    raft
}

/// All that was appended reaches the disk; returns what went out.
pub(super) fn write_all(raft: &mut Raft) -> Vec<Message> {
    let mut out = raft.take_ready(NOW).messages;
    raft.unwritten();
    raft.persisted(NOW, None, raft.log().last().index);
    out.append(&mut raft.take_ready(NOW).messages);
    out
}

pub(super) fn acknowledge(raft: &mut Raft, peer: u64, index: u64) {
    let accepted = Accepted {
        match_index: Index(index),
    };
    let term = raft.term().0;
    raft.step(NOW, from(peer, term, Body::AppendReply(Ok(accepted))));
}

pub(super) fn heartbeat(round: u64) -> Body {
    Body::Heartbeat {
        lease: false,
        state: None,
        last: Index(9),
        commit: Index::ZERO,
        round,
    }
}

pub(super) fn command(name: &'static str) -> Payload {
    Payload::Command(Bytes::from_static(name.as_bytes()))
}

/// A leader of term 2 whose first entry, at index 1, is committed.
pub(super) fn leader(nodes: u64) -> Raft {
    let mut raft = elected(nodes, in_term(1), &[]);
    (2..=nodes).for_each(|peer| acknowledge(&mut raft, peer, 1));
    drop(raft.take_ready(NOW));
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
                    voted_for: voted_for.map(server),
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
        state: None,
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
        state: None,
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
            disk: Duration::ZERO,
            full: false,
            memory_full: false,
            state: None,
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
    assert_eq!(*raft.unwritten(), [entry(new)]);
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
    assert_eq!(*raft.unwritten(), [entry(ids[3])]);
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
            full: false,
            memory_full: false,
            state: None,
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

/// §5.1: "if one server's current term is smaller than the other's, then it updates its
/// current term"; a candidate or leader "reverts to follower state".
#[test]
fn a_newer_term_in_any_message_makes_a_follower_of_any_role() {
    let begin: [fn() -> Raft; 4] = [
        || node(3, in_term(1), &[], 1),
        || {
            let mut raft = node(3, in_term(1), &[], 1);
            raft.tick(raft.next_deadline());
            raft
        },
        || candidate(3, in_term(1), &[]),
        || leader(3),
    ];
    let rejected = Rejected {
        rejected: Index(1),
        hint: EntryId::ZERO,
    };
    for begin in begin {
        for (body, leads) in [
            (append(EntryId::ZERO, &[EntryId::new(1, 1)]), true),
            (heartbeat(1), true),
            (Body::AppendReply(Err(rejected)), false),
            (
                Body::HeartbeatReply {
                    round: 1,
                    disk: Duration::ZERO,
                    full: false,
                    memory_full: false,
                    state: None,
                },
                false,
            ),
            (Body::VoteReply { granted: false }, false),
            (Body::PreVoteReply { granted: false }, false),
        ] {
            let mut raft = begin();
            let last = raft.log().last();
            if raft.is_leader() && matches!(body, Body::Append { .. }) {
                continue; // It would contradict what that leader has committed.
            }
            raft.step(NOW, from(2, 9, body.clone()));
            assert_eq!((raft.term(), raft.role()), (Term(9), RoleName::Follower));
            assert_eq!(raft.hard_state().voted_for, None, "a new term, a new vote");
            assert_eq!(raft.leader(), leads.then_some(NodeId(2)), "{body:?}");
            assert!(raft.log().last() >= last, "a term alone drops nothing");
        }
    }
}

/// §5.2: "when servers start up, they begin as followers".
#[test]
fn a_node_starts_as_a_follower_whatever_it_was_before() {
    for voted_for in [None, Some(server(1)), Some(server(2))] {
        let term = Term(3);
        let mut raft = node(3, HardState { term, voted_for }, &[], 1);
        assert_eq!((raft.role(), raft.leader()), (RoleName::Follower, None));
        assert_eq!(raft.take_ready(NOW).messages, []);
        assert!(raft.next_deadline() > NOW, "it waits for a leader first");
    }
}

/// §5.2: "leaders send periodic heartbeats [...] to all followers".
#[test]
fn a_leader_sends_each_follower_a_heartbeat_in_each_interval() {
    let mut raft = leader(5);
    for _ in 0..5 {
        let due = raft.next_deadline();
        assert!(due.since(NOW) <= Duration::from_millis(50) * 5);
        raft.tick(due);
        let sent = raft.take_ready(due).messages.into_iter();
        let beats = sent.filter(|m| matches!(m.body, Body::Heartbeat { .. }));
        let to: Vec<u64> = beats.map(|m| m.to.id.0).collect();
        assert_eq!(to, [2, 3, 4, 5]);
        assert_eq!(raft.next_deadline(), due + Duration::from_millis(50));
        for peer in 2..=5 {
            let reply = Body::HeartbeatReply {
                round: 1,
                disk: Duration::ZERO,
                full: false,
                memory_full: false,
                state: None,
            };
            raft.step(due, from(peer, 2, reply));
        }
    }
}

/// §5.2: "a follower increments its current term and transitions to candidate state. It
/// then votes for itself and issues RequestVote RPCs"; when that brings nothing, again.
#[test]
fn each_election_begins_the_next_term_with_the_own_vote_and_asks_everyone() {
    let mut raft = node(3, in_term(1), &[], 1);
    for term in 2..=4 {
        let now = raft.next_deadline();
        raft.tick(now);
        assert_eq!(raft.term(), Term(term - 1), "asking around changes nothing");
        drop(raft.take_ready(now));
        raft.step(now, from(2, term, Body::PreVoteReply { granted: true }));
        let state = HardState {
            term: Term(term),
            voted_for: Some(server(1)),
        };
        assert_eq!(raft.hard_state(), state);
        assert_eq!(raft.role(), RoleName::Candidate);
        let ready = raft.take_ready(now);
        assert_eq!(ready.write.hard_state, Some(state));
        let sent = ready.messages.iter().map(|m| (m.to.id.0, m.term.0));
        assert_eq!(sent.collect::<Vec<_>>(), [(2, term), (3, term)]);
        let asks = |m: &Message| matches!(m.body, Body::Vote { .. });
        assert!(ready.messages.iter().all(asks));
    }
}

/// §5.2: a majority elects; the own vote counts when it is on the disk.
#[test]
fn an_election_is_won_with_a_majority_lost_without_one_and_open_in_between() {
    for nodes in [1, 2, 3, 4, 5, 7] {
        for yes in 0..nodes {
            for no in 0..nodes - yes {
                let mut raft = candidate(nodes, in_term(1), &[]);
                for peer in 2..=nodes {
                    if peer - 2 < yes + no {
                        let granted = peer - 2 < yes;
                        raft.step(NOW, from(peer, 2, Body::VoteReply { granted }));
                    }
                }
                let majority = nodes / 2 + 1;
                let expected = if yes + 1 >= majority {
                    RoleName::Leader
                } else if nodes - no < majority {
                    RoleName::Follower
                } else {
                    RoleName::Candidate
                };
                assert_eq!(raft.role(), expected, "{nodes} nodes, {yes} yes, {no} no");
            }
        }
    }
}

/// §5.2: a candidate that hears of a leader "with a term at least as large" follows it.
#[test]
fn a_candidate_gives_way_to_a_leader_of_its_term_and_not_to_an_older_one() {
    for (term, follows) in [(1, false), (2, true), (3, true)] {
        let mut raft = candidate(3, in_term(1), &[]);
        raft.step(NOW, from(2, term, append(EntryId::ZERO, &[])));
        assert_eq!(raft.leader(), follows.then_some(NodeId(2)), "term {term}");
        assert_eq!(raft.role() == RoleName::Follower, follows);
    }
}

/// §5.3: the leader "appends the command to its log as a new entry, then issues
/// AppendEntries RPCs in parallel".
#[test]
fn a_command_is_appended_and_sent_to_all_behind_the_entry_before_it() {
    let mut raft = leader(3);
    let id = raft.propose(command("x")).expect("it leads");
    assert_eq!((id, raft.commit_index()), (EntryId::new(2, 2), Index(1)));
    let ready = raft.take_ready(NOW);
    assert_eq!(raft.unwritten().len(), 1, "it is to be written");
    let to: Vec<u64> = ready.messages.iter().map(|m| m.to.id.0).collect();
    assert_eq!(to, [2, 3]);
    for message in ready.messages {
        let Body::Append {
            prev,
            entries,
            commit,
        } = message.body
        else {
            panic!("not what was expected: {message:?}");
        };
        assert_eq!((prev, commit), (EntryId::new(2, 1), Index(1)));
        assert_eq!(entries.into_vec()[0].id, id);
    }
}

/// §5.3: "a log entry is committed once the leader [...] has replicated it on a majority".
#[test]
fn an_entry_is_committed_exactly_when_a_majority_has_it_on_disk() {
    for nodes in 1..=7 {
        for others in 0..nodes {
            for own in [false, true] {
                let mut raft = leader(nodes);
                raft.propose(command("x")).expect("it leads");
                if own {
                    write_all(&mut raft);
                }
                for peer in 2..2 + others {
                    acknowledge(&mut raft, peer, 2);
                    acknowledge(&mut raft, peer, 2); // Twice is once.
                }
                let committed = others + u64::from(own) > nodes / 2;
                let index = Index(1 + u64::from(committed));
                assert_eq!(raft.commit_index(), index, "{others} and {own} of {nodes}");
            }
        }
    }
}

/// §5.3, §5.4.2: an entry of the leader's term commits "all preceding entries in the
/// leader's log, including entries created by previous leaders"; by counting alone these
/// are never committed.
#[test]
fn entries_of_earlier_terms_are_committed_only_with_one_of_the_own_term() {
    for terms in [&[][..], &[2], &[1, 2], &[1, 1, 2, 3]] {
        let ids = terms.iter().zip(1..);
        let log: Vec<EntryId> = ids.map(|(term, i)| EntryId::new(*term, i)).collect();
        let mut raft = elected(3, in_term(3), &log);
        for index in 1..=log.len() as u64 {
            acknowledge(&mut raft, 2, index);
            assert_eq!(raft.commit_index(), Index::ZERO, "{terms:?}");
        }
        let first = log.len() as u64 + 1;
        acknowledge(&mut raft, 2, first);
        assert_eq!(raft.commit_index(), Index(first), "{terms:?}");
    }
}

/// §5.3: a follower learns what is committed, and takes it as far as its log is known to
/// match: `min(leaderCommit, index of last new entry)`.
#[test]
fn a_follower_commits_no_more_than_the_request_proved_equal() {
    for entries in 0..=3u64 {
        for commit in 0..=5 {
            let tail: Vec<EntryId> = (1..=4).map(|i| EntryId::new(1, i)).collect();
            let mut raft = node(3, in_term(1), &tail, 1);
            let ids: Vec<EntryId> = tail[1..=entries as usize].to_vec();
            let Body::Append { prev, entries, .. } = append(tail[0], &ids) else {
                unreachable!("made as one")
            };
            let body = Body::Append {
                prev,
                entries,
                commit: Index(commit),
            };
            raft.step(NOW, from(2, 1, body));
            let proved = 1 + ids.len() as u64;
            assert_eq!(raft.commit_index(), Index(commit.min(proved)));
        }
    }
}

/// §5.3: "if the follower does not find an entry in its log with the same index and term,
/// then it refuses the new entries".
#[test]
fn entries_are_taken_exactly_where_the_one_before_them_is_the_same() {
    let log = [EntryId::new(1, 1), EntryId::new(2, 2)];
    for index in 0..=4 {
        for term in u64::from(index > 0)..=3 {
            let mut raft = node(3, in_term(3), &log, 1);
            let prev = EntryId::new(term, index);
            raft.step(NOW, from(2, 3, append(prev, &[])));
            let known = prev == EntryId::ZERO || log.contains(&prev);
            let ready = raft.take_ready(NOW);
            let taken = ready.promises.first().map(|m| m.body.clone());
            let match_index = Index(index);
            let accepted = Body::AppendReply(Ok(Accepted { match_index }));
            assert_eq!(taken, known.then_some(accepted), "{prev}");
            let refused = ready
                .messages
                .iter()
                .any(|m| matches!(m.body, Body::AppendReply(Err(r)) if r.rejected == match_index));
            assert_ne!(known, refused, "{prev}");
        }
    }
}

/// §5.3: "if an existing entry conflicts with a new one [...], delete the existing entry
/// and all that follow it. Append any new entries not already in the log".
#[test]
fn only_a_conflict_drops_entries_and_only_what_is_new_is_written() {
    let id = EntryId::new;
    let log = [id(1, 1), id(2, 2)];
    for (prev, new, expected, written) in [
        (
            id(2, 2),
            vec![id(3, 3)],
            vec![id(1, 1), id(2, 2), id(3, 3)],
            1,
        ),
        (
            id(1, 1),
            vec![id(3, 2), id(4, 3)],
            vec![id(1, 1), id(3, 2), id(4, 3)],
            2,
        ),
        (id(0, 0), vec![id(1, 1)], vec![id(1, 1), id(2, 2)], 0),
        (id(0, 0), vec![id(3, 1)], vec![id(3, 1)], 1),
        (id(1, 1), vec![], vec![id(1, 1), id(2, 2)], 0),
    ] {
        let mut raft = node(3, in_term(4), &log, 1);
        raft.step(NOW, from(2, 4, append(prev, &new)));
        let all = raft.log().range(Index(1), raft.log().last().index);
        let ids: Vec<EntryId> = all.map(|entry| entry.id).collect();
        assert_eq!(ids, expected, "{new:?} behind {prev}");
        drop(raft.take_ready(NOW));
        assert_eq!(raft.unwritten().len(), written, "{new:?} behind {prev}");
    }
}

/// §5.5: "Raft RPCs are idempotent".
#[test]
fn a_request_that_comes_again_is_answered_as_the_first_time() {
    let (first, second) = (EntryId::new(2, 1), EntryId::new(2, 2));
    let vote = Body::Vote {
        last: first,
        transfer: false,
    };
    for body in [append(EntryId::ZERO, &[first, second]), vote] {
        let mut raft = node(3, in_term(1), &[], 1);
        let answers: Vec<Vec<Message>> = (0..3)
            .map(|_| {
                raft.step(NOW, from(2, 2, body.clone()));
                raft.take_ready(NOW).promises
            })
            .collect();
        assert_eq!(answers[0].len(), 1);
        assert!(answers.iter().all(|again| *again == answers[0]));
        assert!(raft.log().last().index <= second.index, "nothing twice");
    }
}

/// §5.6: `broadcastTime << electionTimeout`, or there is no steady leader.
#[test]
fn a_follower_that_hears_its_leader_in_time_never_campaigns() {
    for seed in 0..20 {
        let mut raft = node(3, in_term(2), &[], seed);
        let mut now = NOW;
        for round in 1..200 {
            raft.step(now, from(2, 2, heartbeat(round)));
            assert!(raft.next_deadline() >= now + Duration::from_millis(150));
            // Two heartbeats in a row may get lost.
            now += Duration::from_millis(149);
            raft.tick(now);
            assert_eq!((raft.role(), raft.term()), (RoleName::Follower, Term(2)));
        }
    }
}
