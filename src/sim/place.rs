//! A place for a node: its disk, its clock and its connections, over all its lives.

use std::collections::BTreeMap;

use crate::disk::SimDisk;
use crate::node::Node;
use crate::raft::LEVEL_MAX;
use crate::sim::clock::Clock;
use crate::sim::cluster::Event;
use crate::time::Time;
use crate::types::Server;

/// One place for a node, over all its lives.
pub(super) struct Place {
    pub(super) life: u64,
    /// Counts the times at which all its connections ended.
    pub(super) epoch: u64,
    /// Names its data directory; a lost one is followed by another.
    pub(super) incarnation: u64,
    /// The feature level that its program supports.
    pub(super) level: u16,
    pub(super) state: State,
    pub(super) clock: Clock,
    /// It was a voter, has lost its directory, and does not vote yet.
    pub(super) lost: bool,
    /// It is not restarted any more until faults have stopped everywhere.
    pub(super) stays_down: bool,
    /// Something has been done to it for which it may stop by itself.
    pub(super) may_stop: bool,
    /// How many times slower than others its disk is.
    pub(super) slowness: u32,
    /// Until when its disk does nothing.
    pub(super) hung_until: Time,
    /// It has led while its disk hung. As long as others confirm what it sends, nothing
    /// bounds what waits for that disk.
    pub(super) led_hung: bool,
    /// Its disk has no room.
    pub(super) full: bool,
    /// What has come for a paused node.
    pub(super) held: Vec<Event>,
    pub(super) paused: bool,
    pub(super) disk_queued: bool,
    pub(super) flush_queued: bool,
    pub(super) tick_at: Time,
    /// The peers whose introduction it has accepted, with their epochs.
    pub(super) accepted: BTreeMap<u64, (u64, Server)>,
    /// The peers that have accepted its own.
    pub(super) ready: BTreeMap<u64, Server>,
}

pub(super) enum State {
    Up(Box<Node<SimDisk>>),
    Down(SimDisk),
    /// Only while a node is taken apart.
    Gone,
}

impl Place {
    /// A place with an empty disk.
    pub(super) fn new(id: u64, now: Time) -> Place {
        Place {
            life: 0,
            epoch: 0,
            incarnation: 1000 + id,
            level: LEVEL_MAX,
            state: State::Down(SimDisk::new()),
            clock: Clock::new(now, now, 0),
            lost: false,
            stays_down: false,
            may_stop: false,
            slowness: 1,
            hung_until: Time::ZERO,
            led_hung: false,
            full: false,
            held: Vec::new(),
            paused: false,
            disk_queued: false,
            flush_queued: false,
            tick_at: Time::NEVER,
            accepted: BTreeMap::new(),
            ready: BTreeMap::new(),
        }
    }

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

    /// Its disk, whether the node is up or down.
    pub(super) fn disk_mut(&mut self) -> &mut SimDisk {
        match &mut self.state {
            State::Up(node) => node.disk(),
            State::Down(disk) => disk,
            State::Gone => unreachable!("only while a node is taken apart"),
        }
    }
}
