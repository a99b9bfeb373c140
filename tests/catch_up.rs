//! A node that was away for long comes back by a snapshot, while writes go on; interrupted in the middle
//! of the transfer, it resumes.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use raftkv::pb::{ErrorCode, KvOperationRequest, OperationType, StatusResponse};
use support::cluster::{SOON, TestCluster};
use support::wire::{Answer, new_uuid, request};
use support::workload::{Ledger, assert_all_there, pipelined};
use support::{count, eventually, figure};

/// The log is cut early, so that a short absence is a long one.
const SMALL_LOG: [&str; 4] = [
    "--snapshot-log-bytes",
    "65536",
    "--snapshot-tail-bytes",
    "16384",
];
/// With snapshots of any size and a loaded machine.
const LATER: Duration = Duration::from_secs(120);

fn status(cluster: &TestCluster, node: usize) -> StatusResponse {
    eventually(&format!("status of node {node}"), SOON, || {
        cluster.status(node)
    })
}

/// Writes so many values of `value_bytes` over so many keys.
fn write(cluster: &TestCluster, writes: u64, keys: u64, value_bytes: usize) {
    let value = "x".repeat(value_bytes);
    let mut left = writes;
    while left > 0 {
        // Each batch starts its sequence ids anew, and so needs a name of its own.
        let uuid = new_uuid();
        let batch = left.min((32 << 20) / (value_bytes as u64 + 64)).min(10_000);
        let requests: Vec<KvOperationRequest> = (0..batch)
            .map(|n| {
                let key = format!("fixed {}", (left - n) % keys);
                let value = format!("{}{value}", left - n);
                request(OperationType::Update, &uuid, key, value)
            })
            .collect();
        // A leader may change on a busy machine: the batch is repeated under the same names, so that
        // what was applied is answered as the first time, until every write is acknowledged.
        eventually("every write of a batch is acknowledged", LATER, || {
            let answers = pipelined(cluster.client(cluster.leader()?), requests.clone());
            for answer in &answers {
                assert!(may_be_repeated(answer), "{answer:?}");
            }
            let done = answers.iter().all(|answer| *answer == Answer::Created);
            done.then_some(())
        });
        left -= batch;
    }
}

/// Whether this is an acknowledgement, or says that a repetition is safe.
fn may_be_repeated(answer: &Answer) -> bool {
    matches!(
        answer,
        Answer::Created
            | Answer::Redirect(_)
            | Answer::Failed(ErrorCode::NoLeader | ErrorCode::OutcomeUnknown, _)
    )
}

/// Waits until the leader's log no longer reaches back to what the node has.
fn wait_until_compacted_past(cluster: &TestCluster, leader: usize, last_index: u64) {
    eventually("the leader has cut its log", LATER, || {
        (cluster.status(leader)?.first_index > last_index + 1).then_some(())
    });
}

/// Waits until the node holds what the leader holds.
fn wait_until_same_content(cluster: &TestCluster, leader: usize, node: usize) {
    cluster.wait_until_equal(leader, LATER);
    eventually("the same content", SOON, || {
        let (a, b) = (cluster.status(leader)?, cluster.status(node)?);
        let content = |s: &StatusResponse| (s.applied_index, s.keys, s.sessions);
        (content(&a) == content(&b)).then_some(())
    });
}

#[test]
fn a_node_that_was_away_for_long_comes_back_by_a_snapshot_while_writes_go_on() {
    let mut cluster = TestCluster::with_leader(3, &SMALL_LOG);
    let leader = cluster.wait_for_leader(SOON);
    let away = (leader + 1) % 3;
    write(&cluster, 100, 100, 100);
    let before = status(&cluster, away);
    cluster.kill(away);

    let writes = count("RAFTKV_AWAY_WRITES", 5_000);
    write(&cluster, writes, 1_000, 100);
    wait_until_compacted_past(&cluster, leader, before.last_index);

    let ledger = Ledger::start(cluster.clients(), 2, "meanwhile", SOON);
    ledger.wait_for_more(20, SOON);
    let begin = Instant::now();
    cluster.start(away);
    let installed = eventually("the node has installed a snapshot", LATER, || {
        let status = cluster.status(away)?;
        (status.snapshots_installed > 0 && status.snapshot_index > before.last_index)
            .then_some(status)
    });
    eventually("the node has caught up while writes go on", LATER, || {
        let behind = cluster
            .status(leader)?
            .commit_index
            .saturating_sub(cluster.status(away)?.applied_index);
        (behind < 1_000).then_some(())
    });
    figure("catch up, ms", begin.elapsed().as_millis());
    figure("catch up, snapshot index", installed.snapshot_index);
    // Writes did go on.
    ledger.wait_for_more(20, SOON);
    let acknowledged = ledger.stop();
    wait_until_same_content(&cluster, leader, away);

    // It is a full member: without the leader, it is half of the quorum.
    cluster.kill(leader);
    let now = cluster.wait_for_leader(SOON);
    assert_all_there(cluster.client(now), &acknowledged);
    assert_ne!(now, leader);
    cluster.assert_alive();
    cluster.assert_no_panic();
}

/// The files of a node that may be snapshots on their way, with their lengths.
fn snapshot_files(directory: &Path) -> BTreeMap<PathBuf, u64> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|e| e.path().extension().is_none_or(|x| x != "wal"))
        .filter_map(|e| Some((e.path(), e.metadata().ok()?)))
        .filter(|(_, metadata)| metadata.is_file())
        .map(|(path, metadata)| (path, metadata.len()))
        .collect()
}

/// Watches a node receive a snapshot until `kill_at` bytes of it are there, and gives the file; `None`
/// if the node has the whole snapshot.
///
/// What was there of the same file when the transfer was interrupted has to be built upon: the file may
/// lose what was not synced, but not begin anew.
fn receive_up_to(
    cluster: &TestCluster,
    node: usize,
    before: &BTreeMap<PathBuf, u64>,
    after_index: u64,
    kill_at: u64,
    interrupted: Option<&(PathBuf, u64)>,
) -> Option<(PathBuf, u64)> {
    let begin = Instant::now();
    loop {
        let arriving = snapshot_files(&cluster.node_dir(node))
            .into_iter()
            .find(|(path, bytes)| !before.contains_key(path) && *bytes > 0);
        if let Some((path, bytes)) = arriving {
            if let Some((_, earlier)) = interrupted.filter(|(p, _)| *p == path) {
                let shown = path.display();
                assert!(
                    bytes * 2 >= *earlier,
                    "{shown} began anew: {bytes} after {earlier}"
                );
            }
            if bytes >= kill_at {
                return Some((path, bytes));
            }
        }
        // Complete, by this process or by the one that was killed.
        let has_it = |s: StatusResponse| s.snapshot_index > after_index;
        if cluster.status(node).is_some_and(has_it) {
            return None;
        }
        assert!(begin.elapsed() < LATER, "the snapshot does not arrive");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_transfer_that_is_interrupted_in_the_middle_resumes() {
    let mut cluster = TestCluster::with_leader(3, &SMALL_LOG);
    let leader = cluster.wait_for_leader(SOON);
    let away = (leader + 1) % 3;
    write(&cluster, 50, 50, 100);
    let before = status(&cluster, away);
    cluster.kill(away);
    let mib = count("RAFTKV_TRANSFER_MIB", 32);
    write(&cluster, 4 * mib, 4 * mib, 256 << 10);
    wait_until_compacted_past(&cluster, leader, before.last_index);
    // Nothing is written from here on: a new snapshot would begin a new transfer.
    let files = snapshot_files(&cluster.node_dir(away));

    let mut interrupted: Vec<(PathBuf, u64)> = Vec::new();
    for part in 1..=3 {
        cluster.start(away);
        let kill_at = (mib << 20) * part / 16;
        let (index, last) = (before.last_index, interrupted.last());
        let received = receive_up_to(&cluster, away, &files, index, kill_at, last);
        let Some(file) = received else {
            break;
        };
        cluster.kill(away);
        interrupted.push(file);
        // It may have been complete, and renamed, in the last moment.
        if !interrupted.last().is_some_and(|(path, _)| path.exists()) {
            interrupted.pop();
            break;
        }
    }
    if !cluster.is_running(away) {
        cluster.start(away);
    }
    wait_until_same_content(&cluster, leader, away);
    assert!(status(&cluster, away).snapshot_index > before.last_index);
    // What arrives and what has arrived have different names: what still is there was complete.
    interrupted.retain(|(path, _)| !path.exists());
    figure("catch up, interruptions", interrupted.len());
    assert!(
        !interrupted.is_empty(),
        "the transfer was too quick to be interrupted: set RAFTKV_TRANSFER_MIB higher"
    );
    cluster.assert_alive();
    cluster.assert_no_panic();
}
