//! `raft_client backup`, `backup --verify` and `restore` on real processes: under load, from a follower,
//! and with files that are none.

mod support;

use std::ffi::CString;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use raftkv::limits::VALUE_BYTES_MAX;
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest as _, Sha256};
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

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("the directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names.map(|n| n.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// What is printed behind `NAME=`.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let words = line.split_whitespace();
    let found = words.filter_map(|word| word.split_once('='));
    let mut found = found.filter(|(key, _)| *key == name);
    found.next().unwrap_or_else(|| panic!("{name}: {line}")).1
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
        assert_eq!(names_in(place.path()), ["store.backup"]);
        let mode = fs::metadata(&file)
            .expect("the backup")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
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
    assert!(names_in(place.path()).is_empty());
}

#[test]
fn only_a_regular_file_is_replaced_and_a_minus_is_stdout() {
    let cluster = TestCluster::with_leader(1, &[]);
    let nodes = cluster.clients();
    let place = tempfile::tempdir().expect("a directory");
    let at = |name: &str| place.path().join(name);
    fs::write(at("target"), "kept").expect("a file");
    symlink(at("target"), at("link")).expect("a link");
    symlink(at("nowhere"), at("dangling")).expect("a link");
    fs::create_dir(at("directory")).expect("a directory");
    let pipe = CString::new(at("pipe").into_os_string().into_vec()).expect("a path");
    let permissions = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, pipe.as_c_str(), permissions).expect("a pipe");
    for name in ["link", "dangling", "directory", "pipe"] {
        let told = said(nodes, &["backup", "--force", text(&at(name))], 1);
        assert!(told.contains("is not a regular file"), "{told}");
    }
    assert!(at("link").is_symlink() && at("dangling").is_symlink());
    let kind = fs::metadata(at("pipe")).expect("the pipe").file_type();
    assert!(kind.is_fifo());
    assert_eq!(fs::read(at("target")).expect("the file"), b"kept");

    let output = raft_client(nodes, &["backup", "-"]);
    assert_eq!(output.status.code(), Some(0));
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    fs::write(at("from stdout"), &output.stdout).expect("a file");
    let verified = said(&[], &["backup", "--verify", text(&at("from stdout"))], 0);
    let verified = verified.lines().next().expect("a line");
    assert!(line.contains(verified), "{line}{verified}");
}

#[test]
fn the_line_about_a_backup_has_the_sha256_of_its_file_which_differs_with_a_value() {
    let cluster = TestCluster::with_leader(1, &[]);
    let mut client = Client::new(cluster.clients());
    let place = tempfile::tempdir().expect("a directory");
    let mut sums = Vec::new();
    for name in ["a", "b"] {
        // Equally long, so that nothing else differs in what is written of the value.
        assert!(acknowledged(&client.update("key", name, LATER)));
        let file = place.path().join(name);
        let line = said(cluster.clients(), &["backup", text(&file)], 0);
        let sum = Sha256::digest(fs::read(&file).expect("the backup"));
        let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(field(&line, "sha256"), sum);
        sums.push(sum);
    }
    assert_ne!(sums[0], sums[1]);
}

/// `raft_client backup FILE` of so much data that it takes a while, with a draft beside the file.
fn begin_backup(nodes: &[SocketAddr], file: &Path, drafts: usize) -> Child {
    let child = Command::new(env!("CARGO_BIN_EXE_raft_client"))
        .args(["--addr", &nodes[0].to_string(), "backup", text(file)])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("raft_client runs");
    let directory = file.parent().expect("a directory").to_owned();
    eventually("a draft", SOON, || {
        let names = names_in(&directory);
        (names.iter().filter(|name| name.ends_with(".part")).count() == drafts).then_some(())
    });
    child
}

#[test]
fn two_backups_into_one_file_are_no_mix_and_one_that_is_interrupted_leaves_nothing() {
    // A snapshot that takes some seconds to be walked over.
    let cluster = TestCluster::with_leader(1, &["--snapshot-write-bytes-per-sec", "8388608"]);
    let mut client = Client::new(cluster.clients());
    for n in 0..3 {
        let ended = client.update(format!("key {n}"), vec![n; VALUE_BYTES_MAX - 100], LATER);
        assert!(acknowledged(&ended), "{ended:?}");
    }
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("one");
    let first = begin_backup(cluster.clients(), &file, 1);
    let second = begin_backup(cluster.clients(), &file, 2);
    let mut third = begin_backup(cluster.clients(), &file, 3);
    let pid = Pid::from_child(&third);
    kill_process(pid, Signal::INT).expect("it runs");
    assert_eq!(third.wait().expect("it ends").code(), Some(128 + 2));
    eventually("its draft is gone", SOON, || {
        let names = names_in(place.path());
        (names.iter().filter(|name| name.ends_with(".part")).count() <= 2).then_some(())
    });
    let outputs = [first, second].map(|child| child.wait_with_output().expect("it ends"));
    let mut codes = outputs.each_ref().map(|output| output.status.code());
    codes.sort_unstable();
    // One was faster, and the other has not replaced what was not there before.
    assert_eq!(codes, [Some(0), Some(1)]);
    assert_eq!(names_in(place.path()), ["one"]);
    let verified = said(&[], &["backup", "--verify", text(&file)], 0);
    let verified = verified.lines().next().expect("a line");
    let lines = outputs.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let told = lines.iter().any(|line| line.trim_end() == verified);
    assert!(told, "{lines:?} {verified}");
}
