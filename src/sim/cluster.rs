//! Nodes, disks, crashes, and the queue of what happens next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use crate::disk::SimDisk;
use crate::mem::Buffer;
use crate::net::envelope::decode_envelope;
use crate::net::frame::FrameDecoder;
use crate::node::{Answer, Caller, Hello, HelloReply, Node, NodeConfig, Outputs, Request};
use crate::proto;
use crate::raft::Message;
use crate::sim::clients::{Client, Next};
use crate::sim::invariants::Checker;
use crate::sim::linearizability::{self, Operation, STEPS_MAX};
use crate::sim::network::{Network, draw_delay};
use crate::sim::plan::Plan;
use crate::time::Time;
use crate::types::NodeId;

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
enum Packet {
    Message(Message),
    Hello(Hello),
    HelloReply(HelloReply),
}

/// Something that happens at a time.
#[derive(Debug)]
enum Event {
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
struct Place {
    life: u64,
    /// Names its data directory; a lost one is followed by another.
    incarnation: u64,
    state: State,
    /// What has come for a paused node.
    held: Vec<Event>,
    paused: bool,
    disk_queued: bool,
    flush_queued: bool,
    tick_at: Time,
    /// The lives of the peers whose introduction it has accepted.
    accepted: BTreeMap<u64, u64>,
    /// The peers that have accepted its own.
    ready: BTreeSet<u64>,
}

enum State {
    Up(Box<Node<SimDisk>>),
    Down(SimDisk),
    /// Only while a node is taken apart.
    Gone,
}

struct Simulation {
    plan: Plan,
    rng: StdRng,
    now: Time,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    places: Vec<Place>,
    network: Network,
    clients: Vec<Client>,
    history: Vec<Operation>,
    checker: Checker,
    report: Report,
    /// Whether faults go on.
    turmoil: bool,
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
                let status = node.status();
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

    fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    fn at(&mut self, at: Time, event: Event) {
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

    fn happen(&mut self, event: Event) {
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

    // Clients.

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
        if let Some(node) = self.places[to as usize].node_mut() {
            node.handle_client(caller, request);
            self.queue_flush(to);
        }
    }

    // Nodes.

    fn queue_flush(&mut self, id: u64) {
        let place = &mut self.places[id as usize];
        if !std::mem::replace(&mut place.flush_queued, true) {
            let life = place.life;
            // What comes in meanwhile is in the same batch.
            let delay = Duration::from_micros(self.rng.random_range(0..200));
            self.after(delay, Event::Flush(id, life));
        }
    }

    fn flush(&mut self, id: u64, life: u64) {
        let place = &mut self.places[id as usize];
        if place.life != life {
            return;
        }
        place.flush_queued = false;
        let now = self.now;
        let Some(node) = place.node_mut() else { return };
        node.flush(now);
        if let Some(why) = node.failure() {
            panic!("node {id} gave up: {why}");
        }
        let outputs = std::mem::take(node.outputs());
        self.checker
            .check_node(self.places[id as usize].node().expect("it is up"));
        self.send_out(id, outputs);
        self.schedule(id);
    }

    fn send_out(&mut self, id: u64, outputs: Outputs) {
        let Outputs {
            messages,
            answers,
            hellos,
        } = outputs;
        let life = self.places[id as usize].life;
        for message in messages {
            self.checker.check_message(&message);
            let to = message.to.0;
            // A request needs a connection that we dialled, an answer one that it dialled.
            let place = &self.places[id as usize];
            let connected = if message.body.is_request() {
                place.ready.contains(&to)
            } else {
                place.accepted.contains_key(&to)
            };
            if connected {
                let message = through_the_wire(message);
                self.send(id, life, to, Packet::Message(message));
            }
        }
        for (caller, reply) in hellos {
            let to = reply.to.0;
            if reply.refused.is_none() {
                self.places[id as usize]
                    .accepted
                    .insert(to, caller.connection);
            }
            self.send(id, life, to, Packet::HelloReply(reply));
        }
        for (caller, answer) in answers {
            if caller.connection == life {
                let (client, attempt) = (caller.reactor as usize, caller.sequence);
                let outside = self.plan.nodes;
                let delays = self.network.deliveries(&mut self.rng, id, outside);
                if let Some(delay) = delays.into_iter().next() {
                    self.after(
                        delay,
                        Event::Answer {
                            client,
                            attempt,
                            answer,
                        },
                    );
                }
            }
        }
    }

    fn send(&mut self, from: u64, from_life: u64, to: u64, packet: Packet) {
        for delay in self.network.deliveries(&mut self.rng, from, to) {
            let packet = packet.clone();
            self.after(
                delay,
                Event::Packet {
                    from,
                    from_life,
                    to,
                    packet,
                },
            );
        }
    }

    /// Sees to it that the node gets its time and its disk's completions.
    fn schedule(&mut self, id: u64) {
        let now = self.now;
        let place = &mut self.places[id as usize];
        let life = place.life;
        let State::Up(node) = &mut place.state else {
            return;
        };
        let due = node.next_deadline(now).max(now + Duration::from_micros(20));
        let pending = node.disk().pending();
        if due < place.tick_at && due != Time::NEVER {
            place.tick_at = due;
            self.at(due, Event::Tick(id, life));
        }
        if pending && !std::mem::replace(&mut self.places[id as usize].disk_queued, true) {
            let delay = draw_delay(&mut self.rng, self.plan.disk_delay);
            self.after(delay, Event::Disk(id, life));
        }
    }

    fn tick(&mut self, id: u64, life: u64) {
        let now = self.now;
        let place = &mut self.places[id as usize];
        if place.life != life {
            return;
        }
        place.tick_at = Time::NEVER;
        if let Some(node) = place.node_mut() {
            if now >= node.next_deadline(now) {
                node.tick(now);
            }
            self.flush(id, life);
        }
    }

    fn complete_disk(&mut self, id: u64, life: u64) {
        let (now, syncs, background) = (
            self.now,
            self.rng.random_range(1..4),
            self.rng.random_bool(0.5),
        );
        let place = &mut self.places[id as usize];
        if place.life != life {
            return;
        }
        place.disk_queued = false;
        let Some(node) = place.node_mut() else { return };
        let disk = node.disk();
        let event = if background && disk.pending_background() > 0 || disk.pending_syncs() == 0 {
            disk.step_background()
        } else {
            disk.complete_syncs(syncs)
        };
        if let Some(event) = event {
            node.handle_disk(now, event);
            self.queue_flush(id);
        }
        self.schedule(id);
    }

    fn dial(&mut self, from: u64, life: u64, to: u64) {
        let place = &mut self.places[from as usize];
        if place.life != life || place.ready.contains(&to) {
            return;
        }
        let paused = place.paused;
        if let Some(node) = place.node_mut()
            && !paused
        {
            node.handle_reconnect(NodeId(to));
            let hello = node.hello(NodeId(to));
            self.send(from, life, to, Packet::Hello(hello));
        }
        let again = draw_delay(&mut self.rng, Duration::from_millis(150));
        self.after(again, Event::Dial(from, life, to));
    }

    fn deliver(&mut self, from: u64, from_life: u64, to: u64, packet: Packet) {
        let now = self.now;
        // A connection ends with the life of the node at its other end.
        if self.places[from as usize].life != from_life {
            return;
        }
        let place = &mut self.places[to as usize];
        let accepted = place.accepted.get(&from) == Some(&from_life);
        let ready = place.ready.contains(&from);
        let State::Up(node) = &mut place.state else {
            return;
        };
        match packet {
            Packet::Message(message) => {
                let connected = if message.body.is_request() {
                    accepted
                } else {
                    ready
                };
                if connected {
                    node.handle_peer(now, message);
                }
            }
            Packet::Hello(hello) => {
                let caller = Caller {
                    reactor: 0,
                    connection: from_life,
                    sequence: 0,
                };
                node.handle_hello(now, caller, hello);
            }
            Packet::HelloReply(reply) => {
                if reply.refused.is_none() {
                    place.ready.insert(from);
                }
                node.handle_hello_reply(now, NodeId(from), reply);
            }
        }
        self.queue_flush(to);
    }

    // Faults.

    fn restart(&mut self, id: u64) {
        let place = &mut self.places[id as usize];
        if !matches!(place.state, State::Down(_)) {
            return;
        }
        let State::Down(disk) = std::mem::replace(&mut place.state, State::Gone) else {
            unreachable!("just looked")
        };
        let config = self.config(id);
        let (node, _) = Node::open(config, disk, self.now)
            .unwrap_or_else(|error| panic!("node {id} does not come back: {error}"));
        self.checker.check_restart(&node);
        let place = &mut self.places[id as usize];
        place.state = State::Up(Box::new(node));
        let life = place.life;
        for peer in (0..self.plan.nodes).filter(|peer| *peer != id) {
            let delay = draw_delay(&mut self.rng, Duration::from_millis(2));
            self.after(delay, Event::Dial(id, life, peer));
            // The others have lost their connection to it, and dial anew.
            let other = &mut self.places[peer as usize];
            if other.node().is_some() {
                other.ready.remove(&id);
                let life = other.life;
                self.after(delay, Event::Dial(peer, life, id));
            }
        }
        self.queue_flush(id);
    }

    fn config(&mut self, id: u64) -> NodeConfig {
        let plan = &self.plan;
        NodeConfig {
            id: NodeId(id),
            members: (0..plan.nodes).map(NodeId).collect(),
            cluster_id: 42,
            incarnation: self.places[id as usize].incarnation,
            election_timeout: (Duration::from_millis(150), Duration::from_millis(300)),
            heartbeat: Duration::from_millis(50),
            seed: self.rng.next_u64(),
            segment_bytes: plan.segment_bytes,
            first_segment_bytes: 32 << 10,
            snapshot_log_bytes: plan.snapshot_log_bytes,
            snapshot_tail_bytes: plan.snapshot_tail_bytes,
            snapshot_hold_bytes: 1 << 20,
            session_limits: plan.session_limits,
        }
    }

    /// A node dies; with the power, its disk loses what was not synced.
    fn crash(&mut self, id: u64, power: bool) {
        let place = &mut self.places[id as usize];
        if place.node().is_none() {
            return;
        }
        let State::Up(node) = std::mem::replace(&mut place.state, State::Gone) else {
            unreachable!("just looked")
        };
        self.report.crashes += 1;
        self.report.installed += node.status().snapshots_installed;
        let mut disk = node.into_disk();
        if power {
            let rng = &mut self.rng;
            disk.crash(&mut || rng.next_u64());
        } else {
            disk.crash(&mut || 1);
        }
        let place = &mut self.places[id as usize];
        place.life += 1;
        place.state = State::Down(disk);
        place.held.clear();
        place.paused = false;
        place.disk_queued = false;
        place.flush_queued = false;
        place.tick_at = Time::NEVER;
        place.accepted.clear();
        place.ready.clear();
        for other in &mut self.places {
            other.ready.remove(&id);
        }
    }

    /// A node comes back with nothing. One at a time, and only while all others have
    /// what they promised: no store survives the loss of a majority of its disks.
    fn lose_directory(&mut self, id: u64, time: Duration) {
        let intact = |place: &Place| place.node().is_some_and(|node| node.raft().may_vote());
        if self.plan.nodes < 3 || !self.places.iter().all(intact) {
            return;
        }
        self.crash(id, true);
        let place = &mut self.places[id as usize];
        place.state = State::Down(SimDisk::new());
        place.incarnation += 1000;
        self.report.lost += 1;
        self.checker.forget(NodeId(id));
        self.after(time, Event::Restart(id));
    }

    fn pause(&mut self, id: u64, time: Duration) {
        if self.places[id as usize].node().is_some() {
            self.places[id as usize].paused = true;
            self.after(time, Event::Resume(id));
        }
    }

    fn resume(&mut self, id: u64) {
        let place = &mut self.places[id as usize];
        place.paused = false;
        for event in std::mem::take(&mut place.held) {
            self.happen(event);
        }
    }

    fn fault(&mut self) {
        if !self.turmoil {
            return;
        }
        let pause = draw_delay(&mut self.rng, self.plan.fault_every);
        self.after(pause, Event::Fault);
        let id = self.rng.random_range(0..self.plan.nodes);
        let time = draw_delay(&mut self.rng, Duration::from_millis(500));
        match self.rng.random_range(0..9) {
            0..3 => {
                let power = self.rng.random_bool(0.7);
                self.crash(id, power);
                self.after(time, Event::Restart(id));
            }
            3 => {
                // Everyone at once: the power is gone.
                for id in 0..self.plan.nodes {
                    self.crash(id, true);
                    let time = draw_delay(&mut self.rng, Duration::from_millis(100));
                    self.after(time, Event::Restart(id));
                }
            }
            4 => self.pause(id, time),
            8 => self.lose_directory(id, time),
            5 => {
                self.partition();
                self.after(time * 2, Event::Heal);
            }
            6 => {
                // Half deaf: it hears nobody, or nobody hears it.
                let deaf = self.rng.random_bool(0.5);
                for other in (0..self.plan.nodes).filter(|other| *other != id) {
                    let (from, to) = if deaf { (other, id) } else { (id, other) };
                    self.network.cut(from, to);
                }
                self.after(time * 2, Event::Heal);
            }
            _ => {
                // The leader, cut off from some.
                let leader = self
                    .places
                    .iter()
                    .position(|place| place.node().is_some_and(|node| node.raft().is_leader()));
                let leader = leader.map_or(id, |leader| leader as u64);
                for other in 0..self.plan.nodes {
                    if other != leader && self.rng.random_bool(0.6) {
                        self.network.cut(leader, other);
                        self.network.cut(other, leader);
                    }
                }
                self.after(time * 2, Event::Heal);
            }
        }
    }

    fn partition(&mut self) {
        let nodes = self.plan.nodes;
        let sides: Vec<bool> = (0..nodes).map(|_| self.rng.random_bool(0.5)).collect();
        for from in 0..nodes {
            for to in 0..nodes {
                if sides[from as usize] != sides[to as usize] {
                    self.network.cut(from, to);
                }
            }
        }
    }
}

impl Place {
    fn node(&self) -> Option<&Node<SimDisk>> {
        match &self.state {
            State::Up(node) => Some(node),
            _ => None,
        }
    }

    fn node_mut(&mut self) -> Option<&mut Node<SimDisk>> {
        match &mut self.state {
            State::Up(node) => Some(node),
            _ => None,
        }
    }
}

/// What the other side makes of a message: encoded, framed, decoded, validated.
fn through_the_wire(message: Message) -> Message {
    let mut frame = Buffer::default();
    proto::encode_message(&mut frame, &message, message.call);
    let body = FrameDecoder::default()
        .decode(&mut &frame[..])
        .expect("our own frame is right")
        .expect("our own frame is whole");
    let envelope = decode_envelope(body).expect("our own envelope is right");
    let decode = if message.body.is_request() {
        proto::decode_peer_request
    } else {
        proto::decode_reply
    };
    let arrived = decode(
        message.from,
        message.to,
        &envelope.method,
        envelope.sequence,
        envelope.payload,
    )
    .expect("our own message is valid");
    assert_eq!(arrived, message, "a message arrives as it was sent");
    arrived
}
