//! No slowdown with age: over a fixed key space, an update costs the leader as much processor time and as
//! many bytes to the device in the tenth part of a long run as in the first.
//!
//! What else the machine does makes a part dearer, never cheaper: if the tenth is dearer, it goes on, and
//! a later part, of a still older cluster, has to be as cheap as the first.

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
const PARTS_MAX: usize = 30;
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
fn the_tenth_part_of_a_long_run_costs_as_much_as_the_first() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let leader = cluster.wait_for_leader(SOON);
    let updates = count("RAFTKV_AGEING_UPDATES", 1_000);
    let mut costs: Vec<Cost> = Vec::new();
    while costs.len() < PARTS
        || updates >= MEANINGFUL && !as_cheap(&costs) && costs.len() < PARTS_MAX
    {
        let before = used(cluster.pid(leader));
        update_all(&cluster, leader, costs.len(), updates);
        let after = used(cluster.pid(leader));
        costs.push(Cost {
            ticks: after.ticks - before.ticks,
            written_bytes: after.written_bytes - before.written_bytes,
        });
    }
    let (first, last) = (costs[0], costs[costs.len() - 1]);
    figure("ageing, parts", costs.len());
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
        assert!(as_cheap(&costs), "what the parts cost grew: {costs:?}");
    }
}

/// Whether the last part was as cheap as the first, give or take a tenth.
fn as_cheap(costs: &[Cost]) -> bool {
    let (first, last) = (costs[0], costs[costs.len() - 1]);
    last.ticks * 10 <= first.ticks * 11 && last.written_bytes * 10 <= first.written_bytes * 11
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
