//! Disks that are really full: nodes with a small file system each, which is filled and then grows.
//! Where nothing may be mounted, the tests say so and do nothing.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use raftkv::pb::{ErrorCode, KvOperationRequest, OperationType};
use support::cluster::{SOON, TestCluster};
use support::eventually;
use support::wire::{Answer, Connection, request};
use support::workload::{Client, Ended};

/// No snapshots: the log alone fills the disk. Small segments, so that little is in reserve.
const LOG_ONLY: [&str; 4] = [
    "--segment-bytes",
    "9437184",
    "--snapshot-log-bytes",
    "1073741824",
];
const LATER: Duration = Duration::from_secs(60);
const SMALL: &str = "40m";
const LARGE: &str = "512m";
/// So many of these fill the small file system twice over.
const VALUE_BYTES: usize = 64 << 10;
const ENOUGH: usize = 2 * (40 << 20) / VALUE_BYTES;

/// A file system of its own, in memory; unmounted when dropped.
struct SmallDisk {
    place: PathBuf,
}

impl SmallDisk {
    /// Mounts one. Why not, if that is not permitted.
    fn mount(place: &Path, size: &str) -> Result<SmallDisk, String> {
        std::fs::create_dir_all(place).expect("the place of the file system");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"],
            place,
        )?;
        let place = place.to_path_buf();
        Ok(SmallDisk { place })
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        run("mount", &["-o", &options], &self.place).expect("a remount");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &["-l"], &self.place) {
            eprintln!("{error}");
        }
    }
}

fn run(program: &str, words: &[&str], place: &Path) -> Result<(), String> {
    let output = Command::new(program).args(words).arg(place).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// A cluster whose nodes have file systems of these sizes; `None`, and a message, where nothing may
/// be mounted. The disks come last, and so outlive the processes.
fn cluster(sizes: &[&str]) -> Option<(TestCluster, Vec<SmallDisk>)> {
    let mut cluster = TestCluster::prepare(sizes.len(), &LOG_ONLY);
    let mut disks = Vec::new();
    for (node, size) in sizes.iter().enumerate() {
        match SmallDisk::mount(&cluster.node_dir(node), size) {
            Ok(disk) => disks.push(disk),
            Err(reason) => {
                println!("skipped: a small file system cannot be mounted: {reason}");
                return None;
            }
        }
    }
    // In order, so that node 0 leads.
    for node in cluster.ids() {
        cluster.start(node);
    }
    cluster.wait_for_leader(SOON);
    Some((cluster, disks))
}

fn value(n: usize) -> Vec<u8> {
    let mut value = format!("value {n}").into_bytes();
    value.resize(VALUE_BYTES, b'.');
    value
}

/// What the leader answers, if there is one and it does.
fn ask_leader(cluster: &TestCluster, request: &KvOperationRequest) -> Option<Answer> {
    let mut connection = Connection::open(cluster.client(cluster.leader()?), SOON).ok()?;
    connection.send(1, request).ok()?;
    connection.receive(1).ok()
}

fn is_full(cluster: &TestCluster, node: usize) -> Option<bool> {
    Some(cluster.status(node)?.disk_full)
}

fn remove(client: &mut Client, key: &str) -> Ended {
    let request = request(OperationType::Delete, &client.uuid, key, "");
    client.sequence += 1;
    client.run(client.sequence, &request, LATER, &mut |_| ())
}

/// Key `n` has what was written to it.
fn assert_kept(client: &mut Client, n: usize) {
    let found = client.get(format!("key {n}"), LATER);
    let kept = Ended::Answered(Answer::Value(value(n).into()));
    assert_eq!(found, kept, "key {n}");
}

#[test]
fn a_leader_whose_disk_is_full_hands_over_and_as_a_follower_stops_nobody() {
    let Some((mut cluster, disks)) = cluster(&[SMALL, LARGE, LARGE]) else {
        return;
    };
    assert_eq!(cluster.leader(), Some(0), "started first");
    let mut client = Client::new(cluster.clients());
    for n in 0..ENOUGH {
        let ended = client.update(format!("key {n}"), value(n), LATER);
        assert_eq!(ended, Ended::Answered(Answer::Created), "key {n}");
    }
    let leader = cluster.wait_for_leader_other_than(0, SOON);
    assert_eq!(is_full(&cluster, 0), Some(true));
    assert!(cluster.log_contains(0, "hand leadership over, the disk is full"));
    eventually("the leader knows of it", SOON, || {
        let status = cluster.status(leader)?;
        let peer = status.peers.iter().find(|peer| peer.id == 0)?;
        peer.disk_full.then_some(())
    });
    cluster.assert_alive();

    disks[0].resize(LARGE);
    eventually("node 0 has room again", LATER, || {
        (!is_full(&cluster, 0)?).then_some(())
    });
    cluster.wait_until_equal(leader, LATER);
    (0..ENOUGH).for_each(|n| assert_kept(&mut client, n));
    cluster.assert_alive();
    cluster.assert_no_panic();
    drop((cluster, disks));
}

#[test]
fn where_all_disks_are_full_gets_and_removes_go_on_and_writes_when_there_is_room() {
    let Some((mut cluster, disks)) = cluster(&[SMALL, SMALL, SMALL]) else {
        return;
    };
    let mut client = Client::new(cluster.clients());
    let mut acknowledged = Vec::new();
    for n in 0..ENOUGH {
        match client.update(format!("key {n}"), value(n), Duration::from_secs(3)) {
            Ended::Answered(Answer::Created) => acknowledged.push(n),
            // Appended, perhaps, and not confirmed in time: the next is refused.
            Ended::Unknown(_) => {}
            Ended::Refused(_) => break,
            other => panic!("key {n}: {other:?}"),
        }
    }
    eventually("the leader refuses for want of space", LATER, || {
        let put = request(OperationType::Update, &client.uuid, "more", value(0));
        match ask_leader(&cluster, &put)? {
            Answer::Failed(ErrorCode::NoSpace, reason) => {
                assert!(
                    reason.contains("no space left on the leader's disk"),
                    "{reason}"
                );
                Some(())
            }
            _ => None,
        }
    });
    let found = client.get("key 0", LATER);
    assert_eq!(found, Ended::Answered(Answer::Value(value(0).into())));
    for n in 0..20 {
        let ended = remove(&mut client, &format!("key {n}"));
        assert_eq!(ended, Ended::Answered(Answer::Created), "remove key {n}");
    }
    assert_eq!(
        client.get("key 0", LATER),
        Ended::Answered(Answer::NotFound)
    );
    cluster.assert_alive();

    disks.iter().for_each(|disk| disk.resize(LARGE));
    let ended = client.update("after", "x", LATER);
    assert_eq!(ended, Ended::Answered(Answer::Created));
    let left = acknowledged.into_iter().filter(|n| *n >= 20);
    left.for_each(|n| assert_kept(&mut client, n));
    cluster.assert_alive();
    cluster.assert_no_panic();
    drop((cluster, disks));
}
