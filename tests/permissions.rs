//! Data and logs of a node are for its owner alone.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use support::cluster::{SOON, TestCluster};
use support::eventually;
use support::wire::Answer;
use support::workload::{Client, Ended};

/// All files and directories below this one.
fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(below(&path));
        }
        found.push(path);
    }
    found
}

#[test]
fn nobody_else_may_read_data_or_logs_also_those_of_rotation() {
    let place = tempfile::tempdir().expect("a directory");
    let log = place.path().join("logs").join("node.log");
    let log = log.to_str().expect("a plain path");
    let arguments = [
        "--log-file",
        log,
        "--log-rotate",
        "size=1K",
        "--snapshot-log-bytes",
        "4096",
    ];
    let mut cluster = TestCluster::prepare(1, &arguments);
    cluster.start(0);
    cluster.wait_for_leader(SOON);
    let mut client = Client::new(cluster.clients());
    let mut n = 0;
    eventually("snapshots and a closed log", SOON, || {
        n += 1;
        let ended = client.update(format!("key {n}"), vec![0; 1_000], SOON);
        assert_eq!(ended, Ended::Answered(Answer::Created));
        let has = |directory: &Path, ending: &str| {
            let found = below(directory);
            found
                .iter()
                .any(|path| path.to_string_lossy().ends_with(ending))
        };
        let closed = has(place.path(), "_r00000.log");
        (has(&cluster.node_dir(0), ".snap") && closed).then_some(())
    });
    let mut seen = below(&cluster.node_dir(0));
    seen.extend(below(place.path()));
    seen.push(cluster.node_dir(0));
    assert!(seen.len() > 8, "{seen:?}");
    for path in seen {
        // A segment or an old log may be gone by now.
        let Ok(found) = fs::metadata(&path) else {
            continue;
        };
        let wanted = if found.is_dir() { 0o700 } else { 0o600 };
        let mode = found.permissions().mode() & 0o777;
        assert_eq!(mode, wanted, "{}: {mode:o}", path.display());
    }
}
