//! No slowdown with age: over a fixed key space, an update costs the leader as much processor time and as
//! many bytes to the device in the tenth part of a long run as in the first.

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
/// From so many updates a part on, the costs are held against each other: fewer say nothing.
const MEANINGFUL: u64 = 100_000;

/// What a process has used up to now.
#[derive(Clone, Copy, Debug)]
struct Used {
    /// Processor time in clock ticks.
    ticks: u64,
    /// Bytes that it made the kernel write to a device.
    written_bytes: u64,
}

fn used(process: Pid) -> Used {
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
    Used {
        ticks: field(11).expect("utime") + field(12).expect("stime"),
        written_bytes: written.expect("write_bytes"),
    }
}

#[test]
fn the_tenth_part_of_a_long_run_costs_as_much_as_the_first() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let leader = cluster.wait_for_leader(SOON);
    let updates = count("RAFTKV_AGEING_UPDATES", 1_000);
    let mut costs = Vec::new();
    for part in 0..PARTS {
        let before = used(cluster.pid(leader));
        let uuid = new_uuid();
        let requests = (0..updates).map(|n| {
            let key = format!("key {}", n % KEYS);
            request(
                OperationType::Update,
                &uuid,
                key,
                format!("{part:050}{n:050}"),
            )
        });
        for answer in pipelined(cluster.client(leader), requests.collect()) {
            assert_eq!(answer, Answer::Created);
        }
        let after = used(cluster.pid(leader));
        costs.push((
            after.ticks - before.ticks,
            after.written_bytes - before.written_bytes,
        ));
    }
    let (first, last) = (costs[0], costs[PARTS - 1]);
    figure(
        "ageing, processor ticks",
        format!("{} first, {} last", first.0, last.0),
    );
    figure(
        "ageing, bytes written",
        format!("{} first, {} last", first.1, last.1),
    );
    cluster.assert_alive();
    if updates < MEANINGFUL {
        return;
    }
    for (what, first, last) in [
        ("processor time", first.0, last.0),
        ("bytes written", first.1, last.1),
    ] {
        assert!(
            last * 10 <= first * 11,
            "{what} grew from {first} to {last}"
        );
    }
}
