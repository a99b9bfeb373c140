//! No slowdown with age: over a fixed key space, an update costs the leader as much processor time and as
//! many bytes to the device in the last parts of a long run as in the first.
//!
//! How many updates share a sync, and so what one costs, varies from part to part with what else the
//! machine does: the medians of the first three and of the last three parts are held against each other.

mod support;

use std::fs;

use raftkv::pb::OperationType;
use rustix::process::Pid;
use support::cluster::{SOON, TestCluster};
use support::wire::{Answer, new_uuid, request};
use support::workload::pipelined;
use support::{count, figure};

const KEYS: u64 = 1_000;
const PARTS: usize = 10;
/// From so many updates a part on, the costs are held against each other.
const MEANINGFUL: u64 = 100_000;

/// What a process has used up to now, or in one part.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// Processor time in clock ticks.
    ticks: u64,
    /// Bytes that it made the kernel write to a device.
    written_bytes: u64,
}

fn used(process: Pid) -> Cost {
    let number = process.as_raw_nonzero();
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).expect("the process is there");
    // Fields are counted from behind the name, which may contain anything.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let field = |n: usize| {
        fields
            .split_whitespace()
            .nth(n)
            .and_then(|f| f.parse::<u64>().ok())
    };
    let io = fs::read_to_string(format!("/proc/{number}/io")).expect("our own child");
    let written = io
        .lines()
        .find_map(|l| l.strip_prefix("write_bytes: ")?.parse().ok());
    Cost {
        ticks: field(11).expect("utime") + field(12).expect("stime"),
        written_bytes: written.expect("write_bytes"),
    }
}

#[test]
fn the_last_parts_of_a_long_run_cost_as_much_as_the_first() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let leader = cluster.wait_for_leader(SOON);
    let updates = count("RAFTKV_AGEING_UPDATES", 1_000);
    let mut costs: Vec<Cost> = Vec::new();
    while costs.len() < PARTS {
        let before = used(cluster.pid(leader));
        update_all(&cluster, leader, costs.len(), updates);
        let after = used(cluster.pid(leader));
        costs.push(Cost {
            ticks: after.ticks - before.ticks,
            written_bytes: after.written_bytes - before.written_bytes,
        });
    }
    let (first, last) = (median(&costs[..3]), median(&costs[PARTS - 3..]));
    figure(
        "ageing, processor ticks",
        format!("{} first, {} last", first.ticks, last.ticks),
    );
    figure(
        "ageing, bytes written",
        format!("{} first, {} last", first.written_bytes, last.written_bytes),
    );
    cluster.assert_alive();
    // Fewer say nothing.
    if updates >= MEANINGFUL {
        let grew = |first: u64, last: u64| last * 10 > first * 11;
        assert!(
            !grew(first.ticks, last.ticks) && !grew(first.written_bytes, last.written_bytes),
            "what the parts cost grew: {costs:?}"
        );
    }
}

/// The median of three parts, of each cost by itself.
fn median(parts: &[Cost]) -> Cost {
    let middle = |of: fn(&Cost) -> u64| {
        let mut values: Vec<u64> = parts.iter().map(of).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    Cost {
        ticks: middle(|cost| cost.ticks),
        written_bytes: middle(|cost| cost.written_bytes),
    }
}

fn update_all(cluster: &TestCluster, leader: usize, part: usize, updates: u64) {
    let uuid = new_uuid();
    let requests = (0..updates).map(|n| {
        let key = format!("key {}", n % KEYS);
        let value = format!("{part:050}{n:050}");
        request(OperationType::Update, &uuid, key, value)
    });
    for answer in pipelined(cluster.client(leader), requests.collect()) {
        assert_eq!(answer, Answer::Created);
    }
}
