//! Changes of the members and of the leader on real processes, under load, by `raft_client`.

mod support;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use raftkv::sim::linearizability::{self, STEPS_MAX};
use rustix::process::Signal;
use support::cluster::{SOON, TestCluster};
use support::ports::Ports;
use support::workload::{Ledger, Mix, Workload, assert_all_there};
use support::{eventually, figure, median};

/// `raft_client` on the nodes of a cluster.
fn raft_client(cluster: &TestCluster, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raft_client"));
    for addr in &cluster.clients()[..cluster.len()] {
        command.arg("--addr").arg(addr.to_string());
    }
    command.args(words).output().expect("raft_client runs")
}

/// Asserts that it did what was asked for.
fn done(cluster: &TestCluster, words: &[&str]) -> Duration {
    let begin = Instant::now();
    let output = raft_client(cluster, words);
    assert!(
        output.status.success() && output.stdout == b"success\n",
        "{words:?}: {output:?}"
    );
    begin.elapsed()
}

/// Asserts that it ended with this code, and what it said.
fn ends_with(cluster: &TestCluster, words: &[&str], code: i32) -> String {
    let output = raft_client(cluster, words);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(err)
}

fn add(cluster: &TestCluster, node: usize) -> Duration {
    let (peer, client) = (
        cluster.peer(node).to_string(),
        cluster.client(node).to_string(),
    );
    let words = ["members", "add", &node.to_string(), &peer, &client];
    done(cluster, &words)
}

/// The ids of the voters, as the leader has them.
fn voters(cluster: &TestCluster) -> Vec<u64> {
    let leader = eventually("a leader", SOON, || cluster.leader());
    let status = eventually("its status", SOON, || cluster.status(leader));
    let voters = status.members.iter().filter(|m| m.standing == "voter");
    voters.map(|member| member.id).collect()
}

#[test]
fn a_cluster_grows_shrinks_and_changes_under_load_and_histories_stay_linearizable() {
    let mut cluster = TestCluster::prepare_with_spares(3, 2, &["--snapshot-log-bytes", "65536"]);
    (0..5).for_each(|node| cluster.start(node));
    cluster.wait_for_leader(SOON);
    let mix = Mix {
        clients: 4,
        keys: 8,
        limit: Duration::from_secs(5),
        think: Duration::from_millis(3),
    };
    let workload = Workload::start(cluster.clients(), mix, 7);
    add(&cluster, 3);
    add(&cluster, 4);
    assert_eq!(voters(&cluster), [0, 1, 2, 3, 4]);
    // Whoever knows one node sees all.
    let status = Command::new(env!("CARGO_BIN_EXE_raft_client"))
        .args(["--addr", &cluster.client(0).to_string(), "status", "--json"])
        .output()
        .expect("raft_client runs");
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    for node in cluster.ids() {
        assert!(
            status.contains(&cluster.client(node).to_string()),
            "{status}"
        );
    }
    // Whoever leads goes, and somebody else leads without it.
    let leader = cluster.wait_for_leader(SOON);
    done(&cluster, &["members", "remove", &leader.to_string()]);
    cluster.wait_for_leader_other_than(leader, SOON);
    assert_eq!(voters(&cluster).len(), 4);
    // And comes back, with the log that it has.
    add(&cluster, leader);
    done(&cluster, &["members", "demote", &leader.to_string()]);
    assert_eq!(voters(&cluster).len(), 4);
    done(&cluster, &["members", "promote", &leader.to_string()]);
    assert_eq!(voters(&cluster), [0, 1, 2, 3, 4]);
    for node in [0, 4] {
        cluster.kill(node);
    }
    let before = workload.answered();
    eventually("operations without two of five", SOON, || {
        (workload.answered() > before + 50).then_some(())
    });
    linearizability::check(&workload.stop(), STEPS_MAX).assert_linearizable();
    cluster.assert_no_panic();
}

#[test]
fn a_dead_node_is_replaced_by_one_command_and_nothing_is_lost() {
    let mut cluster = TestCluster::prepare_with_spares(3, 1, &["--snapshot-log-bytes", "65536"]);
    (0..4).for_each(|node| cluster.start(node));
    let leader = cluster.wait_for_leader(SOON);
    let ledger = Ledger::start(cluster.clients(), 2, "kept", SOON);
    ledger.wait_for_more(500, SOON);
    let dead = (0..3).find(|node| *node != leader).expect("a follower");
    cluster.kill(dead);
    let (peer, client) = (cluster.peer(3).to_string(), cluster.client(3).to_string());
    let took = done(
        &cluster,
        &["members", "replace", &dead.to_string(), "3", &peer, &client],
    );
    figure("replace a dead node", format!("{} ms", took.as_millis()));
    assert!(voters(&cluster).contains(&3) && !voters(&cluster).contains(&(dead as u64)));
    // Once more is no error: it is so.
    done(
        &cluster,
        &["members", "replace", &dead.to_string(), "3", &peer, &client],
    );
    // The newcomer counts: with it, another node may be missing.
    let other = (0..3).find(|node| *node != leader && *node != dead);
    cluster.kill(other.expect("the third"));
    ledger.wait_for_more(100, SOON);
    let acknowledged = ledger.stop();
    let leader = cluster.wait_for_leader(SOON);
    assert_all_there(cluster.client(leader), &acknowledged);
    cluster.assert_no_panic();
}

#[test]
fn leadership_goes_where_it_is_told_and_no_request_is_lost() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let ledger = Ledger::start(cluster.clients(), 4, "moved", SOON);
    ledger.wait_for_more(200, SOON);
    let mut times = Vec::new();
    for round in 0..9 {
        let to = round % 3;
        times.push(done(&cluster, &["transfer", &to.to_string()]));
        assert_eq!(cluster.wait_for_leader(SOON), to);
        ledger.wait_for_more(50, SOON);
    }
    figure("transfer", format!("{} ms", median(&times).as_millis()));
    let acknowledged = ledger.stop();
    assert_all_there(cluster.client(2), &acknowledged);
    cluster.assert_no_panic();
}

#[test]
fn a_leader_that_is_stopped_hands_over_first_and_writes_go_on_at_once() {
    let mut gaps = Vec::new();
    let mut cluster = TestCluster::with_leader(3, &[]);
    for _ in 0..5 {
        let leader = cluster.wait_for_leader(SOON);
        let ledger = Ledger::start(cluster.clients(), 2, &format!("stop-{}", gaps.len()), SOON);
        ledger.wait_for_more(100, SOON);
        let begin = Instant::now();
        assert!(cluster.terminate(leader, Signal::TERM).success());
        ledger.wait_for_more(1, SOON);
        gaps.push(begin.elapsed());
        ledger.stop();
        assert!(cluster.log_contains(leader, "hand leadership over"));
        cluster.start_and_wait(leader);
        let other = cluster.wait_for_leader_other_than(leader, SOON);
        cluster.wait_until_equal(other, SOON);
    }
    figure(
        "stop of the leader to its end and the next write",
        format!("{} ms", median(&gaps).as_millis()),
    );
    // Nobody had to wait for an election time-out, which is 150 ms at least.
    assert!(median(&gaps) < Duration::from_millis(150), "{gaps:?}");
    cluster.assert_no_panic();
}

#[test]
fn what_cannot_be_is_refused_with_a_reason_within_its_time() {
    let mut cluster = TestCluster::prepare_with_spares(3, 1, &[]);
    (0..3).for_each(|node| cluster.start(node));
    cluster.wait_for_leader(SOON);
    let (peer, client) = (cluster.peer(3).to_string(), cluster.client(3).to_string());
    let refused = |words: &[&str], part: &str| {
        let said = ends_with(&cluster, words, 1);
        assert!(said.contains(part), "{words:?}: {said}");
    };
    refused(&["members", "remove", "9"], "n9 is not a member");
    refused(&["members", "promote", "9"], "n9 is not a member");
    refused(
        &["members", "add", "1", &peer, &client],
        "n1 is a member already",
    );
    refused(
        &["members", "replace", "8", "3", &peer, &client],
        "n8 is not a member",
    );
    refused(&["transfer", "9"], "n9 is not a voter");
    refused(
        &["members", "add", "--force", "3", "0.0.0.0:7", &client],
        "others have to reach it",
    );
    let wrong: [&[&str]; 5] = [
        &["members", "add", "3"],
        &["members", "add", "3", "nowhere", &client],
        &["members", "explode", "3"],
        &["transfer"],
        &["transfer", "x"],
    ];
    for words in wrong {
        ends_with(&cluster, words, 2);
    }
    // Nobody is there, so it is not added.
    let words = ["--timeout", "1", "members", "add", "3", &peer, &client];
    let output = raft_client(&cluster, &words);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_ne!(output.status.code(), Some(0), "{said}");
    let part = format!("node 3 does not answer at client address {client}");
    assert!(said.contains(&part), "{said}");
    // A configuration names the directory of each member, so the node has to be heard of: the
    // command ends, and says what it waits for.
    let words = [
        "--timeout",
        "2",
        "members",
        "add",
        "--force",
        "3",
        &peer,
        &client,
    ];
    let begin = Instant::now();
    let said = ends_with(&cluster, &words, 3);
    assert!(begin.elapsed() < Duration::from_secs(4));
    assert!(
        said.contains("timed out: n3 has not answered the leader yet"),
        "{said}"
    );
    assert_eq!(voters(&cluster), [0, 1, 2]);
    // Once it is there, the same command goes on where it was.
    cluster.start(3);
    add(&cluster, 3);
    assert_eq!(voters(&cluster), [0, 1, 2, 3]);
    // A node that is gone for good can be removed without its help.
    cluster.kill(3);
    done(&cluster, &["members", "remove", "3"]);
    assert_eq!(voters(&cluster), [0, 1, 2]);
    cluster.assert_no_panic();
}

#[test]
fn members_of_the_log_outlive_a_restart_of_all() {
    let mut cluster = TestCluster::prepare_with_spares(3, 2, &["--snapshot-log-bytes", "65536"]);
    (0..5).for_each(|node| cluster.start(node));
    cluster.wait_for_leader(SOON);
    add(&cluster, 3);
    add(&cluster, 4);
    for node in ["0", "1", "2"] {
        done(&cluster, &["members", "remove", node]);
    }
    // None of the first members is left; what they are named by still names the cluster.
    assert_eq!(voters(&cluster), [3, 4]);
    (0..3).for_each(|node| cluster.kill(node));
    for round in 0..3 {
        let name = format!("later-{round}");
        let ledger = Ledger::start(cluster.clients(), 1, &name, SOON);
        ledger.wait_for_more(20, SOON);
        ledger.stop();
        cluster.kill_all([3, 4]);
        cluster.start(3);
        cluster.start(4);
        let leader = cluster.wait_for_leader(SOON);
        assert!(leader >= 3);
        assert_eq!(voters(&cluster), [3, 4]);
    }
    cluster.assert_no_panic();
}

#[test]
fn a_wrong_client_address_is_refused_and_one_that_was_forced_does_not_keep_clients_from_the_leader()
{
    let mut cluster = TestCluster::prepare_with_spares(3, 1, &[]);
    (0..4).for_each(|node| cluster.start(node));
    cluster.wait_for_leader(SOON);
    let ports = Ports::reserve(1);
    let wrong = ports.addresses()[0].to_string();
    let peer = cluster.peer(3).to_string();
    let said = ends_with(&cluster, &["members", "add", "3", &peer, &wrong], 1);
    assert!(said.contains(&wrong) && said.contains("--force"), "{said}");
    let other = cluster.client(0).to_string();
    let said = ends_with(&cluster, &["members", "add", "3", &peer, &other], 1);
    assert!(said.contains("node 0 answers at client address"), "{said}");
    assert_eq!(voters(&cluster), [0, 1, 2]);

    done(&cluster, &["members", "add", "--force", "3", &peer, &wrong]);
    done(&cluster, &["transfer", "3"]);
    // All followers name the wrong address; the right one is among those that are given.
    done(&cluster, &["update", "k", "v"]);
    done(&cluster, &["transfer", "0"]);
    done(&cluster, &["members", "remove", "3"]);
    assert_eq!(voters(&cluster), [0, 1, 2]);
    cluster.assert_no_panic();
}

#[test]
fn a_node_that_was_removed_says_so_and_asks_for_no_votes_also_after_a_restart() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let leader = cluster.wait_for_leader(SOON);
    let node = (leader + 1) % 3;
    done(&cluster, &["update", "k", "v"]);
    done(&cluster, &["members", "remove", &node.to_string()]);
    let removed = |cluster: &TestCluster| {
        let status = cluster.status(node)?;
        (status.removed && status.snapshots_taken + status.snapshot_index > 0).then_some(status)
    };
    let before = eventually("it says that it is removed", SOON, || removed(&cluster));
    assert!(cluster.log_contains(node, "removed from the cluster"));
    eventually("its removal is in a snapshot", SOON, || {
        (cluster.status(node)?.snapshot_index >= before.members_index).then_some(())
    });
    let until_then = cluster.output(node).len();
    cluster.restart(node);
    let after = eventually("it says so again", SOON, || removed(&cluster));
    assert_eq!((&after.role[..], after.term), ("follower", before.term));
    let printed = cluster.output(node)[until_then..].to_owned();
    assert!(printed.contains("removed from the cluster"), "{printed}");
    assert!(!printed.contains("election timeout"), "{printed}");

    let file = cluster.directory().join("cluster.toml");
    let status = Command::new(env!("CARGO_BIN_EXE_raft_client"))
        .args(["--cluster", file.to_str().expect("a plain path"), "status"])
        .output()
        .expect("raft_client runs");
    let shown = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.status.success(), "{shown}");
    assert!(
        !shown.contains(&cluster.client(node).to_string()),
        "{shown}"
    );
    assert_eq!(
        shown
            .lines()
            .filter(|line| !line.starts_with("node"))
            .count(),
        3,
        "{shown}"
    );
    cluster.assert_no_panic();
}
