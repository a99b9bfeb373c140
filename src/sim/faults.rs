//! What goes wrong with nodes and links: crashes, kills, pauses, partitions, lost
//! directories, and how they come back.

use std::time::Duration;

use rand::{Rng, RngExt};

use crate::disk::SimDisk;
use crate::node::{Node, NodeConfig};
use crate::raft::Configuration;
use crate::sim::cluster::{Event, Place, Simulation, State};
use crate::sim::network::draw_delay;
use crate::time::Time;
use crate::types::NodeId;

impl Simulation {
    pub(super) fn restart(&mut self, id: u64) {
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

    pub(super) fn config(&mut self, id: u64) -> NodeConfig {
        let plan = &self.plan;
        NodeConfig {
            id: NodeId(id),
            first_members: Configuration::of_voters((0..plan.nodes).map(|id| {
                (
                    NodeId(id),
                    u8::from(id == 0),
                    format!("p{id}"),
                    format!("c{id}"),
                )
            })),
            read_lease: false,
            disk_patience: Duration::from_secs(2),
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
    pub(super) fn crash(&mut self, id: u64, power: bool) {
        let place = &mut self.places[id as usize];
        if place.node().is_none() {
            return;
        }
        let State::Up(node) = std::mem::replace(&mut place.state, State::Gone) else {
            unreachable!("just looked")
        };
        self.report.crashes += 1;
        self.report.installed += node.status(self.now).snapshots_installed;
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
    pub(super) fn lose_directory(&mut self, id: u64, time: Duration) {
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

    pub(super) fn pause(&mut self, id: u64, time: Duration) {
        if self.places[id as usize].node().is_some() {
            self.places[id as usize].paused = true;
            self.after(time, Event::Resume(id));
        }
    }

    pub(super) fn resume(&mut self, id: u64) {
        let place = &mut self.places[id as usize];
        place.paused = false;
        for event in std::mem::take(&mut place.held) {
            self.happen(event);
        }
    }

    pub(super) fn fault(&mut self) {
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

    pub(super) fn partition(&mut self) {
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
