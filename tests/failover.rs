//! `kill -9` of the leader, of three, four and all of seven nodes under load; a leader that is paused.
//! Nothing acknowledged is lost, and it goes on soon.

mod support;

use std::time::{Duration, Instant};

use raftkv::pb::{ErrorCode, OperationType};
use support::cluster::{SOON, TestCluster};
use support::wire::{Answer, Connection, new_uuid, request};
use support::workload::{Client, Ended, Ledger, assert_all_there, assert_answered_as_before};
use support::{count, eventually, figure, median};

/// How long a client tries.
const LIMIT: Duration = Duration::from_secs(10);
/// How long any command may take to say that there is no quorum.
const ERROR_LIMIT: Duration = Duration::from_secs(5);
const WRITERS: usize = 4;

/// Waits for an acknowledged write that began after now, and says how long it took.
fn time_to_next_write(cluster: &TestCluster, away: usize) -> Duration {
    let others: Vec<_> = cluster.ids().filter(|n| *n != away).collect();
    let addresses: Vec<_> = others.iter().map(|n| cluster.client(*n)).collect();
    let begin = Instant::now();
    let ended = Client::new(&addresses).put(new_uuid(), "probe", LIMIT);
    assert_eq!(
        ended,
        Ended::Answered(Answer::Created),
        "no write succeeded"
    );
    begin.elapsed()
}

#[test]
fn writes_go_on_soon_after_the_leader_is_killed_and_nothing_is_lost() {
    let mut cluster = TestCluster::with_leader(7, &[]);
    let ledger = Ledger::start(cluster.clients(), WRITERS, "leader", LIMIT);
    let mut took = Vec::new();
    for _ in 0..count("RAFTKV_ROUNDS", 3) {
        ledger.wait_for_more(100, SOON);
        let leader = cluster.wait_for_leader(SOON);
        cluster.kill(leader);
        took.push(time_to_next_write(&cluster, leader));
        // The killed node comes back and catches up while writes go on.
        cluster.start(leader);
        let new_leader = cluster.wait_for_leader(SOON);
        cluster.wait_until_equal(new_leader, SOON);
    }
    let acknowledged = ledger.stop();
    let leader = cluster.wait_for_leader(SOON);
    assert_all_there(cluster.client(leader), &acknowledged);
    figure("failover, median ms", median(&took).as_millis());
    figure("failover, acknowledged writes", acknowledged.len());
    assert!(median(&took) < Duration::from_millis(1_500), "{took:?}");
    cluster.assert_alive();
    cluster.assert_no_panic();
}

/// Any three or four nodes, among them the leader.
fn with_leader(cluster: &TestCluster, leader: usize, how_many: usize) -> Vec<usize> {
    let nodes = cluster.len();
    (0..how_many).map(|step| (leader + step) % nodes).collect()
}

#[test]
fn three_of_seven_may_be_killed_and_nothing_is_lost() {
    let mut cluster = TestCluster::with_leader(7, &[]);
    let ledger = Ledger::start(cluster.clients(), WRITERS, "three", LIMIT);
    ledger.wait_for_more(100, SOON);
    let leader = cluster.wait_for_leader(SOON);
    let killed = with_leader(&cluster, leader, 3);
    cluster.kill_all(killed.clone());
    ledger.wait_for_more(200, SOON);
    for node in killed {
        cluster.start(node);
    }
    ledger.wait_for_more(100, SOON);
    let acknowledged = ledger.stop();
    let leader = cluster.wait_for_leader(SOON);
    cluster.wait_until_equal(leader, SOON);
    assert_all_there(cluster.client(leader), &acknowledged);
    cluster.assert_no_panic();
}

/// Asserts that a node that cannot reach a quorum says so.
fn says_that_it_cannot(cluster: &TestCluster, node: usize, kind: OperationType) {
    let mut connection = Connection::open(cluster.client(node), ERROR_LIMIT).expect("it is there");
    let begin = Instant::now();
    let answer = connection
        .execute(&request(kind, &new_uuid(), "no quorum", "value"))
        .unwrap_or_else(|e| panic!("node {node} did not answer {kind:?} in time: {e}"));
    let clear = match &answer {
        // The leader of before, as long as its followers have not missed it.
        Answer::Redirect(_) => true,
        Answer::Failed(ErrorCode::NoLeader | ErrorCode::OutcomeUnknown, reason) => {
            !reason.is_empty()
        }
        _ => false,
    };
    assert!(clear, "node {node} answered {kind:?} with {answer:?}");
    assert!(begin.elapsed() < ERROR_LIMIT, "{:?}", begin.elapsed());
}

#[test]
fn without_a_quorum_every_command_gets_a_clear_error_until_one_node_is_back() {
    let mut cluster = TestCluster::with_leader(7, &[]);
    let ledger = Ledger::start(cluster.clients(), WRITERS, "four", Duration::from_secs(1));
    ledger.wait_for_more(50, SOON);
    let leader = cluster.wait_for_leader(SOON);
    // The leader stays, with two followers.
    let killed: Vec<usize> = (1..=4).map(|step| (leader + step) % 7).collect();
    cluster.kill_all(killed.clone());
    for kind in [
        OperationType::Get,
        OperationType::Put,
        OperationType::Delete,
    ] {
        for node in cluster.ids().filter(|n| !killed.contains(n)) {
            says_that_it_cannot(&cluster, node, kind);
        }
    }
    eventually("the leader has stepped down", ERROR_LIMIT, || {
        cluster.leader().is_none().then_some(())
    });
    cluster.assert_alive();
    cluster.start(killed[0]);
    ledger.wait_for_more(50, SOON);
    let acknowledged = ledger.stop();
    let leader = cluster.wait_for_leader(SOON);
    assert_all_there(cluster.client(leader), &acknowledged);
    cluster.assert_no_panic();
}

#[test]
fn all_seven_may_be_killed_at_once_and_nothing_acknowledged_is_lost() {
    let mut cluster = TestCluster::with_leader(7, &[]);
    let mut acknowledged = Vec::new();
    for round in 0..count("RAFTKV_KILL_ALL_ROUNDS", 2) {
        // The clients' last writes fail soon, so that the round can end.
        let limit = Duration::from_secs(2);
        let name = format!("all-{round}");
        let ledger = Ledger::start(cluster.clients(), WRITERS, &name, limit);
        ledger.wait_for_more(200, SOON);
        cluster.kill_all(cluster.ids());
        let recent = ledger.stop();
        for node in cluster.ids() {
            cluster.start(node);
        }
        let leader = cluster.wait_for_leader(SOON);
        let first_write = Client::new(cluster.clients()).put(new_uuid(), "probe", LIMIT);
        assert_eq!(
            first_write,
            Ended::Answered(Answer::Created),
            "round {round}"
        );
        // It may have changed with the first write.
        let leader = cluster.leader().unwrap_or(leader);
        let last = &recent[recent.len().saturating_sub(50)..];
        assert_answered_as_before(cluster.client(leader), last);
        acknowledged.extend(recent);
        assert_all_there(cluster.client(leader), &acknowledged);
    }
    figure("kill all, acknowledged writes", acknowledged.len());
    cluster.assert_alive();
    cluster.assert_no_panic();
}

#[test]
fn a_leader_that_was_paused_serves_no_stale_read_when_it_wakes() {
    pause_leaders(&[]);
}

#[test]
fn a_leader_with_a_lease_that_was_paused_serves_no_stale_read_when_it_wakes() {
    pause_leaders(&["--read-lease"]);
}

fn pause_leaders(arguments: &[&str]) {
    let mut cluster = TestCluster::with_leader(3, arguments);
    for round in 0..count("RAFTKV_ROUNDS", 3) {
        let old = cluster.wait_for_leader(SOON);
        let mut client = Client::new(cluster.clients());
        let key = format!("paused {round}");
        let written = client.update(&key, "before", LIMIT);
        assert_eq!(written, Ended::Answered(Answer::Created));
        // Some reads wait in its sockets when it wakes, others come on new connections.
        let mut waiting: Vec<Connection> = (0..8)
            .map(|_| Connection::open(cluster.client(old), LIMIT).expect("it is there"))
            .collect();
        cluster.pause(old);
        cluster.wait_for_leader_other_than(old, SOON);
        let written = client.update(&key, "after", LIMIT);
        assert_eq!(written, Ended::Answered(Answer::Created));
        let get = request(OperationType::Get, &new_uuid(), &key, "");
        for connection in &mut waiting {
            connection.send(1, &get).expect("sent");
        }
        cluster.resume(old);
        let is_not_stale = |answer: Answer| {
            assert_ne!(answer, Answer::Value("before".into()), "round {round}");
            assert_ne!(answer, Answer::NotFound, "round {round}");
        };
        for _ in 0..8 {
            let mut fresh = Connection::open(cluster.client(old), LIMIT).expect("it is there");
            is_not_stale(fresh.execute(&get).expect("an answer"));
        }
        for connection in &mut waiting {
            // A connection may be closed instead, which says nothing stale either.
            if let Ok(answer) = connection.receive(1) {
                is_not_stale(answer);
            }
        }
        let leader = cluster.wait_for_leader(SOON);
        cluster.wait_until_equal(leader, SOON);
    }
    cluster.assert_no_panic();
}
