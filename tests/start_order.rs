//! A fresh cluster, started in the order of the README (0, 1, then 2 to 6): node 0 leads first, every
//! time, and the first put is accepted soon.

mod support;

use std::time::{Duration, Instant};

use support::cluster::{SOON, TestCluster};
use support::wire::Answer;
use support::workload::{Client, Ended};
use support::{count, figure};

#[test]
fn node_0_leads_first_and_the_first_put_is_accepted_soon() {
    let mut slowest = Duration::ZERO;
    for start in 0..count("RAFTKV_STARTS", 3) {
        let mut cluster = TestCluster::start_all(7, &[]);
        let begin = Instant::now();
        let put = Client::new(cluster.clients()).put("first", "value", SOON);
        assert_eq!(put, Ended::Answered(Answer::Created), "start {start}");
        let took = begin.elapsed();
        slowest = slowest.max(took);
        assert!(
            took < Duration::from_secs(2),
            "start {start}: first put after {took:?}"
        );
        assert_eq!(cluster.wait_for_leader(SOON), 0, "start {start}");
        for other in 1..7 {
            let won = cluster.log_contains(other, "win the election");
            assert!(!won, "start {start}: node {other} led before node 0");
        }
    }
    figure("start, slowest first put, ms", slowest.as_millis());
}
