//! A disk that hangs: the tracer holds each sync of a node for ten minutes. A leader gives its
//! leadership up, a process ends after the stated time, and neither stops the cluster. Needs
//! `strace`, or skips and says so.

mod support;

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use support::cluster::{SOON, TestCluster};
use support::eventually;
use support::wire::Answer;
use support::workload::{Client, Ended};

const GIVE_UP: Duration = Duration::from_secs(3);
const OPTIONS: [&str; 4] = ["--disk-patience-ms", "600", "--disk-give-up-ms", "3000"];
/// Longer than the test runs, in microseconds.
const HELD_US: u64 = 600_000_000;

/// What holds the syncs of a process; ended when dropped.
struct Holder(Child);

impl Holder {
    /// Returns when the process is held. `None`, and a message, if there is no tracer, or it may
    /// not trace.
    fn hold(cluster: &TestCluster, node: usize) -> Option<Holder> {
        let holder = Holder::try_hold(cluster, node);
        if holder.is_none() {
            println!("skipped: strace is not there, or may not trace");
        }
        holder
    }

    fn try_hold(cluster: &TestCluster, node: usize) -> Option<Holder> {
        let pid = cluster.pid(node).as_raw_nonzero().to_string();
        let inject = format!("inject=msync:delay_enter={HELD_US}");
        let started = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=msync", "-e"])
            .args([&inject, "-p", &pid])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut holder = Holder(started.ok()?);
        let status = format!("/proc/{pid}/status");
        eventually("the tracer has the process, or gives up", SOON, || {
            let ended = holder.0.try_wait().expect("a child of ours").is_some();
            let text = std::fs::read_to_string(&status).ok()?;
            let traced = text.lines().find(|line| line.starts_with("TracerPid:"))?;
            let is_traced = !traced.trim_end().ends_with("\t0");
            (ended || is_traced).then_some(is_traced)
        })
        .then_some(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn write(client: &mut Client, keys: std::ops::Range<usize>) {
    for n in keys {
        let ended = client.update(format!("key {n}"), "value", SOON);
        assert_eq!(ended, Ended::Answered(Answer::Created), "key {n}");
    }
}

/// Whether the disk of `node` is said to hang, in its log.
fn says_so(cluster: &TestCluster, node: usize) -> Option<()> {
    cluster
        .log_contains(node, "the disk hangs, nothing has become durable")
        .then_some(())
}

#[test]
fn a_leader_whose_disk_hangs_gives_up_leadership_and_ends_and_nothing_is_lost() {
    let mut cluster = TestCluster::with_leader(3, &OPTIONS);
    let old = cluster.wait_for_leader(SOON);
    let mut client = Client::new(cluster.clients());
    write(&mut client, 0..20);
    let Some(holder) = Holder::hold(&cluster, old) else {
        return;
    };
    let begin = Instant::now();
    // The first waits until another leads, and is answered all the same.
    write(&mut client, 20..40);
    let leader = cluster.wait_for_leader_other_than(old, SOON);
    eventually("it is said that the disk hangs", SOON, || {
        says_so(&cluster, old)
    });
    eventually("the process says why it ends", SOON, || {
        cluster
            .log_contains(old, "raft_example: the disk hangs")
            .then_some(())
    });
    assert!(begin.elapsed() >= GIVE_UP, "not before the stated time");
    let port = TcpStream::connect(cluster.client(old));
    assert!(port.is_err(), "nobody is kept waiting at its port");
    assert_eq!(cluster.leader(), Some(leader), "the others go on");
    write(&mut client, 40..60);
    // A thread that waits for its disk cannot be ended by anybody: the last of the process goes
    // when the call returns, and only then may another process have the directory.
    drop(holder);
    assert_eq!(cluster.ended(old, SOON).code(), Some(1));
    // With a disk that works it is as good as before.
    cluster.start(old);
    cluster.wait_until_equal(leader, SOON);
    for n in 0..60 {
        let found = client.get(format!("key {n}"), SOON);
        assert_eq!(
            found,
            Ended::Answered(Answer::Value("value".into())),
            "key {n}"
        );
    }
    cluster.assert_no_panic();
}

#[test]
fn a_follower_whose_disk_hangs_is_seen_in_status_and_stops_nobody() {
    let mut cluster = TestCluster::with_leader(3, &["--disk-give-up-ms", "0"]);
    let leader = cluster.wait_for_leader(SOON);
    let mut client = Client::new(cluster.clients());
    let follower = (leader + 1) % 3;
    write(&mut client, 0..5);
    let Some(holder) = Holder::hold(&cluster, follower) else {
        return;
    };
    write(&mut client, 5..50);
    let said = |disk_us: u64| (disk_us >= 1_000_000).then_some(());
    eventually("its own status says so", SOON, || {
        said(cluster.status(follower)?.disk_us)
    });
    eventually("and the leader's", SOON, || {
        let status = cluster.status(leader)?;
        let peer = status
            .peers
            .iter()
            .find(|peer| peer.id == follower as u64)?;
        said(peer.disk_us)
    });
    assert_eq!(cluster.leader(), Some(leader));
    eventually("it is said that the disk hangs", SOON, || {
        says_so(&cluster, follower)
    });
    // The sync comes back after all, and the follower with it.
    drop(holder);
    write(&mut client, 50..60);
    cluster.wait_until_equal(leader, SOON);
    eventually("it is said that it goes on", SOON, || {
        let text = "the disk makes progress again";
        cluster.log_contains(follower, text).then_some(())
    });
    assert_eq!(cluster.leader(), Some(leader), "nobody else has led");
    cluster.assert_no_panic();
}

#[test]
fn a_node_that_is_told_to_stop_does_not_wait_for_a_disk_that_hangs() {
    let mut cluster = TestCluster::with_leader(3, &OPTIONS);
    let leader = cluster.wait_for_leader(SOON);
    let mut client = Client::new(cluster.clients());
    let follower = (leader + 1) % 3;
    write(&mut client, 0..5);
    let Some(holder) = Holder::hold(&cluster, follower) else {
        return;
    };
    write(&mut client, 5..20);
    kill_process(cluster.pid(follower), Signal::TERM).expect("it is there");
    eventually("it gives the disk up", SOON, || {
        let text = "the disk hangs: what was not promised to anybody is left unwritten";
        cluster.log_contains(follower, text).then_some(())
    });
    drop(holder);
    assert_eq!(cluster.ended(follower, SOON).code(), Some(0));
    cluster.start(follower);
    cluster.wait_until_equal(leader, SOON);
    cluster.assert_no_panic();
}
