use proptest::prelude::*;

use std::collections::BTreeSet;

use super::*;

fn voters(ids: std::ops::Range<u64>) -> Configuration {
    Configuration::of_voters(ids.map(|id| {
        let (peer, client) = (format!("p{id}"), format!("c{id}"));
        (NodeId(id), (id == 0).into(), peer, client)
    }))
    .upgraded(Birth(7), |_| Incarnation(1))
}

fn server(id: u64) -> Server {
    Server::new(id, 1)
}

/// The configuration after an operator's changes.
fn changed(from: &Configuration, changes: &[Change]) -> Result<Configuration, ChangeError> {
    let steps: Result<Vec<Step>, _> = changes
        .iter()
        .map(|change| from.resolve(change, Some(Incarnation(1))))
        .collect();
    from.changed(&steps?)
}

fn learner(id: u64) -> Change {
    Change::AddLearner {
        id: NodeId(id),
        peer: format!("p{id}"),
        client: format!("c{id}"),
    }
}

fn any_change() -> impl Strategy<Value = Change> {
    (0u64..6, 0u8..4).prop_map(|(id, kind)| match kind {
        0 => learner(id),
        1 => Change::Promote(NodeId(id)),
        2 => Change::Demote(NodeId(id)),
        _ => Change::Remove(NodeId(id)),
    })
}

/// All majorities of these voters, by brute force.
fn majorities(voters: &BTreeSet<u64>) -> Vec<BTreeSet<u64>> {
    let all: Vec<u64> = voters.iter().copied().collect();
    (0..1u32 << all.len())
        .map(|bits| {
            let chosen = all.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
            chosen.map(|(_, id)| *id).collect::<BTreeSet<u64>>()
        })
        .filter(|chosen| chosen.len() * 2 > all.len())
        .collect()
}

/// All sets of nodes that decide by themselves.
fn quorums(configuration: &Configuration) -> Vec<BTreeSet<u64>> {
    let half = |votes: fn(Standing) -> bool| {
        let voters = configuration.members().filter(|(_, m)| votes(m.standing));
        majorities(&voters.map(|(server, _)| server.id.0).collect())
    };
    let new = half(Standing::votes_in_new);
    if !configuration.is_joint() {
        return new;
    }
    let old = half(Standing::votes_in_old);
    new.iter()
        .flat_map(|a| old.iter().map(move |b| a | b))
        .collect()
}

proptest! {
    /// The reason why a change is safe: whoever decides by the old configuration and
    /// whoever decides by the next one share a node.
    #[test]
    fn quorums_of_a_configuration_and_of_the_next_always_share_a_node(
        count in 1u64..5,
        steps in prop::collection::vec(prop::collection::vec(any_change(), 1..4), 1..6),
    ) {
        let mut now = voters(0..count);
        for changes in steps {
            let Ok(next) = changed(&now, &changes) else { continue };
            for next in [next.clone(), next.left_joint()].windows(2) {
                for (a, b) in [(&now, &next[0]), (&next[0], &next[1])] {
                    for x in quorums(a) {
                        for y in quorums(b) {
                            prop_assert!(!x.is_disjoint(&y), "{x:?} {y:?}");
                        }
                    }
                }
            }
            now = next.left_joint();
        }
    }

    #[test]
    fn decoding_gives_back_what_was_encoded_and_refuses_every_cut(
        count in 1u64..5,
        changes in prop::collection::vec(any_change(), 1..4),
    ) {
        let first = voters(0..count);
        let configuration = changed(&first, &changes).unwrap_or(first);
        let bytes = configuration.encode();
        prop_assert_eq!(Configuration::decode(&bytes), Ok(configuration));
        for len in 0..bytes.len() {
            prop_assert_eq!(Configuration::decode(&bytes[..len]), Err(ConfigurationError));
        }
        let longer = [&bytes[..], &[0]].concat();
        prop_assert_eq!(Configuration::decode(&longer), Err(ConfigurationError));
    }
}

#[test]
fn one_vote_more_or_less_needs_no_joint_configuration_and_two_do() {
    let three = voters(0..3);
    assert!(
        !changed(&three, &[Change::Remove(NodeId(2))])
            .unwrap()
            .is_joint()
    );
    let with_learner = changed(&three, &[learner(3)]).unwrap();
    assert!(!with_learner.is_joint());
    let promoted = changed(&with_learner, &[Change::Promote(NodeId(3))]).unwrap();
    assert_eq!(
        promoted.quorum(),
        Quorum::new((0..4).map(server).collect(), vec![])
    );
    let replace = [Change::Promote(NodeId(3)), Change::Remove(NodeId(0))];
    let joint = changed(&with_learner, &replace).unwrap();
    assert!(joint.is_joint());
    assert_eq!(
        joint.quorum(),
        Quorum::new((1..4).map(server).collect(), (0..3).map(server).collect())
    );
    let after = joint.left_joint();
    assert!(!after.is_joint() && !after.contains(server(0)));
}

#[test]
fn changes_that_make_no_sense_say_why() {
    let three = voters(0..3);
    let id = NodeId;
    for (changes, error) in [
        (vec![], ChangeError::Nothing),
        (vec![learner(1)], ChangeError::AlreadyMember(id(1))),
        (
            vec![Change::Promote(id(1))],
            ChangeError::AlreadyVoter(id(1)),
        ),
        (vec![Change::Promote(id(9))], ChangeError::NotMember(id(9))),
        (vec![Change::Remove(id(9))], ChangeError::NotMember(id(9))),
        (
            (0..3).map(|n| Change::Remove(id(n))).collect(),
            ChangeError::NoVoters,
        ),
        (
            vec![Change::AddLearner {
                id: id(9),
                peer: "p1".to_owned(),
                client: "c9".to_owned(),
            }],
            ChangeError::AddressInUse(id(1)),
        ),
    ] {
        assert_eq!(changed(&three, &changes), Err(error), "{changes:?}");
    }
    let joint = [Change::Remove(id(0)), Change::Remove(id(1))];
    let joint = changed(&three, &joint).unwrap();
    assert_eq!(changed(&joint, &[learner(7)]), Err(ChangeError::InProgress));
}

#[test]
fn a_founding_is_over_for_good_once_a_majority_of_the_first_members_votes() {
    let first = Configuration::of_voters(
        (0..3).map(|id| (NodeId(id), 0, format!("p{id}"), format!("c{id}"))),
    );
    let mut now = first.founding(Birth(9), server(0));
    assert!(now.is_founding() && now.pending().count() == 2);
    now = changed(&now, &[learner(1)]).unwrap();
    assert!(now.is_founding() && now.pending().count() == 1);
    now = changed(&now, &[Change::Promote(NodeId(1))]).unwrap();
    assert!(!now.is_founding(), "two of three vote");
    now = changed(&now, &[Change::Remove(NodeId(1))]).unwrap();
    assert!(!now.is_founding(), "what was founded stays founded");
    assert_eq!(Configuration::decode(&now.encode()), Ok(now.clone()));
    now = changed(&now, &[Change::Remove(NodeId(2))]).unwrap();
    assert_eq!(
        now.pending().count(),
        0,
        "a removed first member is not added later"
    );
    let alone = Configuration::of_voters([(NodeId(0), 0, "p".into(), "c".into())]);
    assert!(!alone.founding(Birth(9), server(0)).is_founding());
}

#[test]
fn two_directories_of_one_node_never_vote_together() {
    let three = voters(0..3);
    let mut member = three.get(server(2)).unwrap().clone();
    member.standing = Standing::Entering;
    let new = Server::new(2, 5);
    let both = three.changed(&[Step::Add(new, member)]).unwrap();
    let ids: Vec<Server> = both
        .members_of(NodeId(2))
        .map(|(server, _)| server)
        .collect();
    assert_eq!(ids, [server(2), new]);
    let twice = both.changed(&[Step::Promote(new)]);
    assert_eq!(twice, Err(ChangeError::AlreadyVoter(NodeId(2))));
    let remove = Change::Remove(NodeId(2));
    assert_eq!(
        changed(&both, &[remove]),
        Err(ChangeError::Exchanging(NodeId(2)))
    );
    let joint = both
        .changed(&[Step::Promote(new), Step::Remove(server(2))])
        .unwrap();
    assert!(joint.is_joint());
    assert!(joint.quorum().contains(new) && joint.quorum().contains(server(2)));
    let after = joint.left_joint();
    assert!(after.contains(new) && !after.contains(server(2)) && after.len() == 3);
}
