//! How soon there is a leader after one was killed, and that there is no other one without need.

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::cluster::{SOON, TestCluster};
use support::wire::{Answer, new_uuid};
use support::workload::{Client, Ended};
use support::{count, eventually, figure, median};

/// How long a client tries.
const LIMIT: Duration = Duration::from_secs(10);
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
        let all = cluster.ids().map(|node| cluster.status(node));
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
    let (mut before, mut windows, mut late_windows, mut moved) = (first.clone(), 0, 0, 0);
    while begin.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(WINDOW);
        let now = look(&cluster);
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
    assert!(
        before.commit > first.commit + 100 * seconds,
        "there was load"
    );
    figure("windows of half a second under load", windows);
    figure("of which with timers more than 75 ms late", late_windows);
    figure("changes of leadership in these", moved);
    figure("changes of leadership in others", 0);
    figure("writes", before.commit - first.commit);
    cluster.assert_no_panic();
}
