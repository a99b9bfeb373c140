//! What a node lacks is no failure: file descriptors, memory, room on a file system that copies
//! on write. What ends it says why: a limit on file sizes, a data directory that vanishes.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use raftkv::pb::{ErrorCode, KvOperationRequest, OperationType};
use support::cluster::{SOON, TestCluster};
use support::eventually;
use support::wire::{Answer, Connection, request};
use support::workload::{Client, Ended};

const LATER: Duration = Duration::from_secs(60);

/// Connections that say nothing, until the other end takes no more of them.
fn idle(addr: SocketAddr) -> Vec<TcpStream> {
    let connect = |_| TcpStream::connect_timeout(&addr, Duration::from_secs(1)).ok();
    (0..300).map_while(connect).collect()
}

#[test]
fn idle_clients_and_strangers_take_no_descriptor_from_disk_and_members() {
    let mut cluster = TestCluster::prepare(3, &["--segment-bytes", "9437184"]);
    cluster.wrap(&["sh", "-c", "ulimit -n 256 && exec \"$0\" \"$@\""]);
    cluster.ids().for_each(|node| cluster.start(node));
    let leader = cluster.wait_for_leader(SOON);
    let followers: Vec<usize> = cluster.ids().filter(|node| *node != leader).collect();
    let mut connections = Vec::new();
    for node in cluster.ids() {
        connections.extend(idle(cluster.peer(node)));
    }
    for follower in &followers {
        connections.extend(idle(cluster.client(*follower)));
    }
    // A member finds its way in though strangers have come before it.
    cluster.restart(followers[0]);
    let mut client = Client::new(&[cluster.client(leader)]);
    for n in 0..60 {
        let ended = client.update(format!("key {n}"), vec![b'x'; 500_000], LATER);
        assert_eq!(ended, Ended::Answered(Answer::Created), "key {n}");
    }
    drop(connections);
    cluster.wait_until_equal(leader, LATER);
    cluster.assert_alive();
    cluster.assert_no_panic();
}

#[test]
fn too_low_a_limit_on_open_files_is_refused_at_the_start() {
    let mut cluster = TestCluster::prepare(1, &[]);
    cluster.wrap(&["sh", "-c", "ulimit -n 64 && exec \"$0\" \"$@\""]);
    cluster.start(0);
    assert_eq!(cluster.ended(0, SOON).code(), Some(1));
    assert!(cluster.log_contains(0, "limit on open files"));
}

#[test]
fn a_data_directory_that_vanishes_ends_the_node_within_seconds() {
    let mut cluster = TestCluster::with_leader(1, &[]);
    fs::remove_dir_all(cluster.node_dir(0)).expect("the data directory");
    let ended = cluster.ended(0, Duration::from_secs(5));
    assert_eq!(ended.code(), Some(1), "{ended}");
    assert!(cluster.log_contains(0, "has vanished"));
}

#[test]
fn a_limit_on_file_sizes_ends_the_node_with_a_reason() {
    let mut cluster = TestCluster::prepare(1, &[]);
    // 2 or 4 MiB, by the shell: more than the first segment, less than the next.
    cluster.wrap(&["sh", "-c", "ulimit -f 4096 && exec \"$0\" \"$@\""]);
    cluster.start(0);
    cluster.wait_for_leader(SOON);
    let mut client = Client::new(cluster.clients());
    let _ = client.update("key", vec![b'x'; 900_000], Duration::from_secs(1));
    let ended = cluster.ended(0, SOON);
    assert_eq!(ended.code(), Some(1), "{ended}");
    assert!(cluster.log_contains(0, "raise the limit on file sizes"));
}

#[test]
fn a_store_that_is_a_bus_error_ends_the_node_with_a_reason() {
    let mut cluster = TestCluster::with_leader(1, &[]);
    let kind = rustix::fs::statfs(cluster.directory()).expect("a file system");
    if ![0xEF53, 0x0102_1994].contains(&kind.f_type) {
        return println!("skipped: the log is not mapped on this file system");
    }
    for entry in fs::read_dir(cluster.node_dir(0)).expect("the data directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "wal") {
            let segment = File::options().write(true).open(path).expect("a segment");
            segment.set_len(0).expect("it is cut short");
        }
    }
    let mut client = Client::new(cluster.clients());
    let _ = client.update("key", "value", Duration::from_secs(1));
    let ended = cluster.ended(0, SOON);
    assert_eq!(ended.code(), Some(1), "{ended}");
    assert!(cluster.log_contains(0, "stop: SIGBUS"));
}

/// What the leader answers, if there is one and it does.
fn ask_leader(cluster: &TestCluster, sequence: u64, put: &KvOperationRequest) -> Option<Answer> {
    let mut connection = Connection::open(cluster.client(cluster.leader()?), SOON).ok()?;
    connection.send(sequence, put).ok()?;
    connection.receive(sequence).ok()
}

/// Writes `key N` from `from` on until the leader answers so that `is_enough`; returns how many
/// were written.
fn fill(cluster: &TestCluster, value_bytes: usize, is_enough: impl Fn(&Answer) -> bool) -> usize {
    let client = Client::new(cluster.clients());
    let value = "x".repeat(value_bytes);
    for n in 0.. {
        let key = format!("key {n}");
        let put = request(OperationType::Update, &client.uuid, &key, value.as_bytes());
        let answer = eventually("an answer", LATER, || {
            match ask_leader(cluster, n + 1, &put)? {
                Answer::Failed(ErrorCode::Busy | ErrorCode::NoLeader, _) => None,
                answer => Some(answer),
            }
        });
        assert!(n < 2_000, "nothing is used up");
        match answer {
            Answer::Created => {}
            answer if is_enough(&answer) => return n as usize,
            other => panic!("{key}: {other:?}"),
        }
    }
    unreachable!("something is used up")
}

#[test]
fn writes_are_refused_while_one_voter_has_reached_its_memory_limit() {
    const LIMIT: usize = 48 << 20;
    const VALUE_BYTES: usize = 256 << 10;
    let mut cluster = TestCluster::prepare(3, &[]);
    cluster.start_with(0, &["--memory-limit", "0"]);
    cluster.start_with(1, &["--memory-limit", "0"]);
    cluster.start_with(2, &["--memory-limit", &LIMIT.to_string()]);
    cluster.wait_for_leader(SOON);
    let is_full = |answer: &Answer| match answer {
        Answer::Failed(ErrorCode::MemoryLimit, reason) => reason.contains("store full"),
        _ => false,
    };
    let written = fill(&cluster, VALUE_BYTES, is_full);
    assert!(
        (LIMIT / 4..LIMIT).contains(&(written * VALUE_BYTES)),
        "{written}"
    );
    let mut client = Client::new(cluster.clients());
    let found = client.get("key 0", LATER);
    assert!(matches!(found, Ended::Answered(Answer::Value(_))));
    for n in 0..written {
        let remove = request(OperationType::Delete, &client.uuid, format!("key {n}"), "");
        client.sequence += 1;
        let ended = client.run(client.sequence, &remove, LATER, &mut |_| ());
        assert_eq!(ended, Ended::Answered(Answer::Created), "remove key {n}");
    }
    let ended = client.update("after", "x", LATER);
    assert_eq!(ended, Ended::Answered(Answer::Created));
    assert!(cluster.log_contains(2, "the memory limit is reached"));
    cluster.assert_alive();
    cluster.assert_no_panic();
}

/// A file system in a file; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// Makes and mounts one. Why not, if that is not possible.
    fn new(place: &Path, image: &Path, kind: &str, bytes: u64) -> Result<Mounted, String> {
        let file = File::create(image).expect("the image");
        file.set_len(bytes).expect("a sparse file");
        fs::create_dir_all(place).expect("the place of the file system");
        run(&format!("mkfs.{kind}"), &["-q".as_ref(), image])?;
        run("mount", &["-o".as_ref(), "loop".as_ref(), image, place])?;
        Ok(Mounted(place.to_path_buf()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &["-l".as_ref(), &self.0]) {
            eprintln!("{error}");
        }
    }
}

fn run(program: &str, words: &[&Path]) -> Result<(), String> {
    match Command::new(program).args(words).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// Uses up all room, in large pieces first. Returns the file that has it.
fn use_up(place: &Path) -> PathBuf {
    let path = place.join("filler");
    let mut file = File::create(&path).expect("a file");
    for bytes in [1 << 20, 64 << 10, 4 << 10] {
        while file
            .write_all(&vec![1; bytes])
            .and_then(|()| file.sync_data())
            .is_ok()
        {}
    }
    path
}

/// A node on a full file system that copies on write; `share` makes others share its blocks.
fn goes_on_where_stores_need_blocks(kind: &str, share: impl Fn(&Path) -> Result<(), String>) {
    let mut cluster = TestCluster::prepare(1, &["--segment-bytes", "9437184"]);
    let image = cluster.directory().join("image");
    let mounted = Mounted::new(&cluster.data_dir(), &image, kind, 400 << 20);
    let mounted = match mounted {
        Ok(mounted) => mounted,
        Err(reason) => return println!("skipped: {kind} cannot be mounted: {reason}"),
    };
    cluster.start(0);
    cluster.wait_for_leader(SOON);
    let mut client = Client::new(cluster.clients());
    let ended = client.update("before", "x", LATER);
    assert_eq!(ended, Ended::Answered(Answer::Created));
    share(&cluster.data_dir()).expect("blocks that are shared");
    let filler = use_up(&cluster.data_dir());
    // Until something finds no room: the write that does waits for it.
    let patience = Duration::from_secs(2);
    let stuck = (0..2_000).find(|n| {
        let ended = client.update(format!("key {n}"), vec![b'x'; 20_000], patience);
        ended != Ended::Answered(Answer::Created)
    });
    assert!(stuck.is_some(), "the room is not used up");
    cluster.assert_alive();
    eventually("the status says so", SOON, || {
        cluster.status(0)?.disk_full.then_some(())
    });
    let found = client.get("before", LATER);
    assert_eq!(found, Ended::Answered(Answer::Value(b"x".to_vec().into())));
    fs::remove_file(filler).expect("the file that has the room");
    let ended = client.update("after", "x", LATER);
    assert_eq!(ended, Ended::Answered(Answer::Created));
    cluster.assert_alive();
    cluster.assert_no_panic();
    cluster.kill(0);
    drop(mounted);
}

#[test]
fn a_full_btrfs_whose_blocks_are_shared_with_a_snapshot_ends_no_node() {
    goes_on_where_stores_need_blocks("btrfs", |place| {
        let words = ["subvolume", "snapshot"].map(Path::new);
        run("btrfs", &[words[0], words[1], place, &place.join("copy")])
    });
}

#[test]
fn a_full_xfs_whose_blocks_are_shared_with_a_copy_ends_no_node() {
    goes_on_where_stores_need_blocks("xfs", |place| {
        run(
            "cp",
            &[
                "-r".as_ref(),
                "--reflink=always".as_ref(),
                &place.join("raftnode_0"),
                &place.join("copy"),
            ],
        )
    });
}
