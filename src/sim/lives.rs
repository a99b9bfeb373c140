//! The lives of nodes: how they start, stop, are paused, and come back.

use std::time::Duration;

use bytes::Bytes;
use rand::{Rng, RngExt};

use crate::config::Founding;
use crate::disk::{Disk, FileId, Meta, SimDisk};
use crate::node::{Addresses, Node, NodeConfig};
use crate::raft::{Configuration, LEVEL_MAX};
use crate::sim::clock::Clock;
use crate::sim::cluster::{Event, Simulation};
use crate::sim::network::draw_delay;
use crate::sim::place::State;
use crate::time::Time;
use crate::types::NodeId;
use crate::wal::WalOptions;

/// Names the cluster of every run.
const CLUSTER_ID: u64 = 42;
const FIRST_SEGMENT_BYTES: u64 = 32 << 10;

impl Simulation {
    /// Starts a node that is down from what its disk has.
    pub(super) fn restart(&mut self, id: u64) {
        if self.places[id as usize].level < LEVEL_MAX
            && (!self.turmoil || self.rng.random_bool(0.5))
        {
            self.places[id as usize].level = LEVEL_MAX; // With a newer program.
        }
        let config = self.config(id);
        let gain = self
            .rng
            .random_range(-self.plan.drift_ppm..=self.plan.drift_ppm);
        let shows = Time::from_millis(self.rng.random_range(1..100_000));
        let now = self.now;
        let place = &mut self.places[id as usize];
        if !matches!(place.state, State::Down(_)) || place.stays_down {
            return;
        }
        let State::Down(disk) = std::mem::replace(&mut place.state, State::Gone) else {
            unreachable!("just looked")
        };
        place.clock = Clock::new(now, shows, gain);
        let slow = place.slowness > 1 || place.hung_until > now;
        place.may_stop = place.full || slow && self.plan.disk_give_up.is_some();
        let (node, found) = Node::open(config, disk, shows)
            .unwrap_or_else(|error| panic!("node {id} does not come back: {error}"));
        self.checker.check_restart(&node);
        let place = &mut self.places[id as usize];
        place.state = State::Up(Box::new(node));
        let life = place.life;
        self.note(|| format!("n{id} starts: life={life} {found:?}"));
        self.dial_all(id);
        self.found_alone(id);
        self.queue_flush(id);
    }

    /// The operator founds a cluster of one, once.
    fn found_alone(&mut self, id: u64) {
        if id > 0 || self.plan.first_members > 1 || std::mem::replace(&mut self.founded, true) {
            return;
        }
        let place = &mut self.places[id as usize];
        let now = place.clock.shows(self.now);
        if let Some(node) = place.node_mut()
            && node.is_new()
        {
            node.found(now);
            self.after_step(id);
        }
    }

    /// A node and its peers dial each other.
    pub(super) fn dial_all(&mut self, id: u64) {
        let life = self.places[id as usize].life;
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
    }

    /// All connections of a node end, at both ends.
    pub(super) fn end_connections(&mut self, id: u64) {
        let place = &mut self.places[id as usize];
        place.epoch += 1;
        place.accepted.clear();
        let dialled = std::mem::take(&mut place.ready);
        if let Some(node) = place.node_mut() {
            dialled
                .keys()
                .for_each(|peer| node.handle_disconnect(NodeId(*peer)));
        }
        for other in 0..self.plan.nodes {
            let place = &mut self.places[other as usize];
            if place.ready.remove(&id).is_some()
                && let Some(node) = place.node_mut()
            {
                node.handle_disconnect(NodeId(id));
                self.queue_flush(other);
            }
        }
    }

    /// The disk of a node of the version before, in a run that begins with that.
    pub(super) fn prepare(&mut self, id: u64) {
        if !self.plan.begins_older {
            return;
        }
        self.places[id as usize].level = 0;
        if id >= self.plan.first_members {
            return;
        }
        let mut config = self.config(id);
        config.meta.version = 1;
        let open = |config: NodeConfig, disk: SimDisk| {
            let (mut node, _) = Node::open(config, disk, Time::ZERO).expect("an empty disk");
            node.flush(Time::ZERO);
            while node.disk().pending() {
                while let Some(event) = node.disk().step() {
                    node.handle_disk(Time::ZERO, event);
                }
                node.flush(Time::ZERO);
            }
            node.into_disk()
        };
        let mut disk = open(config.clone(), SimDisk::new());
        let mut peers = vec![1, 1];
        peers.extend(crc32fast::hash(&peers).to_le_bytes());
        for (file, content) in [
            (FileId::Meta, Bytes::from(config.meta.encode())),
            (FileId::Peers, Bytes::from(peers)),
        ] {
            disk.create_file(FileId::MetaDraft);
            disk.append_file(FileId::MetaDraft, content);
            disk.finish_file(FileId::MetaDraft, file);
            while disk.pending() {
                while disk.step().is_some() {}
            }
        }
        self.places[id as usize].state = State::Down(disk);
    }

    fn config(&mut self, id: u64) -> NodeConfig {
        let plan = &self.plan;
        NodeConfig {
            id: NodeId(id),
            first_members: Configuration::of_voters((0..plan.first_members).map(|id| {
                let (peer, client) = (format!("p{id}"), format!("c{id}"));
                (NodeId(id), u8::from(id == 0), peer, client)
            })),
            read_lease: plan.read_lease,
            disk_patience: plan.disk_patience,
            disk_give_up: plan.disk_give_up,
            cluster_id: CLUSTER_ID,
            founding: match plan.begins_older || id >= plan.first_members {
                true => Founding::Never,
                false => Founding::AllFirstMembers,
            },
            level: self.places[id as usize].level,
            addresses: Addresses {
                peer: format!("p{id}"),
                client: format!("c{id}"),
            },
            addresses_from_file: false,
            meta: Meta::new(NodeId(id), CLUSTER_ID, self.places[id as usize].incarnation),
            election_timeout: (Duration::from_millis(150), Duration::from_millis(300)),
            heartbeat: Duration::from_millis(50),
            seed: self.rng.next_u64(),
            segment_bytes: plan.segment_bytes,
            first_segment_bytes: FIRST_SEGMENT_BYTES,
            snapshot_log_bytes: plan.snapshot_log_bytes,
            snapshot_tail_bytes: plan.snapshot_tail_bytes,
            snapshot_hold_bytes: 1 << 20,
            snapshot_send_bytes_per_sec: 4 << 20,
            snapshot_write_bytes_per_sec: 4 << 20,
            state_check_entries: 8,
            apply_entries_max: plan.apply_entries_max,
            memory_limit: None,
            session_limits: plan.session_limits,
        }
    }

    /// Whose log a node's disk has.
    pub(super) fn wal_options(&self, id: u64) -> WalOptions {
        WalOptions {
            node: NodeId(id),
            cluster_id: CLUSTER_ID,
            incarnation: self.places[id as usize].incarnation,
            segment_bytes: self.plan.segment_bytes,
            first_segment_bytes: FIRST_SEGMENT_BYTES,
        }
    }

    /// A node dies; with the power, its disk loses what was not synced.
    pub(super) fn crash(&mut self, id: u64, power: bool) {
        if self.places[id as usize].node().is_none() {
            return;
        }
        self.note(|| format!("n{id} dies: power={power}"));
        self.count(id);
        let place = &mut self.places[id as usize];
        let State::Up(node) = std::mem::replace(&mut place.state, State::Gone) else {
            unreachable!("just looked")
        };
        self.report.crashes += 1;
        let mut disk = node.into_disk();
        if power {
            let rng = &mut self.rng;
            disk.crash(&mut || rng.next_u64());
        } else {
            disk.crash(&mut || 1);
        }
        place.life += 1;
        place.state = State::Down(disk);
        place.held.clear();
        place.paused = false;
        place.disk_queued = false;
        place.flush_queued = false;
        place.tick_at = Time::NEVER;
        self.end_connections(id);
    }

    /// A node has stopped by itself: it must have had a reason. What it could not sync
    /// may be gone.
    pub(super) fn stop(&mut self, id: u64, why: &str) {
        assert!(
            self.places[id as usize].may_stop,
            "node {id} gave up without a reason: {why}"
        );
        self.note(|| format!("n{id} stops: {why}"));
        self.report.stops += 1;
        self.crash(id, true);
        let time = draw_delay(&mut self.rng, Duration::from_millis(500));
        self.after(time, Event::Restart(id));
    }

    /// A paused process goes on, with what has come meanwhile: mostly it looks at its mail
    /// before it notices how late it is, as the server does.
    pub(super) fn resume(&mut self, id: u64) {
        let place = &mut self.places[id as usize];
        place.paused = false;
        let mut held = std::mem::take(&mut place.held);
        if !held.is_empty() && self.rng.random_bool(0.7) {
            held.sort_by_key(|event| matches!(event, Event::Flush(..) | Event::Tick(..)));
        }
        for event in held {
            self.happen(event);
        }
    }

    /// Adds to the report what a node has done in this life.
    pub(super) fn count(&mut self, id: u64) {
        if let Some(node) = self.places[id as usize].node() {
            let status = node.status(Time::ZERO);
            self.report.taken += status.snapshots_taken;
            self.report.installed += status.snapshots_installed;
        }
    }
}
