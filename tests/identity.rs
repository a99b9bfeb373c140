//! Directories that are lost, late or foreign: nobody founds an empty cluster beside a living
//! one, nothing acknowledged is lost, and each node says what it waits for.

mod support;

use std::fs;
use std::time::Duration;

use support::cluster::{SOON, TestCluster};
use support::eventually;
use support::wire::Answer;
use support::workload::{Client, Ended};

/// Time in which a write must not be taken.
const A_WHILE: Duration = Duration::from_secs(2);

fn write(cluster: &TestCluster, nodes: &[usize], key: &str, limit: Duration) -> Ended {
    let addresses: Vec<_> = nodes.iter().map(|node| cluster.client(*node)).collect();
    Client::new(&addresses).put(key, "value", limit)
}

fn is_there(cluster: &TestCluster, key: &str) {
    let read = Client::new(cluster.clients()).get(key, SOON);
    assert_eq!(
        read,
        Ended::Answered(Answer::Value("value".into())),
        "{key}"
    );
}

fn takes_nothing(cluster: &TestCluster, nodes: &[usize]) {
    for node in nodes {
        let ended = write(cluster, &[*node], "fork", A_WHILE);
        assert!(
            !matches!(ended, Ended::Answered(_)),
            "node {node}: {ended:?}"
        );
    }
}

fn says(cluster: &TestCluster, node: usize, part: &str) {
    eventually(&format!("node {node} says: {part}"), SOON, || {
        let status = cluster.status(node)?;
        status.notice.contains(part).then_some(())
    });
}

fn lose(cluster: &mut TestCluster, node: usize) {
    cluster.kill(node);
    fs::remove_dir_all(cluster.node_dir(node)).expect("removed");
}

#[test]
fn nodes_that_have_lost_a_majority_of_the_directories_found_no_cluster_beside_the_survivor() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let done = Ended::Answered(Answer::Created);
    assert_eq!(write(&cluster, &[0, 1, 2], "kept", SOON), done);
    let leader = cluster.wait_for_leader(SOON);
    cluster.wait_until_equal(leader, SOON);
    let leader_log = cluster.status(leader).expect("it runs").commit_index;
    cluster.kill(2);
    lose(&mut cluster, 0);
    lose(&mut cluster, 1);
    cluster.start(0);
    cluster.start(1);
    says(&cluster, 0, "waiting to be founded: have 0, 1; missing 2");
    takes_nothing(&cluster, &[0, 1]);
    // With the survivor they know of its cluster, which has no majority of its voters.
    cluster.start(2);
    says(&cluster, 0, "waiting for the leader of the cluster");
    takes_nothing(&cluster, &[0, 1, 2]);
    let kept = cluster.status(2).expect("it runs");
    assert!(
        kept.last_index >= leader_log && !kept.notice.contains("founded"),
        "{kept:?}"
    );
    cluster.assert_alive();
}

#[test]
fn a_lost_founder_founds_nothing_with_a_member_that_starts_for_the_first_time() {
    let mut cluster = TestCluster::prepare(3, &[]);
    cluster.found(0);
    cluster.start(0);
    cluster.start(1);
    let done = Ended::Answered(Answer::Created);
    assert_eq!(write(&cluster, &[0, 1], "kept", SOON), done);
    let leader = cluster.wait_for_leader(SOON);
    cluster.wait_until_equal(leader, SOON);
    cluster.kill(1);
    lose(&mut cluster, 0);
    cluster.start(0);
    cluster.start(2);
    says(&cluster, 2, "waiting to be founded: have 0, 2; missing 1");
    takes_nothing(&cluster, &[0, 2]);
}

#[test]
fn a_lost_voter_is_exchanged_and_then_another_may_be_lost() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let done = Ended::Answered(Answer::Created);
    for round in 0..3 {
        let key = format!("round {round}");
        assert_eq!(write(&cluster, &[0, 1, 2], &key, SOON), done);
        lose(&mut cluster, round);
        cluster.start(round);
        eventually("the new directory votes", SOON, || {
            cluster.status(round)?.may_vote.then_some(())
        });
    }
    (0..3).for_each(|round| is_there(&cluster, &format!("round {round}")));
    cluster.assert_no_panic();
}

#[test]
fn a_cluster_of_one_that_has_lost_its_directory_waits_for_its_operator() {
    let mut cluster = TestCluster::with_leader(1, &[]);
    lose(&mut cluster, 0);
    cluster.start(0);
    says(&cluster, 0, "waiting to be founded");
    takes_nothing(&cluster, &[0]);
    // `--found` is for a new directory, once.
    cluster.kill(0);
    let refused = cluster.command(0).arg("--found").output();
    assert!(
        refused.expect("it runs").status.success(),
        "it is new again"
    );
    let refused = cluster.command(0).arg("--found").output().expect("it runs");
    let line = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{line}");
    assert!(line.contains("--found is for a new directory"), "{line}");
    cluster.start(0);
    let done = Ended::Answered(Answer::Created);
    assert_eq!(write(&cluster, &[0], "key", SOON), done);
}

#[test]
fn two_clusters_that_were_founded_from_one_file_share_nothing_and_say_so() {
    let mut cluster = TestCluster::prepare(3, &[]);
    cluster.found(0);
    cluster.found(1);
    for node in 0..3 {
        cluster.start(node);
    }
    for node in [0, 1] {
        says(&cluster, node, "share nothing");
    }
    // The third belongs to neither, or to the one that reached it first: never to both.
    let births = eventually("both are known", SOON, || {
        let of = |node| Some(cluster.status(node)?.birth);
        let births = [of(0)?, of(1)?];
        (births[0] != 0 && births[1] != 0).then_some(births)
    });
    assert_ne!(births[0], births[1]);
    cluster.assert_alive();
    cluster.assert_no_panic();
}

#[test]
fn rejoin_changes_nothing_where_there_is_nothing_to_rejoin() {
    let mut cluster = TestCluster::start_all(3, &["--rejoin"]);
    let done = Ended::Answered(Answer::Created);
    assert_eq!(write(&cluster, &[0, 1, 2], "key", SOON), done);
    for node in 0..3 {
        cluster.kill(node);
        cluster.start(node);
    }
    is_there(&cluster, "key");
    assert!(!cluster.node_dir(0).join("aside-1").exists());
}
