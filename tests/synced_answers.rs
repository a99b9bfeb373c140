//! A synced answer is a synced answer: traced system calls show that a put is answered only after a quorum
//! of the nodes has synced since it was sent.
//!
//! `kill -9` cannot show this, for the page cache survives it. Puts are sent one at a time; between the
//! sending of each and its answer, on a quorum of the nodes a sync must have begun *and* returned without an
//! error. The tracer stamps what it sees with the clock of this process, and holds the traced thread
//! while it does, so that what it saw return had returned before the node could answer.

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use raftkv::pb::OperationType;
use support::cluster::{SOON, TestCluster};
use support::wire::{Answer, Connection, new_uuid, request};
use support::{count, figure};

const TIMEOUT: Duration = Duration::from_secs(10);
/// The calls after which data is on the disk.
const SYNCS: [&str; 3] = ["msync", "fsync", "fdatasync"];

/// A system call that returned 0, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sync {
    begin_us: u64,
    end_us: u64,
}

fn strace_works() -> bool {
    let tried = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    tried.is_ok_and(|status| status.success())
}

fn now_us() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    u64::try_from(now.as_micros()).expect("before the year 500,000")
}

/// `1700000000.123456` as microseconds.
fn micros(seconds: &str) -> Option<u64> {
    let (whole, fraction) = seconds.split_once('.')?;
    let fraction: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    Some(whole.parse::<u64>().ok()? * 1_000_000 + fraction)
}

/// Reads what `strace -f -ttt -T` wrote: a line for each call, two if others came in between.
fn parse(trace: &str) -> Vec<Sync> {
    let mut begun: HashMap<&str, u64> = HashMap::new();
    let mut syncs = Vec::new();
    for line in trace.lines() {
        let mut words = line.split_whitespace();
        let (Some(thread), Some(stamp)) = (words.next(), words.next()) else {
            continue;
        };
        let Some(at_us) = micros(stamp) else {
            continue;
        };
        let rest = line
            .split_once(stamp)
            .map_or("", |(_, rest)| rest.trim_start());
        let is = |start: &str, end: &str| {
            SYNCS
                .iter()
                .any(|name| rest.starts_with(&format!("{start}{name}{end}")))
        };
        // The last thing on a line that tells of a return is how long the call took.
        let took_us = rest
            .rsplit_once('<')
            .and_then(|(_, took)| micros(took.trim_end_matches('>')));
        let succeeded = rest
            .rsplit_once(") ")
            .is_some_and(|(_, result)| result.trim_start().starts_with("= 0 "));
        if is("", "(") && rest.ends_with("<unfinished ...>") {
            begun.insert(thread, at_us);
        } else if is("", "(") && succeeded {
            let Some(took_us) = took_us else { continue };
            syncs.push(Sync {
                begin_us: at_us,
                end_us: at_us + took_us,
            });
        } else if is("<... ", " resumed>")
            && let Some(begin_us) = begun.remove(thread)
            && succeeded
        {
            syncs.push(Sync {
                begin_us,
                end_us: at_us,
            });
        }
    }
    syncs
}

/// Whether a sync began and returned between these two moments.
fn synced_within(syncs: &[Sync], from_us: u64, to_us: u64) -> bool {
    syncs
        .iter()
        .any(|s| s.begin_us >= from_us && s.end_us <= to_us)
}

fn traces(directory: &Path, nodes: usize) -> Vec<Vec<Sync>> {
    (0..nodes)
        .map(|node| {
            let path = directory.join(format!("trace_{node}"));
            parse(&fs::read_to_string(path).expect("the trace"))
        })
        .collect()
}

/// Puts one key after the other on a traced cluster, and holds each answer against the traces.
fn each_put_is_synced_on_a_quorum(nodes: usize) {
    if !strace_works() {
        println!("skipped: strace is missing, or ptrace is not permitted");
        return;
    }
    let mut cluster = TestCluster::prepare(nodes, &[]);
    let trace_only = format!("trace={}", SYNCS.join(","));
    cluster.wrap(&[
        "strace",
        "-f",
        "-qq",
        "-ttt",
        "-T",
        "-e",
        &trace_only,
        "-o",
        "trace_{node}",
    ]);
    for node in cluster.ids() {
        cluster.start(node);
    }
    let leader = cluster.wait_for_leader(SOON);
    let mut connection = Connection::open(cluster.client(leader), TIMEOUT).expect("it is there");
    let uuid = new_uuid();
    let mut puts = Vec::new();
    for number in 0..count("RAFTKV_TRACED_PUTS", 60) {
        let put = request(OperationType::Put, &uuid, format!("key {number}"), "value");
        let sent_us = now_us();
        let answer = connection.execute(&put).expect("an answer");
        puts.push((sent_us, now_us()));
        assert_eq!(answer, Answer::Created);
    }
    for node in cluster.ids() {
        cluster.kill_behind_wrapper(node);
    }
    let traces = traces(cluster.directory(), nodes);
    let seen: usize = traces.iter().map(Vec::len).sum();
    figure(
        &format!("synced answers, {nodes} nodes, syncs a put"),
        seen / puts.len(),
    );
    for (number, (sent_us, answered_us)) in puts.into_iter().enumerate() {
        let synced = traces
            .iter()
            .filter(|syncs| synced_within(syncs, sent_us, answered_us))
            .count();
        assert!(
            synced > nodes / 2,
            "put {number} was answered after {} µs with a sync on {synced} of {nodes} nodes",
            answered_us - sent_us
        );
    }
}

#[test]
fn each_put_to_three_nodes_is_synced_on_two_before_its_answer() {
    each_put_is_synced_on_a_quorum(3);
}

#[test]
fn each_put_to_a_single_node_is_synced_before_its_answer() {
    each_put_is_synced_on_a_quorum(1);
}

#[test]
fn a_trace_is_read_with_calls_that_others_interrupt_and_calls_that_fail() {
    let trace = "\
        10 1700000000.000100 msync(0x7f0000000000, 4096, MS_SYNC) = 0 <0.000050>\n\
        10 1700000000.000300 fdatasync(7 <unfinished ...>\n\
        11 1700000000.000310 fsync(8) = -1 EIO (Input/output error) <0.000005>\n\
        10 1700000000.000400 <... fdatasync resumed>) = 0 <0.000100>\n\
        12 1700000000.000500 msync(0x7f0000000000, 8192, MS_SYNC <unfinished ...>\n\
        12 1700000000.000600 <... msync resumed>) = -1 EIO (Input/output error) <0.000100>\n\
        12 1700000000.000700 +++ killed by SIGKILL +++\n";
    let base = 1_700_000_000_000_000;
    let sync = |from, to| Sync {
        begin_us: base + from,
        end_us: base + to,
    };
    let syncs = parse(trace);
    assert_eq!(syncs, [sync(100, 150), sync(300, 400)]);
    assert!(synced_within(&syncs, base + 90, base + 160));
    // It began before the put was sent, or returned after the answer: it proves nothing.
    assert!(!synced_within(&syncs, base + 110, base + 160));
    assert!(!synced_within(&syncs, base + 290, base + 390));
}
