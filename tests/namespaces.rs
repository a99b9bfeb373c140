//! What concurrent clients see is linearizable while links between real nodes are broken in all
//! ways, nodes are killed, paused and restarted, and after each time writes go on.
//!
//! The links are those of network namespaces, where this process may make them; else, and in a
//! test of its own, they pass through proxies in this process.

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use raftkv::client::{Goal, OperatorError, pursue};
use raftkv::sim::linearizability::{STEPS_MAX, check};
use support::cluster::{SOON, TestCluster};
use support::links::Links;
use support::namespaces::Namespaces;
use support::proxy::Proxies;
use support::workload::{Mix, Workload};
use support::{Random, count, eventually, figure};

/// Small, so that snapshots are taken and sent all the time.
const ARGUMENTS: [&str; 4] = [
    "--snapshot-log-bytes",
    "262144",
    "--snapshot-tail-bytes",
    "65536",
];
const PEER_PORT: u16 = 4396;
const CLIENT_PORT: u16 = 4397;
/// How many answers show that operations go on.
const ANSWERS: u64 = 100;

/// A cluster, its links, and what is done to them.
struct Scenario<'a> {
    cluster: &'a mut TestCluster,
    links: &'a mut dyn Links,
    random: &'a mut Random,
    /// Whether members change, too.
    changes_members: bool,
}

impl Scenario<'_> {
    fn any(&mut self) -> usize {
        self.random.below(self.cluster.len() as u64) as usize
    }

    /// A leader, or any node if none is known.
    fn leader(&mut self) -> usize {
        self.cluster.leader().unwrap_or_else(|| self.any())
    }

    /// Breaks something, lets a while pass, and mends it.
    fn disturb(&mut self) {
        let (leader, other) = (self.leader(), self.any());
        let others = self.cluster.ids().filter(|node| *node != leader);
        // Longer than an election time-out, mostly.
        let duration = Duration::from_millis(100 + self.random.below(900));
        match self.random.below(if self.changes_members { 10 } else { 8 }) {
            0 => self.links.cut_off(leader),
            1 => self.part(leader),
            // It is heard and hears nobody; or the other way round.
            2 => others.for_each(|node| self.links.lose(node, leader)),
            3 => others.for_each(|node| self.links.lose(leader, node)),
            4 => self.part_in_part(),
            5 => {
                self.part(leader);
                self.cluster.restart(other);
            }
            6 => {
                self.links.cut_off(other);
                self.cluster.pause(leader);
                std::thread::sleep(duration);
                self.cluster.resume(leader);
            }
            8 => return self.demote_for_a_while(leader, other),
            9 => return self.remove_for_a_while(other),
            _ => {
                self.links.lose(other, leader);
                self.cluster.kill(leader);
                std::thread::sleep(duration);
                self.cluster.start(leader);
            }
        }
        std::thread::sleep(duration);
        self.links.heal();
    }

    /// A voter learns for a while, though the leader is heard badly when that is asked for.
    fn demote_for_a_while(&mut self, leader: usize, node: usize) {
        self.links.lose(leader, (leader + 1) % self.cluster.len());
        // It may be too late when links are mended: then it is not so, and no harm done.
        let _ = self.pursue(&Goal::Demote(node as u64), Duration::from_secs(2));
        self.links.heal();
        let promoted = self.pursue(&Goal::Promote(node as u64), SOON);
        promoted.unwrap_or_else(|error| panic!("promote {node}: {error}"));
    }

    /// A node dies, is removed, comes back, and is added again.
    fn remove_for_a_while(&mut self, node: usize) {
        self.cluster.kill(node);
        let removed = self.pursue(&Goal::Remove(node as u64), SOON);
        removed.unwrap_or_else(|error| panic!("remove {node}: {error}"));
        self.cluster.start(node);
        let goal = Goal::Add {
            id: node as u64,
            peer: self.cluster.peer(node),
            client: self.cluster.client(node),
            learner: false,
            force: false,
        };
        let added = self.pursue(&goal, SOON);
        added.unwrap_or_else(|error| panic!("add {node}: {error}"));
    }

    fn pursue(&self, goal: &Goal, limit: Duration) -> Result<(), OperatorError> {
        pursue(self.cluster.clients(), goal, limit, |_| ())
    }

    /// The leader and less than half of the nodes on one side, the others on the other.
    fn part(&mut self, leader: usize) {
        let nodes = self.cluster.len();
        let first = self.random.below(nodes as u64) as usize;
        let near: Vec<usize> = (0..nodes / 2 - 1).map(|i| (first + i) % nodes).collect();
        let side = |node: usize| node == leader || near.contains(&node);
        for (from, to) in pairs(nodes).filter(|(from, to)| side(*from) != side(*to)) {
            self.links.lose(from, to);
        }
    }

    /// Everybody loses all but its neighbours on a ring.
    fn part_in_part(&mut self) {
        let nodes = self.cluster.len();
        for (from, to) in pairs(nodes) {
            let apart = from.abs_diff(to);
            if apart != 1 && apart != nodes - 1 {
                self.links.lose(from, to);
            }
        }
    }

    /// Disturbs the cluster for so long while clients are at work, and judges what they saw.
    fn run(&mut self, name: &str, clients: &[SocketAddr], length: Duration) {
        let mix = Mix {
            clients: 16,
            keys: 8,
            limit: Duration::from_secs(3),
            think: Duration::from_millis(4),
        };
        let workload = Workload::start(clients, mix, self.random.below(1 << 30));
        let first_term = self.term();
        let begin = Instant::now();
        let mut recoveries = Vec::new();
        while begin.elapsed() < length {
            self.disturb();
            let healed = Instant::now();
            let goal = workload.answered() + ANSWERS;
            eventually("operations go on after links were mended", SOON, || {
                (workload.answered() >= goal).then_some(())
            });
            recoveries.push(healed.elapsed());
            self.cluster.assert_alive();
        }
        let leader = self.cluster.wait_for_leader(SOON);
        let history = workload.stop();
        self.cluster.wait_until_equal(leader, SOON);
        let unknown = history.iter().filter(|o| o.returned.is_none()).count();
        let slowest = recoveries.iter().max().expect("at least one");
        figure(&format!("{name}, operations"), history.len());
        figure(&format!("{name}, without an answer"), unknown);
        figure(&format!("{name}, disturbances"), recoveries.len());
        figure(
            &format!("{name}, slowest {ANSWERS} answers after one, ms"),
            slowest.as_millis(),
        );
        check(&history, STEPS_MAX).assert_linearizable();
        self.cluster.assert_no_panic();
        assert!(history.len() as u64 > ANSWERS);
        assert!(
            self.term() > first_term,
            "what was done to links and nodes has cost nobody the leadership"
        );
    }

    fn term(&mut self) -> u64 {
        let leader = self.cluster.wait_for_leader(SOON);
        eventually("the leader's status", SOON, || self.cluster.status(leader)).term
    }
}

fn pairs(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..nodes).flat_map(move |from| {
        let others = (0..nodes).filter(move |to| *to != from);
        others.map(move |to| (from, to))
    })
}

fn run_in_namespaces(mut namespaces: Namespaces, nodes: usize, random: &mut Random) {
    let at = |port| move |node| (node, port);
    let address = |(node, port)| namespaces.address(node, port);
    let peers: Vec<SocketAddr> = (0..nodes).map(at(PEER_PORT)).map(address).collect();
    let clients: Vec<SocketAddr> = (0..nodes).map(at(CLIENT_PORT)).map(address).collect();
    let mut cluster = TestCluster::prepare_at(&peers, &clients, peers.len(), &ARGUMENTS);
    cluster.wrap(&namespaces.wrapper().each_ref().map(String::as_str));
    for node in cluster.ids() {
        cluster.start(node);
    }
    cluster.wait_for_leader(SOON);
    let length = Duration::from_secs(count("RAFTKV_SECONDS", 20));
    let mut scenario = Scenario {
        cluster: &mut cluster,
        links: &mut namespaces,
        random,
        changes_members: true,
    };
    scenario.run("namespaces", &clients, length);
}

fn run_through_proxies(nodes: usize, length: Duration, random: &mut Random) {
    let mut cluster = TestCluster::prepare(nodes, &ARGUMENTS);
    let peers: Vec<SocketAddr> = cluster.ids().map(|node| cluster.peer(node)).collect();
    let mut proxies = Proxies::start(&peers, cluster.clients());
    for node in cluster.ids() {
        cluster.set_cluster_file(node, proxies.file(node));
        cluster.start(node);
    }
    cluster.wait_for_leader(SOON);
    let clients = proxies.clients();
    let mut scenario = Scenario {
        cluster: &mut cluster,
        links: &mut proxies,
        random,
        changes_members: false,
    };
    scenario.run("proxies", &clients, length);
}

#[test]
fn histories_over_broken_links_between_machines_are_linearizable() {
    let mut random = Random::from_environment();
    let nodes = 3 + 2 * random.below(3) as usize;
    figure("namespaces, nodes", nodes);
    // The network of a thread is left with it.
    let in_a_network_of_its_own = || {
        let laid_out = Namespaces::lay_out(nodes);
        match laid_out.and_then(|namespaces| namespaces.enter_hub().map(|()| namespaces)) {
            Ok(namespaces) => run_in_namespaces(namespaces, nodes, &mut random),
            Err(reason) => {
                println!("skipped: network namespaces: {reason}");
                let length = Duration::from_secs(count("RAFTKV_SECONDS", 20));
                run_through_proxies(nodes, length, &mut random);
            }
        }
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(in_a_network_of_its_own);
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn histories_over_broken_links_through_proxies_are_linearizable() {
    let mut random = Random::from_environment();
    run_through_proxies(3, Duration::from_secs(6), &mut random);
}

#[test]
fn a_cluster_serves_over_slow_links_and_after_all_its_connections_broke() {
    let mut cluster = TestCluster::prepare(3, &ARGUMENTS);
    let peers: Vec<SocketAddr> = cluster.ids().map(|node| cluster.peer(node)).collect();
    let mut proxies = Proxies::start(&peers, cluster.clients());
    for node in cluster.ids() {
        cluster.set_cluster_file(node, proxies.file(node));
        cluster.start(node);
    }
    cluster.wait_for_leader(SOON);
    let mix = Mix {
        clients: 8,
        keys: 4,
        limit: Duration::from_secs(3),
        think: Duration::from_millis(4),
    };
    let workload = Workload::start(&proxies.clients(), mix, 5);
    let goes_on = |what: &str| {
        let goal = workload.answered() + ANSWERS;
        eventually(what, SOON, || (workload.answered() >= goal).then_some(()));
    };
    proxies.delay(Duration::from_millis(10));
    goes_on("operations go on over links with a delay");
    proxies.heal();
    proxies.throttle(200_000);
    goes_on("operations go on over slow links");
    proxies.heal();
    for _ in 0..3 {
        proxies.break_connections();
        goes_on("operations go on after all connections broke");
    }
    check(&workload.stop(), STEPS_MAX).assert_linearizable();
    cluster.assert_alive();
    cluster.assert_no_panic();
}
