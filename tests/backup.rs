//! `raft_client backup`, `backup --verify` and `restore` on real processes: under load, from a follower,
//! and with files that are none.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::cluster::{SOON, TestCluster};
use support::eventually;
use support::wire::Answer;
use support::workload::{Client, Ended};

const LATER: Duration = Duration::from_secs(60);

/// `raft_client` on these nodes.
fn raft_client(nodes: &[SocketAddr], words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raft_client"));
    for node in nodes {
        command.args(["--addr", &node.to_string()]);
    }
    command.args(words).output().expect("raft_client runs")
}

/// What it printed on stdout, if it ended with this code.
fn said(nodes: &[SocketAddr], words: &[&str], code: i32) -> String {
    let output = raft_client(nodes, words);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}{complaint}");
    text + &complaint
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn acknowledged(ended: &Ended) -> bool {
    *ended == Ended::Answered(Answer::Created)
}

/// The value of a key, read from the cluster.
fn value(client: &mut Client, key: &str) -> Option<Vec<u8>> {
    match client.get(key, LATER) {
        Ended::Answered(Answer::Value(value)) => Some(value.to_vec()),
        Ended::Answered(Answer::NotFound) => None,
        other => panic!("{key}: {other:?}"),
    }
}

#[test]
fn what_was_acknowledged_before_a_backup_under_load_is_in_the_cluster_that_it_is_restored_into() {
    const BEFORE: u64 = 400;
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("store.backup");
    let begun;
    {
        let mut cluster = TestCluster::with_leader(3, &[]);
        let leader = cluster.wait_for_leader(SOON);
        let mut client = Client::new(cluster.clients());
        for n in 0..BEFORE {
            let ended = client.update(format!("before {n}"), format!("{n}").repeat(200), LATER);
            assert!(acknowledged(&ended), "{ended:?}");
        }
        // Load goes on while the backup is taken: a counter that only grows.
        let (stop, counter) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let load = std::thread::spawn({
            let (stop, counter) = (Arc::clone(&stop), Arc::clone(&counter));
            let mut client = Client::new(cluster.clients());
            move || {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let ended = client.update("counter", n.to_string(), LATER);
                    assert!(acknowledged(&ended), "{ended:?}");
                    counter.store(n, Ordering::SeqCst);
                }
            }
        });
        eventually("the load runs", LATER, || {
            (counter.load(Ordering::SeqCst) >= 10).then_some(())
        });
        // Of a follower: it asks the leader how far the backup has to reach.
        let follower = (leader + 1) % 3;
        let nodes = [cluster.client(follower)];
        let printed = said(&nodes, &["backup", text(&file)], 0);
        assert!(printed.starts_with("success: index="), "{printed}");
        assert!(!place.path().join("store.backup.part").exists());
        let refused = said(&nodes, &["backup", text(&file)], 1);
        assert!(refused.contains("--force"), "{refused}");
        // What the first does not hold, the second does.
        let ended = client.update("between", "here", LATER);
        assert!(acknowledged(&ended), "{ended:?}");
        begun = counter.load(Ordering::SeqCst);
        said(&nodes, &["backup", "--force", text(&file)], 0);
        stop.store(true, Ordering::Relaxed);
        load.join().expect("the load");
        cluster.assert_alive();
    }
    let verified = said(&[], &["backup", "--verify", text(&file)], 0);
    assert!(
        verified.contains(&format!("keys={}", BEFORE + 2)),
        "{verified}"
    );

    // Another number of nodes, other ports, directories of their own.
    let mut cluster = TestCluster::with_leader(5, &[]);
    said(cluster.clients(), &["restore", text(&file)], 0);
    let mut client = Client::new(cluster.clients());
    for n in 0..BEFORE {
        let found = value(&mut client, &format!("before {n}"));
        assert_eq!(found, Some(format!("{n}").repeat(200).into_bytes()), "{n}");
    }
    assert_eq!(value(&mut client, "between"), Some(b"here".to_vec()));
    let restored = value(&mut client, "counter").expect("the counter");
    let restored: u64 = String::from_utf8_lossy(&restored)
        .parse()
        .expect("a number");
    assert!(
        restored >= begun,
        "{restored} < {begun}, which was acknowledged"
    );
    let refused = said(cluster.clients(), &["restore", text(&file)], 1);
    assert!(refused.contains("holds keys already"), "{refused}");
    said(cluster.clients(), &["restore", "--force", text(&file)], 0);
    cluster.assert_alive();
    cluster.assert_no_panic();
}

#[test]
fn a_file_that_is_damaged_or_cut_is_told_and_nothing_of_it_is_restored() {
    let mut cluster = TestCluster::with_leader(1, &[]);
    let nodes = cluster.clients().to_vec();
    let mut client = Client::new(&nodes);
    for n in 0..50 {
        let ended = client.update(format!("key {n:02}"), vec![7_u8; 20_000], LATER);
        assert!(acknowledged(&ended), "{ended:?}");
    }
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("whole");
    said(&nodes, &["backup", text(&file)], 0);
    let whole = fs::read(&file).expect("the backup");
    assert!(whole.len() > 1_000_000);
    for n in 0..50 {
        let ended = client.update(format!("key {n:02}"), "newer", LATER);
        assert!(acknowledged(&ended), "{ended:?}");
    }
    let broken = place.path().join("broken");
    let mut flipped = whole.clone();
    flipped[600_000] ^= 1;
    for (bytes, complaint) in [
        (&flipped[..], "corrupt snapshot at offset"),
        (&whole[..whole.len() - 1], "ends too early"),
        (&whole[..0], "ends too early"),
        (
            b"not a backup at all, but some text of 60 bytes and a few more",
            "not a snapshot",
        ),
    ] {
        fs::write(&broken, bytes).expect("the file");
        for words in [["backup", "--verify"], ["restore", "--force"]] {
            let told = said(&nodes, &[words[0], words[1], text(&broken)], 1);
            assert!(
                told.contains(complaint) && told.contains("broken"),
                "{told}"
            );
        }
    }
    assert_eq!(value(&mut client, "key 00"), Some(b"newer".to_vec()));
    said(&nodes, &["restore", "--force", text(&file)], 0);
    assert_eq!(value(&mut client, "key 00"), Some(vec![7; 20_000]));
    cluster.assert_alive();
}

#[test]
fn a_backup_of_nodes_that_are_not_there_ends_in_time_and_leaves_no_file() {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("none");
    let cluster = TestCluster::prepare(1, &[]);
    let words = ["--timeout", "1", "backup", text(&file)];
    let told = said(cluster.clients(), &words, 3);
    assert!(told.contains("not reachable"), "{told}");
    assert_eq!(
        fs::read_dir(place.path()).expect("the directory").count(),
        0
    );
}
