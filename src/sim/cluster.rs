//! Nodes, disks, crashes, and the queue of what happens next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::disk::SimDisk;
use crate::node::{Answer, Caller, Hello, HelloReply, Node, Request};
use crate::raft::Message;
use crate::sim::clients::{Client, Next};
use crate::sim::invariants::Checker;
use crate::sim::linearizability::{self, Operation, STEPS_MAX};
use crate::sim::network::{Network, draw_delay};
use crate::sim::plan::Plan;
use crate::time::Time;

/// How long the quiet phase may take until all nodes agree.
const CONVERGENCE: Duration = Duration::from_secs(60);
/// How long a client waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(700);

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Members of the cluster.
    pub nodes: u64,
    /// Entries that were committed.
    pub committed: u64,
    /// Terms that had a leader.
    pub leaders: usize,
    /// Operations that clients were answered, or gave up.
    pub operations: usize,
    /// Crashes and kills.
    pub crashes: u64,
    /// Data directories that were lost.
    pub lost: u64,
    /// Snapshots that were received and installed.
    pub installed: u64,
    /// Steps of the simulation.
    pub steps: u64,
    /// Virtual time.
    pub time: Duration,
}

/// Something on its way between two nodes.
#[derive(Clone, Debug)]
pub(super) enum Packet {
    Message(Message),
    Hello(Hello),
    HelloReply(HelloReply),
}

/// Something that happens at a time.
#[derive(Debug)]
pub(super) enum Event {
    Packet {
        from: u64,
        from_life: u64,
        to: u64,
        packet: Packet,
    },
    Disk(u64, u64),
    Flush(u64, u64),
    Tick(u64, u64),
    /// A node dials another, until it has been accepted.
    Dial(u64, u64, u64),
    Request {
        client: usize,
        attempt: u64,
        to: u64,
        request: Request,
    },
    Answer {
        client: usize,
        attempt: u64,
        answer: Answer,
    },
    TimeOut(usize, u64),
    Wake(usize),
    Send(usize),
    Restart(u64),
    Resume(u64),
    Fault,
    Heal,
}

struct Queued {
    at: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Queued) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Queued) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Queued) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// One place for a node, over all its lives.
pub(super) struct Place {
    pub(super) life: u64,
    /// Names its data directory; a lost one is followed by another.
    pub(super) incarnation: u64,
    pub(super) state: State,
    /// What has come for a paused node.
    pub(super) held: Vec<Event>,
    pub(super) paused: bool,
    pub(super) disk_queued: bool,
    pub(super) flush_queued: bool,
    pub(super) tick_at: Time,
    /// The lives of the peers whose introduction it has accepted.
    pub(super) accepted: BTreeMap<u64, u64>,
    /// The peers that have accepted its own.
    pub(super) ready: BTreeSet<u64>,
}

pub(super) enum State {
    Up(Box<Node<SimDisk>>),
    Down(SimDisk),
    /// Only while a node is taken apart.
    Gone,
}

pub(super) struct Simulation {
    pub(super) plan: Plan,
    pub(super) rng: StdRng,
    pub(super) now: Time,
    queue: BinaryHeap<Reverse<Queued>>,
    pub(super) order: u64,
    pub(super) places: Vec<Place>,
    pub(super) network: Network,
    pub(super) clients: Vec<Client>,
    pub(super) history: Vec<Operation>,
    pub(super) checker: Checker,
    pub(super) report: Report,
    /// Whether faults go on.
    pub(super) turmoil: bool,
}

/// Runs one seed to its end.
///
/// # Panics
/// On a finding: an invariant is broken, a history is not linearizable, or the cluster
/// does not converge once the faults have stopped.
pub fn run(seed: u64) -> Report {
    let plan = Plan::draw(seed);
    let places = (0..plan.nodes).map(|id| Place {
        life: 0,
        incarnation: 1000 + id,
        state: State::Down(SimDisk::new()),
        held: Vec::new(),
        paused: false,
        disk_queued: false,
        flush_queued: false,
        tick_at: Time::NEVER,
        accepted: BTreeMap::new(),
        ready: BTreeSet::new(),
    });
    let mut simulation = Simulation {
        rng: StdRng::seed_from_u64(seed),
        now: Time::from_millis(1),
        queue: BinaryHeap::new(),
        order: 0,
        places: places.collect(),
        network: Network::new(plan.loss, plan.repeat, plan.delay),
        clients: (0..plan.clients).map(Client::new).collect(),
        history: Vec::new(),
        checker: Checker::default(),
        report: Report {
            nodes: plan.nodes,
            ..Report::default()
        },
        turmoil: true,
        plan,
    };
    simulation.run_to_end();
    simulation.report
}

impl Simulation {
    fn run_to_end(&mut self) {
        for id in 0..self.plan.nodes {
            self.after(Duration::ZERO, Event::Restart(id));
        }
        for client in 0..self.clients.len() {
            self.after(Duration::from_millis(300), Event::Wake(client));
        }
        if !self.plan.fault_every.is_zero() {
            self.after(Duration::from_millis(500), Event::Fault);
        }
        let calm_at = self.now + self.plan.turmoil;
        while self.now < calm_at && self.step() {}
        self.calm();
        let deadline = self.now + CONVERGENCE;
        while !self.has_converged() {
            assert!(
                self.now < deadline,
                "no agreement in time after the faults: {}",
                self.describe()
            );
            assert!(self.step(), "nothing happens any more: {}", self.describe());
        }
        self.judge();
    }

    /// Faults stop: all is mended, everyone is up.
    fn calm(&mut self) {
        self.turmoil = false;
        self.network.calm();
        self.plan.disk_delay = self.plan.disk_delay.min(Duration::from_millis(1));
        for id in 0..self.plan.nodes {
            self.resume(id);
            if matches!(self.places[id as usize].state, State::Down(_)) {
                self.after(Duration::ZERO, Event::Restart(id));
            }
        }
    }

    fn has_converged(&self) -> bool {
        let mut applied = None;
        self.clients.iter().all(|client| !client.is_busy())
            && self.places.iter().any(|place| {
                place
                    .node()
                    .is_some_and(|node| node.raft().is_leader() && node.applied().0 > 0)
            })
            && self.places.iter().all(|place| {
                place.node().is_some_and(|node| {
                    let same = *applied.get_or_insert(node.applied()) == node.applied();
                    same && node.raft().may_vote()
                        && node.applied() == node.raft().log().last().index
                })
            })
    }

    fn judge(&mut self) {
        for place in &self.places {
            self.checker
                .check_state(place.node().expect("all nodes are up"));
        }
        for client in std::mem::take(&mut self.clients) {
            client.finish(&mut self.history);
        }
        self.report.operations = self.history.len();
        self.report.committed = self.checker.committed();
        self.report.leaders = self.checker.leaders();
        self.report.time = self.now.since(Time::ZERO);
        linearizability::check(&self.history, STEPS_MAX).assert_linearizable();
    }

    fn describe(&self) -> String {
        let nodes = self.places.iter().map(|place| match &place.state {
            State::Up(node) => {
                let status = node.status(self.now);
                format!(
                    "{} {} t{} commit={} applied={} log={}..{} peers={:?}",
                    status.id,
                    status.role.as_str(),
                    status.term,
                    status.commit_index,
                    status.applied_index,
                    status.first_index,
                    status.last_index,
                    status.peers
                )
            }
            _ => "down".to_owned(),
        });
        nodes.collect::<Vec<_>>().join("; ")
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(super) fn at(&mut self, at: Time, event: Event) {
        self.order += 1;
        let order = self.order;
        self.queue.push(Reverse(Queued { at, order, event }));
    }

    /// Lets the next thing happen; returns whether there was one.
    fn step(&mut self) -> bool {
        let Some(Reverse(Queued { at, event, .. })) = self.queue.pop() else {
            return false;
        };
        self.now = self.now.max(at);
        self.report.steps += 1;
        self.happen(event);
        true
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Packet { to, .. } | Event::Request { to, .. }
                if self.places[to as usize].paused =>
            {
                self.places[to as usize].held.push(event);
            }
            Event::Disk(id, _) | Event::Flush(id, _) | Event::Tick(id, _)
                if self.places[id as usize].paused =>
            {
                self.places[id as usize].held.push(event);
            }
            Event::Packet {
                from,
                from_life,
                to,
                packet,
            } => self.deliver(from, from_life, to, packet),
            Event::Disk(id, life) => self.complete_disk(id, life),
            Event::Flush(id, life) => self.flush(id, life),
            Event::Tick(id, life) => self.tick(id, life),
            Event::Dial(from, life, to) => self.dial(from, life, to),
            Event::Request {
                client,
                attempt,
                to,
                request,
            } => self.take_request(client, attempt, to, request),
            Event::Answer {
                client,
                attempt,
                answer,
            } => {
                let (now, nodes) = (self.now, self.plan.nodes);
                let next = self.clients[client].take_answer(
                    now,
                    attempt,
                    answer,
                    nodes,
                    &mut self.rng,
                    &mut self.history,
                );
                self.go_on(client, next);
            }
            Event::TimeOut(client, attempt) => {
                let (now, nodes) = (self.now, self.plan.nodes);
                let next = self.clients[client].time_out(
                    now,
                    attempt,
                    nodes,
                    &mut self.rng,
                    &mut self.history,
                );
                self.go_on(client, next);
            }
            Event::Wake(client) => {
                if self.turmoil {
                    self.clients[client].begin(self.now, &self.plan, &mut self.rng);
                    self.send_request(client);
                }
            }
            Event::Send(client) => self.send_request(client),
            Event::Restart(id) => self.restart(id),
            Event::Resume(id) => self.resume(id),
            Event::Fault => self.fault(),
            Event::Heal => self.network.heal(),
        }
    }

    fn go_on(&mut self, client: usize, next: Next) {
        match next {
            Next::Rest => {
                let think = draw_delay(&mut self.rng, self.plan.think);
                self.after(think, Event::Wake(client));
            }
            Next::Again => {
                let pause = draw_delay(&mut self.rng, Duration::from_millis(20));
                self.after(pause, Event::Send(client));
            }
            Next::Ignore => {}
        }
    }

    fn send_request(&mut self, client: usize) {
        let to = self.clients[client].target % self.plan.nodes;
        let Some((attempt, request)) = self.clients[client].attempt() else {
            return;
        };
        let outside = self.plan.nodes; // The network does not partition clients.
        if let Some(delay) = self
            .network
            .deliveries(&mut self.rng, outside, to)
            .into_iter()
            .next()
        {
            let event = Event::Request {
                client,
                attempt,
                to,
                request,
            };
            self.after(delay, event);
        }
        self.after(ANSWER_TIMEOUT, Event::TimeOut(client, attempt));
    }

    fn take_request(&mut self, client: usize, attempt: u64, to: u64, request: Request) {
        let caller = Caller {
            reactor: client as u32,
            connection: self.places[to as usize].life,
            sequence: attempt,
        };
        let now = self.now;
        if let Some(node) = self.places[to as usize].node_mut() {
            node.handle_client(now, caller, request);
            self.queue_flush(to);
        }
    }
}

impl Place {
    pub(super) fn node(&self) -> Option<&Node<SimDisk>> {
        match &self.state {
            State::Up(node) => Some(node),
            _ => None,
        }
    }

    pub(super) fn node_mut(&mut self) -> Option<&mut Node<SimDisk>> {
        match &mut self.state {
            State::Up(node) => Some(node),
            _ => None,
        }
    }
}
