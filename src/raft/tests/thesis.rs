//! What scripts can't say well of the thesis: members, successors, leases and reads.

use std::time::Duration;

use super::paper::*;
use crate::raft::{
    Body, Change, ChangeError, Config, Introduction, Log, Message, Raft, ReadId, ReadOutcome,
    RoleName,
};
use crate::time::Time;
use crate::types::{EntryId, Incarnation, Index, NodeId, Payload, Term};

fn add(id: u64) -> Change {
    Change::AddLearner {
        id: NodeId(id),
        peer: format!("p{id}"),
        client: format!("c{id}"),
    }
}

fn introduce(raft: &mut Raft, peers: &[u64]) {
    for peer in peers {
        let introduction = Introduction {
            incarnation: Incarnation(1),
            level: 1,
            established: false,
            was_voter: false,
        };
        raft.introduce(NOW, NodeId(*peer), introduction);
    }
}

/// §6: "agreement (for elections and entry commitment) requires separate majorities from
/// both the old and new configurations"; over all sets of nodes that may have the entry.
#[test]
fn a_joint_entry_is_committed_by_majorities_of_both_halves_and_nothing_less() {
    for set in 0..16u32 {
        let mut raft = leader(3);
        introduce(&mut raft, &[4, 5]);
        raft.propose_change(NOW, &[add(4), add(5)])
            .expect("two learners");
        write_all(&mut raft);
        (2..=5).for_each(|peer| acknowledge(&mut raft, peer, 2));
        let [out, r#in] = [[2, 3], [4, 5]].map(|ids| ids.map(NodeId));
        let changes = [
            Change::Remove(out[0]),
            Change::Remove(out[1]),
            Change::Promote(r#in[0]),
            Change::Promote(r#in[1]),
        ];
        raft.propose_change(NOW, &changes)
            .expect("they have caught up");
        assert!(raft.configuration().is_joint());
        write_all(&mut raft);
        let has = |id: u64| id == 1 || set >> (id - 2) & 1 == 1;
        for peer in (2..=5).filter(|id| has(*id)) {
            acknowledge(&mut raft, peer, 3);
        }
        let count = |half: [u64; 3]| half.into_iter().filter(|id| has(*id)).count();
        let both = count([1, 2, 3]) >= 2 && count([1, 4, 5]) >= 2;
        assert_eq!(raft.commit_index() >= Index(3), both, "{set:04b}");
        assert_eq!(
            raft.configuration().is_joint(),
            !both,
            "it goes on by itself"
        );
    }
}

/// §8: "each leader [commits] a blank no-op entry into the log at the start of its term",
/// and before that it does not know what is committed.
#[test]
fn a_leader_begins_with_an_empty_entry_and_answers_no_read_before_it_is_committed() {
    let old = [EntryId::new(1, 1)];
    let mut raft = elected(3, in_term(1), &old);
    let last = raft.log().last();
    assert_eq!(last, EntryId::new(2, 2));
    assert_eq!(
        raft.log().get(Index(2)).map(|entry| &entry.payload),
        Some(&Payload::Noop)
    );
    let answer = |round| Body::HeartbeatReply {
        round,
        disk: Duration::ZERO,
        full: false,
        memory_full: false,
        state: None,
    };
    raft.read(ReadId(1));
    raft.step(NOW, from(2, 2, answer(1)));
    assert_eq!(raft.take_ready(NOW).reads, []);
    acknowledge(&mut raft, 2, 2);
    assert_eq!(
        raft.take_ready(NOW).reads,
        [],
        "it needs a round of its own"
    );
    raft.step(NOW, from(2, 2, answer(2)));
    let reads = raft.take_ready(NOW).reads;
    assert_eq!(reads, [ReadOutcome::Ready(ReadId(1), Index(2))]);
}

/// Thesis §3.10: the successor has all, and nothing is under way any more.
#[test]
fn a_successor_is_told_once_and_only_when_all_is_committed_and_on_its_disk() {
    let mut raft = leader(3);
    raft.propose(command("x")).expect("it leads");
    raft.transfer_leadership(NOW, NodeId(2))
        .expect("it is there");
    let told = |sent: Vec<Message>| sent.iter().filter(|m| m.body == Body::TimeoutNow).count();
    acknowledge(&mut raft, 2, 2);
    assert_eq!(told(raft.take_ready(NOW).messages), 0, "not committed");
    assert_eq!(told(write_all(&mut raft)), 1);
    acknowledge(&mut raft, 3, 2);
    assert_eq!(told(raft.take_ready(NOW).messages), 0, "told already");
}

/// Thesis §4.2.1: a new server catches up before it votes.
#[test]
fn a_learner_is_promoted_with_as_many_entries_to_go_as_the_bound_says_and_no_more() {
    for (behind, promoted) in [(0, true), (1_024, true), (1_025, false)] {
        let mut raft = leader(3);
        introduce(&mut raft, &[4]);
        raft.propose_change(NOW, &[add(4)]).expect("a learner");
        for _ in 0..behind {
            raft.propose(command("x")).expect("it leads");
        }
        write_all(&mut raft);
        acknowledge(&mut raft, 2, 2 + behind);
        acknowledge(&mut raft, 4, 2);
        let id = NodeId(4);
        let outcome = raft.propose_change(NOW, &[Change::Promote(id)]);
        assert_eq!(outcome.is_ok(), promoted, "{behind} behind");
        if !promoted {
            assert_eq!(outcome, Err(ChangeError::NotCaughtUp { id, behind }));
        }
    }
}

/// Thesis §4.2.2: a leader that removes itself "does not count itself in majorities", and
/// stands down when that is committed.
#[test]
fn a_leader_that_is_no_voter_any_more_does_not_count_itself_and_stands_down() {
    let mut raft = leader(3);
    raft.propose_change(NOW, &[Change::Remove(ME)])
        .expect("it leads");
    write_all(&mut raft);
    acknowledge(&mut raft, 2, 2);
    assert_eq!(
        raft.commit_index(),
        Index(1),
        "one of two others, and itself"
    );
    assert!(raft.is_leader());
    acknowledge(&mut raft, 3, 2);
    assert_eq!(raft.commit_index(), Index(2));
    assert_eq!(raft.role(), RoleName::Follower);
    let sent = raft.take_ready(NOW).messages;
    assert!(sent.iter().any(|m| m.body == Body::TimeoutNow));
    assert_eq!(raft.next_deadline(), Time::NEVER, "it never campaigns");
}

/// Thesis §4.2.3: "if a server receives a RequestVote request within the minimum election
/// timeout of hearing from a current leader, it does not update its term or grant its vote".
#[test]
fn a_vote_counts_again_exactly_when_the_shortest_time_out_has_passed() {
    for (after, counts) in [(0, false), (149, false), (150, true), (299, true)] {
        let mut raft = node(3, in_term(2), &[], 1);
        raft.step(NOW, from(2, 2, heartbeat(1)));
        let vote = Body::Vote {
            last: EntryId::ZERO,
            transfer: false,
        };
        let later = NOW + Duration::from_millis(after);
        raft.step(later, from(3, 3, vote));
        assert_eq!(raft.term() == Term(3), counts, "after {after} ms");
        assert_eq!(raft.hard_state().voted_for.is_some(), counts);
    }
}

/// Thesis §6.4.1: at no moment may a leader read by a lease while one of those that gave
/// it would vote for another.
#[test]
fn a_lease_is_over_before_the_first_of_its_promises_is() {
    let with_lease = |id: u64| {
        let config = Config {
            server: server(id),
            configuration: members(2),
            first_members: members(2),
            election_timeout: (Duration::from_millis(150), Duration::from_millis(300)),
            heartbeat: Duration::from_millis(50),
            seed: 1,
            established: false,
            read_lease: true,
            disk_patience: Duration::from_secs(2),
        };
        Raft::new(
            config,
            in_term(1),
            Log::restore(EntryId::ZERO, Vec::new()),
            NOW,
        )
    };
    let (mut reads, mut votes) = (0, 0);
    for after in 0..200 {
        let (mut leader, mut follower) = (with_lease(1), with_lease(2));
        let begin = leader.next_deadline().max(follower.next_deadline());
        leader.tick(begin);
        leader.step(begin, from(2, 2, Body::PreVoteReply { granted: true }));
        drop(leader.take_ready(begin));
        leader.persisted(begin, Some(leader.hard_state()), Index::ZERO);
        leader.step(begin, from(2, 2, Body::VoteReply { granted: true }));
        let sent = leader.take_ready(begin).messages;
        leader.unwritten();
        leader.persisted(begin, None, Index(1));
        acknowledge(&mut leader, 2, 1);
        for message in sent {
            follower.step(begin, message);
        }
        for message in follower.take_ready(begin).messages {
            leader.step(begin, message);
        }
        let now = begin + Duration::from_millis(after);
        leader.read(ReadId(1));
        let read = !leader.take_ready(now).reads.is_empty();
        follower.forget_leader();
        let vote = Body::Vote {
            last: EntryId::new(2, 9),
            transfer: false,
        };
        let mut message = from(1, 3, vote);
        message.to = server(2);
        follower.step(now, message);
        let voted = follower.hard_state().voted_for.is_some();
        assert!(!(read && voted), "after {after} ms");
        reads += u64::from(read);
        votes += u64::from(voted);
    }
    assert!(reads > 100 && votes > 40, "{reads} {votes}");
}
