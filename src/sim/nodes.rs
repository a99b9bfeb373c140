//! Nodes at work: their flushes, ticks and disks, their connections, what they send and
//! receive.

use std::time::Duration;

use rand::RngExt;

use crate::limits;
use crate::mem::Buffer;
use crate::net::envelope::decode_envelope;
use crate::net::frame::FrameDecoder;
use crate::node::{Answer, Caller, Outputs};
use crate::proto::{self, Link};
use crate::raft::Message;
use crate::sim::calm::PROBE;
use crate::sim::cluster::{Event, Packet, Simulation};
use crate::sim::network::draw_delay;
use crate::sim::operators::OPERATOR;
use crate::sim::place::State;
use crate::time::Time;
use crate::types::{NodeId, Server};

/// How many operations may wait for a disk, hung or not: windows bound what a leader sends
/// before it is confirmed, and clients what they ask for before they are answered.
const DISK_QUEUE_MAX: usize = 4 * limits::INFLIGHT_MESSAGES_MAX;

impl Simulation {
    pub(super) fn queue_flush(&mut self, id: u64) {
        let place = &mut self.places[id as usize];
        if !std::mem::replace(&mut place.flush_queued, true) {
            let life = place.life;
            // What comes in meanwhile is in the same batch.
            let delay = Duration::from_micros(self.rng.random_range(0..200));
            self.after(delay, Event::Flush(id, life));
        }
    }

    /// A node has done something: looks at what must hold after it.
    pub(super) fn after_step(&mut self, id: u64) {
        if let Some(node) = self.places[id as usize].node() {
            let news = self.checker.after_step(node);
            if news {
                let raft = node.raft();
                let (term, last) = (raft.term(), raft.log().last());
                self.note(|| format!("n{id} leads: term={term} last={last}"));
            }
        }
    }

    pub(super) fn flush(&mut self, id: u64, life: u64) {
        let place = &mut self.places[id as usize];
        if place.life != life {
            return;
        }
        place.flush_queued = false;
        let now = place.clock.shows(self.now);
        let Some(node) = place.node_mut() else { return };
        node.flush(now);
        if let Some(why) = node.failure() {
            let why = why.to_owned();
            return self.stop(id, &why);
        }
        let outputs = std::mem::take(node.outputs());
        place.lost &= !node.raft().may_vote();
        self.after_step(id);
        self.send_out(id, outputs);
        self.schedule(id);
    }

    pub(super) fn send_out(&mut self, id: u64, outputs: Outputs) {
        let Outputs {
            messages,
            answers,
            hellos,
            members: _,
            reintroduce,
        } = outputs;
        let life = self.places[id as usize].life;
        for mut message in messages {
            let to = message.to.id.0;
            // A request needs a connection that we dialled, an answer one that it dialled.
            let place = &self.places[id as usize];
            let connected = if message.body.is_request() {
                let peer = place.ready.get(&to);
                if let Some(peer) = peer {
                    message.address(peer.incarnation);
                }
                peer.is_some()
            } else {
                let link = (self.places[to as usize].epoch, message.to);
                place.accepted.get(&to) == Some(&link)
            };
            self.check_message(id, &message);
            if connected {
                let message = through_the_wire(message);
                self.send(id, to, Packet::Message(message));
            }
        }
        for (caller, reply) in hellos {
            let to = reply.to.0;
            let other = &self.places[to as usize];
            if caller.connection != other.epoch {
                continue; // Nobody is there any more to whom this would be said.
            }
            if reply.refused.is_none() {
                let link = (other.epoch, Server::new(to, other.incarnation));
                self.places[id as usize].accepted.insert(to, link);
            }
            self.send(id, to, Packet::HelloReply(reply));
        }
        for (caller, answer) in answers {
            if caller.connection == life {
                self.answer(id, caller, answer);
            }
        }
        if reintroduce {
            self.note(|| format!("n{id} ends its connections"));
            self.end_connections(id);
            self.dial_all(id);
        }
    }

    /// What a node says must be so, and must survive the loss of its power.
    fn check_message(&mut self, id: u64, message: &Message) {
        let options = self.wal_options(id);
        if let Some(node) = self.places[id as usize].node_mut()
            && self.checker.check_message(node, message)
        {
            let survivor = node.disk().survivor();
            self.checker.check_survivor(message, survivor, options);
        }
    }

    fn answer(&mut self, id: u64, caller: Caller, answer: Answer) {
        if caller.reactor == OPERATOR {
            return self.hear_operator(&answer);
        }
        if let Some(node) = self.places[id as usize].node() {
            self.checker.check_answer(node, caller, &answer);
        }
        let (client, attempt) = (caller.reactor as usize, caller.sequence);
        self.note_message(|| format!("n{id} answers client {client}: {attempt} {answer:?}"));
        if client == PROBE {
            return self.probe.take_answer(attempt, &answer);
        }
        let outside = self.plan.nodes;
        let arrivals = self.network.arrivals(&mut self.rng, self.now, id, outside);
        if let Some(at) = arrivals[0] {
            let event = Event::Answer {
                client,
                attempt,
                answer,
            };
            self.at(at, event);
        }
    }

    pub(super) fn send(&mut self, from: u64, to: u64, packet: Packet) {
        let [first, again] = self.network.arrivals(&mut self.rng, self.now, from, to);
        let lost = if first.is_none() { ", lost" } else { "" };
        self.note_message(|| format!("n{from} to n{to}{lost}: {packet:?}"));
        let epoch = |id: u64| self.places[id as usize].epoch;
        let (from_epoch, to_epoch) = (epoch(from), epoch(to));
        let arrive = |packet| Event::Packet {
            from,
            from_epoch,
            to,
            to_epoch,
            packet,
        };
        if let Some(at) = again {
            self.at(at, arrive(packet.clone()));
        }
        if let Some(at) = first {
            self.at(at, arrive(packet));
        }
    }

    /// Sees to it that the node gets its time and its disk's completions.
    pub(super) fn schedule(&mut self, id: u64) {
        let now = self.now;
        let place = &mut self.places[id as usize];
        let life = place.life;
        let State::Up(node) = &mut place.state else {
            return;
        };
        let deadline = node.next_deadline(place.clock.shows(now));
        let due = place
            .clock
            .moment(deadline)
            .max(now + Duration::from_micros(20));
        let leads = node.raft().is_leader();
        let disk = node.disk();
        let waiting = disk.pending_syncs() + disk.pending_background();
        place.led_hung |= leads && now < place.hung_until;
        place.led_hung &= waiting > 0;
        assert!(
            waiting <= DISK_QUEUE_MAX || place.led_hung,
            "{waiting} operations wait for the disk of n{id}"
        );
        if due < place.tick_at && due != Time::NEVER {
            place.tick_at = due;
            self.at(due, Event::Tick(id, life));
        }
        let place = &mut self.places[id as usize];
        if waiting > 0 && !std::mem::replace(&mut place.disk_queued, true) {
            let mean = self.plan.disk_delay * place.slowness;
            let delay = draw_delay(&mut self.rng, mean);
            self.after(delay, Event::Disk(id, life));
        }
    }

    pub(super) fn tick(&mut self, id: u64, life: u64) {
        let place = &mut self.places[id as usize];
        if place.life != life {
            return;
        }
        place.tick_at = Time::NEVER;
        let now = place.clock.shows(self.now);
        if let Some(node) = place.node_mut() {
            if now >= node.next_deadline(now) {
                node.tick(now);
            }
            self.flush(id, life);
        }
    }

    pub(super) fn complete_disk(&mut self, id: u64, life: u64) {
        let (syncs, background) = (self.rng.random_range(1..4), self.rng.random_bool(0.5));
        let place = &mut self.places[id as usize];
        if place.life != life {
            return;
        }
        if self.now < place.hung_until {
            let until = place.hung_until;
            return self.at(until, Event::Disk(id, life));
        }
        place.disk_queued = false;
        let now = place.clock.shows(self.now);
        let Some(node) = place.node_mut() else { return };
        let disk = node.disk();
        let event = if background && disk.pending_background() > 0 || disk.pending_syncs() == 0 {
            disk.step_background()
        } else {
            // As the log writer does: the more have come while it was busy, the more of them
            // the next sync serves.
            disk.complete_syncs(syncs.max(disk.pending_syncs() / 4))
        };
        if let Some(event) = event {
            node.handle_disk(now, event);
            self.after_step(id);
            self.queue_flush(id);
        }
        self.schedule(id);
    }

    pub(super) fn dial(&mut self, from: u64, life: u64, to: u64) {
        let place = &mut self.places[from as usize];
        if place.life != life || place.ready.contains_key(&to) {
            return;
        }
        let paused = place.paused;
        if let Some(node) = place.node_mut()
            && !paused
        {
            node.handle_reconnect(NodeId(to));
            let hello = node.hello(NodeId(to));
            self.send(from, to, Packet::Hello(hello));
        }
        let again = draw_delay(&mut self.rng, Duration::from_millis(150));
        self.after(again, Event::Dial(from, life, to));
    }

    pub(super) fn deliver(&mut self, from: u64, to: u64, packet: Packet) {
        let other = &self.places[from as usize];
        let link = (other.epoch, Server::new(from, other.incarnation));
        let place = &mut self.places[to as usize];
        let accepted = place.accepted.get(&from) == Some(&link);
        let ready = place.ready.contains_key(&from);
        let now = place.clock.shows(self.now);
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
                    connection: link.0,
                    sequence: 0,
                };
                node.handle_hello(caller, &hello);
            }
            Packet::HelloReply(reply) => {
                if reply.refused.is_none() {
                    place.ready.insert(from, link.1);
                }
                node.handle_hello_reply(now, NodeId(from), reply);
            }
        }
        self.after_step(to);
        self.queue_flush(to);
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
    let link = Link {
        peer: message.from,
        birth: message.birth,
        own: message.to.id,
    };
    let arrived = decode(&link, &envelope).expect("our own message is valid");
    assert_eq!(arrived, message, "a message arrives as it was sent");
    arrived
}
