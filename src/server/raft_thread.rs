//! The raft thread: drains its inbox in one go, lets the node act on all of it, sends
//! what comes out, sleeps until there is mail or a deadline.
//!
//! What waits in the inbox is one batch: one append, one AppendEntries a peer, one
//! read round. Nothing lingers to make batches larger; they grow with the load.

use std::sync::Arc;
use std::time::Instant;

use log::info;

use crate::disk::Disk;
use crate::limits;
use crate::mailbox::Doorbell;
use crate::node::{Node, Outputs};
use crate::server::mail::{Control, FromClient, FromPeer, Inbox, Outbox, ToPeer};
use crate::time::Time;

/// Requests of clients that one batch takes in, so that peers and timers get their turn.
const CLIENTS_PER_BATCH: usize = 2_048;
/// Messages of peers that one batch takes in.
const PEERS_PER_BATCH: usize = 2_048;

/// The wall behind [`Time`]: a monotonic clock, read once a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock {
            start: Instant::now(),
        }
    }

    pub(super) fn now(self) -> Time {
        Time::ZERO + self.start.elapsed()
    }

    fn instant(self, time: Time) -> Option<Instant> {
        (time != Time::NEVER).then(|| self.start + time.since(Time::ZERO))
    }
}

/// How the raft thread ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was asked to stop.
    Stopped,
    /// The node can't go on.
    Failed(String),
    /// The node can't go on, and its disk answers nothing.
    DiskHangs(String),
}

pub(super) struct RaftThread<D: Disk> {
    pub(super) node: Node<D>,
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    pub(super) doorbell: Arc<Doorbell>,
    pub(super) clock: Clock,
    /// What the batch has taken from each reactor, in bytes.
    pub(super) taken_bytes: Vec<usize>,
}

impl<D: Disk> RaftThread<D> {
    /// Runs until told to stop, or until the node can't go on.
    pub(super) fn run(mut self) -> (Ending, D) {
        let ending = loop {
            // Awake: nobody has to ring until the inbox has been found empty.
            self.doorbell.hush();
            if let Some(ending) = self.batch() {
                break ending;
            }
            // From here on senders ring: what came in before that is seen now.
            self.doorbell.acknowledge();
            if self.inbox_is_empty() {
                self.make_room_for_reads();
                let now = self.clock.now();
                let deadline = self.node.next_deadline(now);
                if deadline > now {
                    self.doorbell.wait_until(self.clock.instant(deadline));
                }
            }
        };
        self.node.seal();
        info!(target: "RaftClerk", "raft thread ends: {ending:?}");
        (ending, self.node.into_disk())
    }

    fn inbox_is_empty(&self) -> bool {
        let Inbox {
            control,
            disk,
            peers,
            clients,
            requests: _,
        } = &self.inbox;
        control.is_empty() && disk.is_empty() && peers.is_empty() && clients.is_empty()
    }

    /// Takes in what has come, and carries it out.
    fn batch(&mut self) -> Option<Ending> {
        let now = self.clock.now();
        if self.inbox.control.try_recv() == Some(Control::Stop) {
            self.node.begin_stop(now);
        }
        while let Some(event) = self.inbox.disk.try_recv() {
            self.node.handle_disk(now, event);
        }
        for _ in 0..PEERS_PER_BATCH {
            let Some(mail) = self.inbox.peers.try_recv() else {
                break;
            };
            self.take_peer(now, mail);
        }
        for _ in 0..CLIENTS_PER_BATCH {
            match self.inbox.clients.try_recv() {
                None => break,
                Some(FromClient::Request(caller, request)) => {
                    self.taken_bytes[caller.reactor as usize] += request.size_bytes();
                    self.node.handle_client(now, caller, request);
                }
                Some(FromClient::Clogged {
                    reactor,
                    connection,
                    clogged,
                }) => self.node.refuse_reads(reactor, connection, clogged),
            }
        }
        for (load, taken) in self.inbox.requests.iter().zip(&mut self.taken_bytes) {
            if *taken > 0 {
                load.sub(std::mem::take(taken));
            }
        }
        // Time last: a process that was paused looks at its mail before it thinks
        // itself alone.
        if now >= self.node.next_deadline(now) {
            self.node.tick(now);
        }
        self.make_room_for_reads();
        // Read anew: what a lease allows is judged by a time after all that came in. A
        // process that was paused in between would else answer by a lease of long ago.
        let now = self.clock.now();
        self.node.flush(now);
        self.send_out();
        if let Some(why) = self.node.failure() {
            let why = why.to_owned();
            return Some(if self.node.disk_hangs() {
                Ending::DiskHangs(why)
            } else {
                Ending::Failed(why)
            });
        }
        self.node.may_stop(now).then_some(Ending::Stopped)
    }

    /// Reads wait while the reactors have not taken over the values read before; they
    /// ring when they have.
    fn make_room_for_reads(&mut self) {
        let waiting = self.outbox.answers.get();
        let room = limits::ANSWER_BYTES_MAX.saturating_sub(waiting);
        self.node.limit_reads(room);
    }

    fn take_peer(&mut self, now: Time, mail: FromPeer) {
        match mail {
            FromPeer::Message(message) => self.node.handle_peer(now, message),
            FromPeer::Hello(caller, hello) => self.node.handle_hello(caller, &hello),
            FromPeer::HelloReply(from, reply) => self.node.handle_hello_reply(now, from, reply),
            FromPeer::Connected(peer) => {
                self.node.handle_reconnect(peer);
                let hello = self.node.hello(peer);
                self.outbox.send_peer(ToPeer::Hello(hello));
            }
            FromPeer::Disconnected(peer) => self.node.handle_disconnect(peer),
        }
    }

    /// Sends what the node has put out, and wakes each receiver once.
    fn send_out(&mut self) {
        // Drained, so that their room is used again.
        let Outputs {
            messages,
            answers,
            hellos,
            members,
            reintroduce,
        } = self.node.outputs();
        let outbox = &mut self.outbox;
        let anew = std::mem::take(reintroduce);
        let to_peers = !messages.is_empty() || !hellos.is_empty() || members.is_some() || anew;
        for message in messages.drain(..) {
            outbox.send_peer(ToPeer::Message(message));
        }
        for (caller, reply) in hellos.drain(..) {
            outbox.send_peer(ToPeer::HelloReply(caller, reply));
        }
        // Behind what is still to be said to those who are members no more.
        if let Some(members) = members.take() {
            outbox.send_members(&members);
        }
        if anew {
            outbox.send_peer(ToPeer::Reintroduce);
        }
        if to_peers {
            outbox.peers.ring();
        }
        outbox.send_answers(answers);
    }
}
