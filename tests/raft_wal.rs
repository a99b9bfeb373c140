//! `raft_wal`: what it shows, what it finds, its exit codes, and that it changes nothing.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::cluster::{SOON, TestCluster};
use support::workload::Ledger;

const SNAPSHOT: &str = "0000000000000006-0000000000000002.snap";
const SEGMENT: &str = "0000000000000001.wal";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data_v1/raftnode_0")
}

/// A copy that a test may damage.
fn copied() -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a directory");
    for file in fs::read_dir(fixture()).expect("the fixture") {
        let file = file.expect("an entry");
        fs::copy(file.path(), to.path().join(file.file_name())).expect("copied");
    }
    to
}

/// All files with their contents.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut found: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.clone(), fs::read(path).expect("a file")))
        .collect();
    found.sort();
    found
}

/// Runs it, and gives exit code, stdout and stderr.
fn raft_wal(arguments: &[&str], path: &Path) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_raft_wal"))
        .args(arguments)
        .arg(path)
        .output()
        .expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        output.status.code().expect("it ends by itself"),
        text(output.stdout),
        text(output.stderr),
    )
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_dump_shows_every_kind_of_record_and_file_and_changes_nothing() {
    let dir = copied();
    let before = contents(dir.path());
    let (code, out, err) = raft_wal(&["dump"], dir.path());
    assert_eq!((code, &*err), (0, ""), "{out}");
    for line in [
        "meta version=1 node=0 cluster=",
        "peers may_vote=true",
        "hard_state term=1 voted_for=n0",
        "hard_state term=2 voted_for=none",
        "truncate from=5",
        "snapshot_mark 2@1 restart=true",
        "snapshot_mark 4@1 restart=false",
        "entry 3@1 command",
        "update key=\"second\"",
        "entry 5@2 noop bytes=0",
        "remove key=\"gone\"",
        "members=n0,n1,n2",
        "0000000000000001.wal bytes=16384 node=0",
        "0000000000000006-0000000000000002.snap last=6@2 keys=2",
        "  key=\"first\" value_bytes=1",
    ] {
        assert!(out.contains(line), "{line} is not in:\n{out}");
    }
    for name in [SEGMENT, SNAPSHOT, "peers", "meta"] {
        let (code, part, _) = raft_wal(&["dump"], &dir.path().join(name));
        assert_eq!(code, 0);
        assert!(!part.is_empty() && out.contains(&part), "{name}: {part}");
    }
    assert_eq!(contents(dir.path()), before, "it was changed");
}

#[test]
fn an_intact_directory_verifies_and_each_damage_is_named() {
    let dir = copied();
    let (code, out, err) = raft_wal(&["verify"], dir.path());
    assert_eq!((code, &*err), (0, ""), "{out}");
    assert!(
        out.contains("intact: a node starts from this directory"),
        "{out}"
    );
    assert!(
        out.contains("log: term 2, entries behind 4@1 up to 8@2"),
        "{out}"
    );
    let damages: [(&str, Option<usize>, &str); 7] = [
        (
            SEGMENT,
            Some(4096 + 60),
            "0000000000000001.wal: damaged at offset 4096",
        ),
        (SEGMENT, None, "the log is gone"),
        (SNAPSHOT, Some(100), "corrupt snapshot at offset"),
        (SNAPSHOT, None, "there is no snapshot"),
        ("peers", Some(3), "the file `peers` is damaged"),
        ("meta", Some(60), "meta: is damaged"),
        ("meta", None, "meta: is missing, though there is a log"),
    ];
    for (name, at, message) in damages {
        let dir = copied();
        match at {
            Some(at) => flip(&dir.path().join(name), at),
            None => fs::remove_file(dir.path().join(name)).expect("removed"),
        }
        let before = contents(dir.path());
        let (code, out, _) = raft_wal(&["verify"], dir.path());
        assert_eq!(code, 1, "{name} {at:?}: {out}");
        let told = out.lines().find(|line| line.starts_with("DAMAGED: "));
        assert!(
            told.is_some_and(|l| l.contains(message)),
            "{message}: {out}"
        );
        assert!(out.contains("--rejoin"), "{out}");
        assert_eq!(contents(dir.path()), before, "it was changed");
        let (code, ..) = raft_wal(&["stats"], dir.path());
        assert_eq!(code, 1, "{name} {at:?}");
    }
}

#[test]
fn stats_are_there_for_people_and_for_programs() {
    let (code, out, err) = raft_wal(&["stats", "--json"], &fixture());
    assert_eq!((code, &*err), (0, ""));
    let stats: Value = serde_json::from_str(&out).expect("JSON");
    for (name, value) in [
        ("node", 0),
        ("term", 2),
        ("log_begins_behind", 4),
        ("last_index", 8),
        ("entries", 4),
        ("commands", 2),
        ("segments", 1),
        ("segments_live", 1),
        ("segment_bytes", 16384),
    ] {
        assert_eq!(stats[name], value, "{name}: {out}");
    }
    assert_eq!(stats["may_vote"], true);
    assert_eq!(stats["torn"], false);
    assert_eq!(stats["snapshots"][0]["keys"], 2);
    assert_eq!(stats["snapshots"][0]["intact"], true);
    let (code, out, _) = raft_wal(&["stats"], &fixture());
    assert_eq!(code, 0);
    assert!(
        out.contains("last index") && out.contains("snapshot             6@2"),
        "{out}"
    );
}

#[test]
fn wrong_use_exits_with_2_and_what_cannot_be_read_with_3() {
    let dir = tempfile::tempdir().expect("a directory");
    let (code, _, err) = raft_wal(&["chew"], dir.path());
    assert_eq!(code, 2, "{err}");
    let output = Command::new(env!("CARGO_BIN_EXE_raft_wal")).output();
    assert_eq!(output.expect("it runs").status.code(), Some(2));
    for command in ["dump", "verify", "stats"] {
        for path in [dir.path().to_path_buf(), dir.path().join("missing")] {
            let (code, out, err) = raft_wal(&[command], &path);
            assert_eq!((code, &*out), (3, ""), "{command} {path:?}");
            let named = path.display().to_string();
            assert!(err.contains(&named) && err.lines().count() == 1, "{err}");
        }
    }
    let (code, help, _) = raft_wal(&["--help"], Path::new("verify"));
    assert_eq!(code, 0);
    for word in [
        "dump",
        "verify",
        "stats",
        "Exit codes: 0 fine, 1 damage found",
    ] {
        assert!(help.contains(word), "{help}");
    }
}

#[test]
fn it_works_beside_a_running_node_and_does_not_disturb_it() {
    let small = [
        "--snapshot-log-bytes",
        "65536",
        "--snapshot-tail-bytes",
        "16384",
    ];
    let mut cluster = TestCluster::with_leader(3, &small);
    let ledger = Ledger::start(cluster.clients(), 4, "beside", SOON);
    for _ in 0..10 {
        ledger.wait_for_more(50, SOON);
        for node in cluster.ids() {
            let (code, out, err) = raft_wal(&["verify"], &cluster.node_dir(node));
            assert_eq!((code, &*err), (0, ""), "node {node}: {out}");
        }
    }
    ledger.stop();
    cluster.assert_alive();
    cluster.assert_no_panic();
    let node = cluster.node_dir(0);
    cluster.kill_all(0..3);
    let (code, out, _) = raft_wal(&["verify"], &node);
    assert_eq!(code, 0, "{out}");
}
