//! Random runs: whatever the network, the disks and crashes do, the promises of the
//! paper hold (Figure 3), and once faults end everything becomes well again.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::cluster::{Cluster, Start};
use super::show;
use crate::raft::{Change, ReadId};
use crate::types::{Index, NodeId, Payload};

/// How many, unless `RAFTKV_RAFT_RUNS` says otherwise.
const RUNS: u64 = 100;
const STEPS: u64 = 6_000;
/// What has to happen in random runs, or they prove nothing.
const EFFECTS: [&str; 13] = [
    "->leader",
    "leader->follower",
    "truncate=",
    "commits up to",
    "rejected=",
    "installs snapshot",
    "ready at",
    "lost",
    "members",
    "joining",
    "leaving",
    "timeout-now",
    "read-index-reply index",
];

#[test]
fn random_faults_break_no_promise_and_end_in_a_cluster_that_agrees() {
    let mut happened = BTreeMap::new();
    let runs = std::env::var("RAFTKV_RAFT_RUNS").map_or(RUNS, |n| n.parse().expect("a number"));
    for seed in 0..runs {
        let run = std::panic::AssertUnwindSafe(|| random_run(seed, &mut happened));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
    for effect in EFFECTS {
        let count = happened.get(effect).copied().unwrap_or_default();
        assert!(count >= runs / 4, "the runs do something: {happened:?}");
    }
}

fn random_run(seed: u64, happened: &mut BTreeMap<&'static str, u64>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let nodes = rng.random_range(1..=5);
    let mut cluster = Cluster::new(&Start {
        first: 0,
        nodes,
        term: seed % 2,
        level: 1,
        unborn: false,
        seed,
        spare: 2,
        preferred: rng.random_bool(0.5).then_some(NodeId(0)),
        lease: rng.random_bool(0.5),
        timeless: false,
    });
    cluster.autosync = rng.random_bool(0.2);
    let harsh = rng.random_range(0.0..1.0);
    for step in 0..STEPS {
        fault_or_progress(&mut cluster, &mut rng, harsh, step);
        for line in cluster.out.drain(..) {
            for effect in EFFECTS.into_iter().filter(|effect| line.contains(effect)) {
                *happened.entry(effect).or_default() += 1;
            }
        }
        if step % 50 == 0 {
            cluster.check_log_matching();
        }
    }
    heal(&mut cluster);
}

fn fault_or_progress(cluster: &mut Cluster, rng: &mut StdRng, harsh: f64, step: u64) {
    let ids = cluster.ids();
    let id = ids[rng.random_range(0..ids.len())];
    let other = ids[rng.random_range(0..ids.len())];
    let leaders: Vec<NodeId> = ids
        .iter()
        .copied()
        .filter(|id| leads(cluster, *id))
        .collect();
    let leader = match leaders.len() {
        0 => id,
        some => leaders[rng.random_range(0..some)],
    };
    match rng.random_range(0..100) {
        0..50 => (0..rng.random_range(1..10)).for_each(|_| network(cluster, rng, harsh)),
        50..64 => {
            cluster.now += Duration::from_millis(rng.random_range(0..25));
            let due = |c: &Cluster, id| c.raft(id).is_some_and(|r| r.next_deadline() <= c.now);
            let due: Vec<NodeId> = ids.into_iter().filter(|id| due(cluster, *id)).collect();
            due.into_iter().for_each(|id| cluster.tick(id));
        }
        64..76 => ids.into_iter().for_each(|id| {
            let pending = cluster.pending(id);
            cluster.sync(id, rng.random_range(0..=pending));
        }),
        76..84 => {
            let payload = Payload::Command(Bytes::from(format!("s{step}")));
            cluster.act(leader, |raft, _| raft.propose(payload));
        }
        84 => change(cluster, rng, leader),
        85 if rng.random_bool(0.3) => match rng.random_range(0..3) {
            0 => drop(cluster.act(leader, |raft, now| raft.transfer_leadership(now, other))),
            1 => drop(cluster.act(id, |raft, _| raft.forget_leader())),
            _ => {
                let disk = Duration::from_millis(rng.random_range(0..3) * 1_500);
                cluster.act(id, |raft, now| raft.note_disk(now, Duration::ZERO, disk));
            }
        },
        86 => cluster.read(leader, ReadId(step), false),
        87 => cluster.read(id, ReadId(step), true),
        88..91 => ids.iter().for_each(|to| cluster.send_snapshot(leader, *to)),
        91..93 => {
            let upto = cluster.raft(leader).map_or(0, |raft| raft.commit_index().0);
            let back = rng.random_range(0..3);
            if upto > back {
                cluster.compact(leader, Index(upto - back));
            }
        }
        93 => drop(cluster.act(leader, |raft, _| raft.peer_unreachable(other))),
        94 => {
            let other = cluster.server(other);
            cluster.act(leader, |raft, _| raft.give_up_snapshot(other));
        }
        95 if rng.random_bool(0.15 * harsh) => cluster.crash(id),
        96 if rng.random_bool(0.15 * harsh) => cluster.crash(leader),
        97 if cluster.raft(id).is_none() && rng.random_bool(0.5) => cluster.restart(id, false),
        98 if rng.random_bool(0.4 * harsh) => match rng.random_range(0..3) {
            0 => drop(cluster.cut.insert((id, other))),
            1 => ids.iter().for_each(|to| {
                cluster.cut.insert((leader, *to));
                cluster.cut.insert((*to, leader));
            }),
            _ => {}
        },
        99 if rng.random_bool(0.2) => {
            cluster.cut.clear();
            for id in ids {
                if cluster.raft(id).is_none() && rng.random_bool(0.5) {
                    cluster.restart(id, false);
                }
            }
        }
        _ => {}
    }
}

/// Asks a leader for some change of the members, sensible or not.
fn change(cluster: &mut Cluster, rng: &mut StdRng, leader: NodeId) {
    let ids = cluster.ids();
    let changes: Vec<Change> = (0..rng.random_range(1..=3))
        .map(|_| {
            let id = ids[rng.random_range(0..ids.len())];
            match rng.random_range(0..6) {
                0 => Change::Remove(id),
                1 => Change::Demote(id),
                2 | 3 => Change::Promote(id),
                _ => Change::AddLearner {
                    id,
                    peer: format!("p{}", id.0),
                    client: format!("c{}", id.0),
                },
            }
        })
        .collect();
    for change in &changes {
        cluster.introduce(leader, change.id(), false);
    }
    cluster.act(leader, |raft, now| raft.propose_change(now, &changes));
}

fn network(cluster: &mut Cluster, rng: &mut StdRng, harsh: f64) {
    if cluster.pool.is_empty() {
        return;
    }
    let window = if rng.random_bool(harsh) {
        cluster.pool.len()
    } else {
        1
    };
    let at = rng.random_range(0..window);
    if rng.random_bool(0.1 * harsh) {
        cluster.pool.remove(at);
    } else {
        if rng.random_bool(0.1 * harsh) {
            let copy = cluster.pool[at].clone();
            cluster.pool.push(copy);
        }
        cluster.deliver_at(at);
    }
    if cluster.pool.len() > 400 {
        cluster.pool.drain(..200);
    }
}

/// No more faults: a leader emerges, new entries are committed everywhere, and the
/// answers of snapshots come in.
fn heal(cluster: &mut Cluster) {
    cluster.cut.clear();
    cluster.autosync = true;
    for id in cluster.ids() {
        if cluster.raft(id).is_none() {
            cluster.restart(id, false);
        }
        cluster.sync(id, usize::MAX);
        cluster.act(id, |raft, now| {
            raft.note_disk(now, Duration::ZERO, Duration::ZERO)
        });
    }
    for _ in 0..40 {
        cluster.run(Duration::from_millis(250), 0);
        for from in cluster.ids() {
            for to in cluster.ids() {
                cluster.send_snapshot(from, to);
            }
        }
    }
    let leaders: Vec<NodeId> = cluster
        .ids()
        .into_iter()
        .filter(|id| leads(cluster, *id))
        .collect();
    let state = |id: &NodeId| {
        let raft = cluster.raft(*id).expect("it is up");
        let members = show::configuration(raft.configuration());
        format!("{id} {} t{} {members}", raft.role().as_str(), raft.term())
    };
    let states: Vec<String> = cluster.ids().iter().map(state).collect();
    assert_eq!(leaders.len(), 1, "one leader after healing: {states:#?}");
    let payload = Payload::Command(Bytes::from_static(b"last"));
    let id = cluster
        .act(leaders[0], |raft, _| raft.propose(payload))
        .expect("it is up")
        .expect("it leads");
    cluster.read(leaders[0], ReadId(u64::MAX), false);
    cluster.run(Duration::from_millis(500), 0);
    let leader = cluster.raft(leaders[0]).expect("it is up");
    assert!(
        !leader.change_is_pending(),
        "no change of the members is left undone"
    );
    let members: Vec<NodeId> = leader
        .configuration()
        .members()
        .map(|(server, _)| server.id)
        .collect();
    for node in members {
        let raft = cluster.raft(node).expect("it is up");
        assert_eq!(raft.commit_index(), id.index, "{node} has caught up");
    }
    let read = format!("read r{} ready", u64::MAX);
    assert!(
        cluster.out.iter().any(|line| line.contains(&read)),
        "reads work"
    );
    cluster.check_log_matching();
}

fn leads(cluster: &Cluster, id: NodeId) -> bool {
    cluster.raft(id).is_some_and(crate::raft::Raft::is_leader)
}
