//! How soon there is a leader after one was killed, and that there is no other one without need.

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use raftkv::limits;
use support::cluster::{SOON, TestCluster};
use support::wire::{Answer, new_uuid};
use support::workload::{Client, Ended};
use support::{count, eventually, figure, median};

/// How long a client tries.
const LIMIT: Duration = Duration::from_secs(10);
/// How long large values and snapshots may take.
const LATER: Duration = Duration::from_secs(60);
/// How often the cluster is looked at while it is under load.
const WINDOW: Duration = Duration::from_millis(500);

/// The time from a kill to the answer of the first write after it, by a client that tries every
/// 5 ms, one node after the other.
fn time_to_next_write(cluster: &TestCluster, killed: Instant) -> Duration {
    let ended = Client::new(cluster.clients()).put(new_uuid(), "probe", LIMIT);
    assert_eq!(ended, Ended::Answered(Answer::Created));
    killed.elapsed()
}

#[test]
fn a_killed_leader_is_followed_by_another_in_well_under_a_second() {
    let mut cluster = TestCluster::with_leader(7, &[]);
    let mut took = Vec::new();
    for _ in 0..count("RAFTKV_KILLS", 5) {
        let leader = cluster.wait_for_leader(SOON);
        let killed = Instant::now();
        cluster.kill(leader);
        took.push(time_to_next_write(&cluster, killed));
        cluster.start_and_wait(leader);
        let new_leader = cluster.wait_for_leader(SOON);
        cluster.wait_until_equal(new_leader, SOON);
    }
    took.sort_unstable();
    let p95 = took[(took.len() * 95).div_ceil(100) - 1];
    figure("kills of the leader", took.len());
    figure("failover, median ms", median(&took).as_millis());
    figure("failover, p95 ms", p95.as_millis());
    figure("failover, longest ms", took[took.len() - 1].as_millis());
    assert!(median(&took) < Duration::from_millis(400), "{took:?}");
    assert!(p95 < Duration::from_secs(1), "{took:?}");
    cluster.assert_no_panic();
}

/// A load that ends with the test.
struct Load(Child);

impl Load {
    fn start(cluster: &TestCluster, seconds: u64) -> Load {
        let mut command = Command::new(env!("CARGO_BIN_EXE_raft_bench"));
        for addr in cluster.clients() {
            command.arg("--addr").arg(addr.to_string());
        }
        let options = ["--op", "update", "--connections", "64", "--seconds"];
        command.args(options).arg(seconds.to_string());
        let output = command.stdout(Stdio::null()).stderr(Stdio::null());
        Load(output.spawn().expect("raft_bench runs"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is seen of the cluster at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    leader: u64,
    term: u64,
    /// How often the timers of each node were more than 75 ms late.
    late: Vec<u64>,
    commit: u64,
}

fn look(cluster: &TestCluster) -> Look {
    eventually("all nodes answer, and one leads", SOON, || {
        let running = cluster.ids().filter(|node| cluster.is_running(*node));
        let all = running.map(|node| cluster.status(node));
        let all: Vec<_> = all.collect::<Option<_>>()?;
        let leader = all.iter().find(|status| status.role == "leader")?;
        Some(Look {
            leader: leader.id,
            term: all.iter().map(|status| status.term).max()?,
            late: all.iter().map(|status| status.late_ticks).collect(),
            commit: leader.commit_index,
        })
    })
}

#[test]
fn full_write_load_moves_no_leadership() {
    let seconds = count("RAFTKV_LOAD_SECONDS", 5);
    let cluster = TestCluster::with_leader(7, &[]);
    let first = look(&cluster);
    let _load = Load::start(&cluster, seconds + 60);
    let begin = Instant::now();
    let last = watch_leadership(&cluster, first.clone(), || {
        begin.elapsed() >= Duration::from_secs(seconds)
    });
    assert!(last.commit > first.commit + 100 * seconds, "there was load");
    figure("writes", last.commit - first.commit);
    cluster.assert_no_panic();
}

/// Looks at the cluster until `done`: leadership must not move but where timers were late.
fn watch_leadership(cluster: &TestCluster, first: Look, mut done: impl FnMut() -> bool) -> Look {
    let (mut before, mut windows, mut late_windows, mut moved) = (first, 0, 0, 0);
    while !done() {
        std::thread::sleep(WINDOW);
        let now = look(cluster);
        let was_late = now.late != before.late;
        windows += 1;
        late_windows += u64::from(was_late);
        if now.term != before.term {
            moved += 1;
            // The machine was taken away: the process has measured it itself.
            assert!(
                was_late,
                "leadership moved without a reason: {before:?} {now:?}"
            );
        }
        before = now;
    }
    figure("windows of half a second under load", windows);
    figure("of which with timers more than 75 ms late", late_windows);
    figure("changes of leadership in these", moved);
    figure("changes of leadership in others", 0);
    before
}

/// A key of the largest length.
fn large_key(n: usize) -> Vec<u8> {
    let mut key = format!("key {n}").into_bytes();
    key.resize(limits::KEY_BYTES_MAX, b'k');
    key
}

/// A value of the largest length.
fn large_value(n: usize) -> Vec<u8> {
    let mut value = format!("value {n}").into_bytes();
    value.resize(limits::VALUE_BYTES_MAX, b'v');
    value
}

/// Keys of 64 KiB and values of 8 MiB beside small ones; a follower that was away gets a snapshot
/// of them meanwhile.
#[test]
fn large_values_and_a_large_snapshot_move_no_leadership() {
    const LARGE_KEYS: usize = 6;
    let writes = LARGE_KEYS * usize::try_from(count("RAFTKV_LARGE_ROUNDS", 3)).expect("few");
    let mut cluster = TestCluster::with_leader(3, &[]);
    let first = look(&cluster);
    let away = (first.leader as usize + 1) % 3;
    cluster.kill(away);
    let _load = Load::start(&cluster, 300);
    let mut client = Client::new(cluster.clients());
    let mut write = |n: usize| {
        let ended = client.update(large_key(n % LARGE_KEYS), large_value(n), LATER);
        assert_eq!(ended, Ended::Answered(Answer::Created), "write {n}");
    };
    let behind = first.commit;
    (0..2 * LARGE_KEYS).for_each(&mut write);
    let leader = first.leader as usize;
    eventually("the log that it needs is gone", LATER, || {
        (cluster.status(leader)?.snapshot_index > behind).then_some(())
    });
    cluster.start(away);
    eventually("all answer", LATER, || cluster.status(away));
    let mut n = 2 * LARGE_KEYS;
    let begun = look(&cluster);
    assert_eq!(begun.term, first.term, "by large values alone");
    let last = watch_leadership(&cluster, begun, || {
        write(n);
        n += 1;
        let installed = cluster
            .status(away)
            .is_some_and(|s| s.snapshots_installed > 0);
        n >= 2 * LARGE_KEYS + writes && installed
    });
    figure("values of 8 MiB written", n);
    assert!(last.commit > first.commit + n as u64);
    for key in 0..LARGE_KEYS {
        let newest = (0..n).rev().find(|n| n % LARGE_KEYS == key).expect("one");
        let found = client.get(large_key(key), LATER);
        let whole = Ended::Answered(Answer::Value(large_value(newest).into()));
        assert!(found == whole, "key {key} is not what was written");
    }
    cluster.assert_no_panic();
}
