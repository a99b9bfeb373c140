//! A node whose data is damaged refuses to start, says what to do, and comes back by doing that:
//! `raft_example N --rejoin`.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;
use support::cluster::{SOON, TestCluster, wait_for_exit};
use support::eventually;
use support::workload::{Ledger, assert_all_there};

/// The end of a segment's header: batches begin behind it.
const HEADER_BYTES: u64 = 4096;

/// The segments of a node, oldest first.
fn segments(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the node's directory");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "wal"))
        .collect();
    paths.sort();
    paths
}

/// Flips bits of the first batch of the oldest segment, which later ones vouch for.
fn damage(directory: &Path) -> PathBuf {
    let oldest = segments(directory).swap_remove(0);
    let file = File::options().read(true).write(true).open(&oldest);
    let file = file.expect("a segment");
    let mut byte = [0];
    file.read_exact_at(&mut byte, HEADER_BYTES + 60)
        .expect("a batch");
    file.write_all_at(&[byte[0] ^ 0x18], HEADER_BYTES + 60)
        .expect("written");
    file.sync_all().expect("synced");
    oldest
}

/// Starts a node that has to refuse, and gives what it says on stderr.
fn refusal(cluster: &TestCluster, node: usize) -> String {
    let mut child = cluster
        .command(node)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    if wait_for_exit(&mut child, SOON).is_none() {
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        panic!("node {node} starts with damaged data");
    }
    let output = child.wait_with_output().expect("its output");
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).expect("text")
}

fn may_vote(cluster: &TestCluster, node: usize) -> Option<bool> {
    Some(cluster.status(node)?.may_vote)
}

#[test]
fn a_node_with_a_damaged_log_refuses_and_comes_back_by_rejoining_with_nothing_lost() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let ledger = Ledger::start(cluster.clients(), 2, "before", SOON);
    ledger.wait_for_more(50, SOON);
    let leader = cluster.wait_for_leader(SOON);
    let damaged = (leader + 1) % 3;
    cluster.wait_until_equal(leader, SOON);
    cluster.terminate(damaged, Signal::TERM);
    let file = damage(&cluster.node_dir(damaged));
    let name = file.file_name().expect("a name").to_string_lossy();

    let files = segments(&cluster.node_dir(damaged));
    for _ in 0..2 {
        let line = refusal(&cluster, damaged);
        assert_eq!(line.lines().count(), 1, "{line}");
        for part in [&*name, "offset", "raftnode_", "--rejoin"] {
            assert!(line.contains(part), "{part} is not in: {line}");
        }
    }
    let left = segments(&cluster.node_dir(damaged));
    assert_eq!(left, files, "a refused start leaves nothing behind");

    // While the others are without a majority nobody can vouch for it: it does not vote.
    let other = (leader + 2) % 3;
    ledger.wait_for_more(20, SOON);
    let mut acknowledged = ledger.stop();
    cluster.kill(leader);
    cluster.start_with(damaged, &["--rejoin"]);
    eventually("the node is back, and does not vote", SOON, || {
        (!may_vote(&cluster, damaged)?).then_some(())
    });
    let aside = cluster.node_dir(damaged).join("aside-1");
    assert!(aside.join(&*name).exists(), "the old log is kept");
    assert!(aside.join("meta").exists());
    assert!(cluster.log_contains(damaged, "rejoin: data moved aside"));
    // Its vote is all that the other one lacks, and does not get.
    assert_eq!(may_vote(&cluster, damaged), Some(false));
    assert_eq!(
        cluster.status(other).map(|s| s.role == "leader"),
        Some(false)
    );

    cluster.start(leader);
    cluster.wait_for_leader(SOON);
    eventually("it votes again", SOON, || {
        may_vote(&cluster, damaged)?.then_some(())
    });
    // It is a full member, and needs `--rejoin` no more; nor does that do any harm.
    let now = cluster.wait_for_leader(SOON);
    cluster.wait_until_equal(now, SOON);
    cluster.kill(damaged);
    cluster.start_with(damaged, &["--rejoin"]);
    eventually("it is back", SOON, || {
        may_vote(&cluster, damaged)?.then_some(())
    });
    assert!(!cluster.node_dir(damaged).join("aside-2").exists());
    let ledger = Ledger::start(cluster.clients(), 2, "after", SOON);
    ledger.wait_for_more(20, SOON);
    acknowledged.extend(ledger.stop());
    let now = cluster.wait_for_leader(SOON);
    cluster.wait_until_equal(now, SOON);
    // Without one of the others it is half of the quorum.
    let gone = if now == damaged { other } else { now };
    cluster.kill(gone);
    let now = cluster.wait_for_leader_other_than(gone, SOON);
    assert_all_there(cluster.client(now), &acknowledged);
    cluster.assert_alive();
    cluster.assert_no_panic();
}

#[test]
fn the_newest_file_of_a_log_that_is_gone_is_missed() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let leader = cluster.wait_for_leader(SOON);
    let node = (leader + 1) % 3;
    let write_some = |cluster: &TestCluster, name: &str| {
        let ledger = Ledger::start(cluster.clients(), 2, name, SOON);
        ledger.wait_for_more(20, SOON);
        ledger.stop();
        cluster.wait_until_equal(leader, SOON);
    };
    write_some(&cluster, "first");
    // Each start begins a segment, for which the one before it vouches.
    cluster.kill(node);
    cluster.start_and_wait(node);
    write_some(&cluster, "second");
    cluster.kill(node);
    let newest = segments(&cluster.node_dir(node)).pop().expect("a segment");
    let name = newest.file_name().expect("a name").to_string_lossy();
    fs::remove_file(&newest).expect("it is there");
    let line = refusal(&cluster, node);
    for part in [&*name, "the segment is missing", "--rejoin"] {
        assert!(line.contains(part), "{part} is not in: {line}");
    }
    // What is only there to be recycled is no log.
    for segment in segments(&cluster.node_dir(node)) {
        let len = segment.metadata().expect("it is there").len();
        fs::write(
            &segment,
            vec![0; usize::try_from(len).expect("it is small")],
        )
        .expect("written");
    }
    let line = refusal(&cluster, node);
    assert!(line.contains("the log is gone"), "{line}");
    cluster.start_with(node, &["--rejoin"]);
    eventually("it votes again", SOON, || {
        may_vote(&cluster, node)?.then_some(())
    });
    cluster.assert_no_panic();
}

#[test]
fn a_lost_directory_rejoins_and_the_directory_of_another_is_left_alone() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let ledger = Ledger::start(cluster.clients(), 1, "lost", SOON);
    ledger.wait_for_more(20, SOON);
    let acknowledged = ledger.stop();
    let leader = cluster.wait_for_leader(SOON);
    let lost = (leader + 1) % 3;
    cluster.kill(lost);
    fs::remove_dir_all(cluster.node_dir(lost)).expect("removed");
    // A directory of another node in its place is a mistake, not damage.
    fs::create_dir(cluster.node_dir(lost)).expect("made");
    let meta = cluster.node_dir(lost).join("meta");
    fs::copy(cluster.node_dir(leader).join("meta"), &meta).expect("copied");
    let output = cluster.command(lost).arg("--rejoin").output();
    let output = output.expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(line.contains("belongs to node"), "{line}");
    assert!(!cluster.node_dir(lost).join("aside-1").exists());
    fs::remove_dir_all(cluster.node_dir(lost)).expect("removed");

    cluster.start_with(lost, &["--rejoin"]);
    eventually("it votes again", SOON, || {
        may_vote(&cluster, lost)?.then_some(())
    });
    let exchanged = "a new data directory takes the place of the old one";
    assert!(
        cluster
            .ids()
            .any(|node| cluster.log_contains(node, exchanged))
    );
    let now = cluster.wait_for_leader(SOON);
    assert_all_there(cluster.client(now), &acknowledged);
    cluster.assert_alive();
}
