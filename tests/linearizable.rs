//! What concurrent clients see while nodes are killed, restarted and paused is linearizable.

mod support;

use std::time::{Duration, Instant};

use raftkv::sim::linearizability::{STEPS_MAX, check};
use support::cluster::{SOON, TestCluster};
use support::workload::{Mix, Workload};
use support::{Random, count, eventually, figure};

const NODES: usize = 5;

/// Does one bad thing to a minority for a while, and undoes it.
fn disturb(cluster: &mut TestCluster, random: &mut Random) {
    let leader = cluster.leader().unwrap_or(0);
    let any = random.below(NODES as u64) as usize;
    let other = (leader + 1 + random.below(NODES as u64 - 1) as usize) % NODES;
    // Longer than an election timeout, mostly.
    let duration = Duration::from_millis(100 + random.below(600));
    match random.below(6) {
        0 | 1 => {
            cluster.kill(leader);
            std::thread::sleep(duration);
            cluster.start(leader);
        }
        2 | 3 => {
            cluster.pause(leader);
            std::thread::sleep(duration);
            cluster.resume(leader);
        }
        4 => {
            cluster.kill_all([leader, other]);
            std::thread::sleep(duration);
            cluster.start(other);
            cluster.start(leader);
        }
        _ => {
            cluster.pause(other);
            cluster.restart(leader);
            std::thread::sleep(duration);
            cluster.resume(other);
            if any != other && any != leader {
                cluster.restart(any);
            }
        }
    }
}

#[test]
fn histories_over_kills_restarts_and_pauses_are_linearizable() {
    let mut random = Random::from_environment();
    let arguments = [
        "--snapshot-log-bytes",
        "262144",
        "--snapshot-tail-bytes",
        "65536",
    ];
    let mut cluster = TestCluster::with_leader(NODES, &arguments);
    let mix = Mix {
        clients: 24,
        keys: 12,
        limit: Duration::from_secs(3),
        think: Duration::from_millis(4),
    };
    let workload = Workload::start(cluster.clients(), mix, random.below(1 << 30));
    let begin = Instant::now();
    let length = Duration::from_secs(count("RAFTKV_SECONDS", 8));
    let mut disturbances = 0;
    while begin.elapsed() < length {
        // Between two disturbances the cluster does some work, so that there is something to lose.
        let goal = workload.answered() + 200;
        eventually("operations are answered", 2 * SOON, || {
            (workload.answered() >= goal).then_some(())
        });
        cluster.assert_alive();
        disturb(&mut cluster, &mut random);
        disturbances += 1;
    }
    cluster.wait_for_leader(SOON);
    let goal = workload.answered() + 500;
    eventually("operations are answered in the end", SOON, || {
        (workload.answered() >= goal).then_some(())
    });
    let history = workload.stop();
    let unknown = history.iter().filter(|o| o.returned.is_none()).count();
    figure("linearizable, operations", history.len());
    figure("linearizable, without an answer", unknown);
    figure("linearizable, disturbances", disturbances);
    check(&history, STEPS_MAX).assert_linearizable();
    cluster.assert_alive();
    cluster.assert_no_panic();
    assert!(disturbances > 0 && history.len() > 500);
}

#[test]
fn histories_over_a_quiet_cluster_are_linearizable() {
    let cluster = TestCluster::with_leader(3, &[]);
    let mix = Mix {
        clients: 32,
        keys: 3,
        limit: Duration::from_secs(5),
        think: Duration::ZERO,
    };
    let workload = Workload::start(cluster.clients(), mix, 11);
    eventually("operations are answered", 2 * SOON, || {
        (workload.answered() >= 5_000).then_some(())
    });
    let history = workload.stop();
    assert!(
        history.iter().all(|o| o.returned.is_some()),
        "no reason for a time-out"
    );
    check(&history, STEPS_MAX).assert_linearizable();
}
