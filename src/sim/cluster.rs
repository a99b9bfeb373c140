//! Nodes, disks, crashes, and the queue of what happens next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::node::{Answer, Caller, Hello, HelloReply, Request, Status};
use crate::raft::Message;
use crate::sim::calm::Probe;
use crate::sim::clients::{Client, Next};
use crate::sim::faults::Fault;
use crate::sim::invariants::Checker;
use crate::sim::linearizability::{self, Operation, STEPS_MAX};
use crate::sim::network::{Cut, Network, draw_delay};
use crate::sim::place::{Place, State};
use crate::sim::plan::Plan;
use crate::time::Time;

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
    pub leaders: u64,
    /// Operations that clients were answered, or gave up.
    pub operations: u64,
    /// Changes of the members and of the leader that operators asked for and got.
    pub wishes: u64,
    /// Nodes that died.
    pub crashes: u64,
    /// Those of them that had stopped by themselves, for a reason.
    pub stops: u64,
    /// Snapshots that were taken.
    pub taken: u64,
    /// Snapshots that were received and installed.
    pub installed: u64,
    /// Faults of each kind; [`FAULT_NAMES`] has their names.
    pub faults: [u64; FAULT_NAMES.len()],
    /// Steps of the simulation.
    pub steps: u64,
    /// Virtual time.
    pub time: Duration,
    /// The longest that a core took to serve again once faults had stopped in it.
    pub core_recovered: Duration,
    /// The longest that all nodes then took to agree.
    pub all_agreed: Duration,
    /// Differs, but for bad luck, between runs that differ in anything.
    pub digest: u64,
}

/// The names of the kinds of faults.
pub const FAULT_NAMES: [&str; Fault::ALL.len()] = {
    let mut names = [""; Fault::ALL.len()];
    let mut kind = 0;
    while kind < names.len() {
        names[kind] = Fault::ALL[kind].1;
        kind += 1;
    }
    names
};

impl Report {
    /// Adds the figures of another run.
    pub fn add(&mut self, other: &Report) {
        self.nodes += other.nodes;
        self.committed += other.committed;
        self.leaders += other.leaders;
        self.operations += other.operations;
        self.wishes += other.wishes;
        self.crashes += other.crashes;
        self.stops += other.stops;
        self.taken += other.taken;
        self.installed += other.installed;
        for (sum, more) in self.faults.iter_mut().zip(other.faults) {
            *sum += more;
        }
        self.steps += other.steps;
        self.time += other.time;
        self.core_recovered = self.core_recovered.max(other.core_recovered);
        self.all_agreed = self.all_agreed.max(other.all_agreed);
        self.digest ^= other.digest;
    }
}

/// How much of a run is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Faults, lives, leaders.
    Events,
    /// Also each message, request and answer.
    Messages,
}

/// Who is told of what happens.
pub(super) struct Listener {
    detail: Detail,
    hear: Box<dyn FnMut(&str)>,
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
    /// Arrives if both ends still have the connections of the epochs in which it was sent.
    Packet {
        from: u64,
        from_epoch: u64,
        to: u64,
        to_epoch: u64,
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
    /// A client sends again what it has sent as this attempt, if no answer has come since.
    Send(usize, u64),
    Restart(u64),
    Pause(u64, u64, Duration),
    Resume(u64, u64),
    Fault,
    /// The end of a fault.
    Mend(Cut),
    DiskRecovers(u64),
    RoomAgain(u64),
    /// The next of these is restarted.
    Roll(Vec<u64>),
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

pub(super) struct Simulation {
    pub(super) plan: Plan,
    pub(super) rng: StdRng,
    pub(super) now: Time,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    pub(super) places: Vec<Place>,
    pub(super) network: Network,
    pub(super) clients: Vec<Client>,
    pub(super) probe: Probe,
    pub(super) history: Vec<Operation>,
    pub(super) checker: Checker,
    pub(super) report: Report,
    /// Whether faults go on.
    pub(super) turmoil: bool,
    /// Whether the operator has founded a cluster of one.
    pub(super) founded: bool,
    listener: Option<Listener>,
}

/// Runs one seed to its end.
///
/// # Panics
/// On a finding: an invariant is broken, a history is not linearizable, or the cluster
/// does not converge once the faults have stopped.
pub fn run(seed: u64) -> Report {
    run_to_end(Simulation::new(seed))
}

/// Runs one seed to its end, and tells what happens, a line each.
///
/// # Panics
/// As [`run`].
pub fn run_and_tell(seed: u64, detail: Detail, hear: Box<dyn FnMut(&str)>) -> Report {
    let mut simulation = Simulation::new(seed);
    simulation.listener = Some(Listener { detail, hear });
    let plan = format!("{:?}", simulation.plan);
    simulation.note(|| plan);
    run_to_end(simulation)
}

fn run_to_end(mut simulation: Simulation) -> Report {
    for id in 0..simulation.plan.nodes {
        simulation.prepare(id);
        simulation.after(Duration::ZERO, Event::Restart(id));
    }
    for client in 0..simulation.clients.len() {
        simulation.after(Duration::from_millis(300), Event::Wake(client));
    }
    if !simulation.plan.fault_every.is_zero() {
        simulation.after(Duration::from_millis(500), Event::Fault);
    }
    let calm_at = simulation.now + simulation.plan.turmoil;
    while simulation.now < calm_at && simulation.step() {}
    simulation.calm();
    simulation.judge();
    simulation.report
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let plan = Plan::draw(seed);
        let now = Time::from_millis(1);
        Simulation {
            rng: StdRng::seed_from_u64(seed),
            now,
            queue: BinaryHeap::new(),
            order: 0,
            places: (0..plan.nodes).map(|id| Place::new(id, now)).collect(),
            network: Network::new(&plan),
            clients: (0..plan.clients).map(Client::new).collect(),
            probe: Probe::default(),
            history: Vec::new(),
            checker: Checker::new(plan.nodes),
            report: Report {
                nodes: plan.nodes,
                ..Report::default()
            },
            turmoil: true,
            founded: false,
            listener: None,
            plan,
        }
    }

    fn judge(&mut self) {
        for id in 0..self.plan.nodes {
            self.count(id);
        }
        for place in &self.places {
            let node = place.node().expect("all nodes are up");
            self.checker.check_whole(node);
            self.checker.check_state(node);
        }
        for client in std::mem::take(&mut self.clients) {
            client.finish(&mut self.history);
        }
        self.report.operations = self.history.len() as u64;
        self.report.committed = self.checker.committed().0;
        self.report.leaders = self.checker.leaders();
        self.report.time = self.now.since(Time::ZERO);
        linearizability::check(&self.history, STEPS_MAX).assert_linearizable();
    }

    /// The node that leads the latest term that is led.
    pub(super) fn leader(&self) -> Option<u64> {
        let rafts = self
            .places
            .iter()
            .filter_map(|place| Some(place.node()?.raft()));
        let leaders = rafts.filter(|raft| raft.is_leader());
        leaders
            .max_by_key(|raft| raft.term())
            .map(|raft| raft.id().0)
    }

    pub(super) fn describe(&self) -> String {
        let nodes = self.places.iter().map(|place| match &place.state {
            State::Up(node) => {
                let status = node.status(place.clock.shows(self.now));
                format!(
                    "{} {} t{} commit={} applied={} log={}..{} durable={} may_vote={} members={}@{} peers={:?}",
                    status.id,
                    status.role.as_str(),
                    status.term,
                    status.commit_index,
                    status.applied_index,
                    status.first_index,
                    status.last_index,
                    status.durable_index,
                    status.may_vote,
                    members(&status),
                    status.members_index,
                    status.peers
                )
            }
            _ => "down".to_owned(),
        });
        nodes.collect::<Vec<_>>().join("; ")
    }

    /// Tells the listener, if there is one.
    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(listener) = &mut self.listener {
            (listener.hear)(&format!(
                "{:>12.6} {}",
                now.since(Time::ZERO).as_secs_f64(),
                what()
            ));
        }
    }

    /// Tells a listener who wants to know everything.
    pub(super) fn note_message(&mut self, what: impl FnOnce() -> String) {
        if self
            .listener
            .as_ref()
            .is_some_and(|listener| listener.detail >= Detail::Messages)
        {
            self.note(what);
        }
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
    pub(super) fn step(&mut self) -> bool {
        let Some(Reverse(Queued { at, order, event })) = self.queue.pop() else {
            return false;
        };
        self.now = self.now.max(at);
        self.report.steps += 1;
        // What happens next depends on all before it, and shows in when, and in what order.
        let mixed = (self.report.digest ^ at.as_nanos() ^ (order << 32)).rotate_left(23);
        self.report.digest = mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
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
                from_epoch,
                to,
                to_epoch,
                packet,
            } => {
                // A connection ends with the process at either end, or when one of them
                // introduces itself anew.
                let epoch = |id: u64| self.places[id as usize].epoch;
                if (epoch(from), epoch(to)) == (from_epoch, to_epoch) {
                    self.deliver(from, to, packet);
                }
            }
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
            Event::Send(client, attempt) => {
                if self.clients[client].waits_for(attempt) {
                    self.send_request(client);
                }
            }
            Event::Restart(id) => self.restart(id),
            Event::Pause(id, life, time) => {
                if self.turmoil && self.places[id as usize].life == life {
                    self.pause_for(id, time);
                }
            }
            Event::Resume(id, life) => {
                if self.places[id as usize].life == life {
                    self.resume(id);
                }
            }
            Event::Fault => self.fault(),
            Event::Mend(cut) => self.network.mend(cut),
            Event::DiskRecovers(id) => self.places[id as usize].slowness = 1,
            Event::RoomAgain(id) => self.room_again(id),
            Event::Roll(order) => self.roll(order),
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
                let attempt = self.clients[client].attempts();
                self.after(pause, Event::Send(client, attempt));
            }
            Next::Ignore => {}
        }
    }

    fn room_again(&mut self, id: u64) {
        let place = &mut self.places[id as usize];
        place.full = false;
        place.disk_mut().set_no_space(false);
    }

    fn send_request(&mut self, client: usize) {
        let to = self.clients[client].target % self.plan.nodes;
        let Some((attempt, request)) = self.clients[client].attempt() else {
            return;
        };
        self.checker.asked(client, attempt, &request);
        self.note_message(|| format!("client {client} asks n{to}: {attempt} {request:?}"));
        let outside = self.plan.nodes; // The network does not partition clients.
        let arrivals = self.network.arrivals(&mut self.rng, self.now, outside, to);
        if let Some(at) = arrivals[0] {
            let event = Event::Request {
                client,
                attempt,
                to,
                request,
            };
            self.at(at, event);
        }
        self.after(ANSWER_TIMEOUT, Event::TimeOut(client, attempt));
    }

    pub(super) fn take_request(&mut self, client: usize, attempt: u64, to: u64, request: Request) {
        let caller = Caller {
            reactor: client as u32,
            connection: self.places[to as usize].life,
            sequence: attempt,
        };
        let place = &mut self.places[to as usize];
        let now = place.clock.shows(self.now);
        if let Some(node) = place.node_mut() {
            node.handle_client(now, caller, request);
            self.after_step(to);
            self.queue_flush(to);
        }
    }
}

/// The members as a node has them, in short.
fn members(status: &Status) -> String {
    let members = status.members.iter();
    let list: Vec<String> = members
        .map(|m| format!("{}:{}", m.id, m.standing))
        .collect();
    list.join(",")
}
