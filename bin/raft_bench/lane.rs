//! One connection as its client sees it: under which name it writes, what it has in
//! flight, and where it goes when that node is of no use.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use raftkv::client::request::Name;
use raftkv::net::{ConnectionId, ConnectorId};
use raftkv::pb::OperationType;

/// The slot of a request stands in the low bits of its sequence id.
const SLOT_BITS: u32 = 10;
/// Requests that a lane can have in flight.
pub const SLOTS_MAX: usize = 1 << SLOT_BITS;
/// The pause after the second setback in a row; it doubles …
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// … up to this, about the length of an election.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// What a lane is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Not connected: it dials, or waits until it may.
    Down,
    /// Its session is being opened.
    Opening(ConnectionId),
    /// Requests go out.
    Up(ConnectionId),
    /// No more go out for now; those in flight are waited for.
    Resting(ConnectionId),
    /// No more go out; once those in flight are answered it goes elsewhere.
    Leaving(ConnectionId),
}

impl Link {
    pub fn connection(self) -> Option<ConnectionId> {
        match self {
            Link::Down => None,
            Link::Opening(id) | Link::Up(id) | Link::Resting(id) | Link::Leaving(id) => Some(id),
        }
    }
}

/// A request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    pub kind: OperationType,
    /// When it was meant to be sent; in a closed loop when it was.
    pub start_ns: u64,
    /// Its number in the session; 0 if it has none.
    number: u64,
    sequence_id: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Lane {
    pub link: Link,
    /// Where it is connected to, or will be next.
    pub target: SocketAddr,
    pub connector: Option<ConnectorId>,
    /// The connectors it has, for the nodes that it has been to.
    pub connectors: Vec<(SocketAddr, ConnectorId)>,
    /// Since when something has been in flight without an answer, in nanoseconds.
    pub waiting_since_ns: u64,
    /// It is among those that the next arrival may go out on.
    pub is_listed: bool,
    /// Failures since the last success.
    setbacks: u32,
    slots: Vec<Option<InFlight>>,
    free: Vec<u16>,
    /// How many sequence ids were given out.
    rounds: u64,
    identity: Identity,
}

/// Under which name writes go out.
#[derive(Debug)]
enum Identity {
    Uuid(String),
    Session(Option<Session>),
}

/// An explicit session.
#[derive(Debug)]
struct Session {
    id: u64,
    next_number: u64,
    /// Whether the writes from `acked_below` on are done with.
    done: VecDeque<bool>,
    acked_below: u64,
}

impl Lane {
    pub fn new(target: SocketAddr, pipeline: usize, has_session: bool) -> Lane {
        assert!(pipeline <= SLOTS_MAX, "the arguments were checked");
        Lane {
            link: Link::Down,
            target,
            connector: None,
            connectors: Vec::new(),
            waiting_since_ns: 0,
            is_listed: false,
            setbacks: 0,
            slots: vec![None; pipeline],
            free: (0..pipeline as u16).rev().collect(),
            rounds: 0,
            identity: if has_session {
                Identity::Session(None)
            } else {
                Identity::Uuid(uuid::Uuid::new_v4().to_string())
            },
        }
    }

    pub fn has_room(&self) -> bool {
        matches!(self.link, Link::Up(_)) && !self.free.is_empty()
    }

    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether a session has to be opened before anything else.
    pub fn needs_session(&self) -> bool {
        matches!(self.identity, Identity::Session(None))
    }

    pub fn session_opened(&mut self, id: u64) {
        self.identity = Identity::Session(Some(Session {
            id,
            next_number: 1,
            done: VecDeque::new(),
            acked_below: 1,
        }));
    }

    pub fn session_expired(&mut self) {
        if let Identity::Session(session) = &mut self.identity {
            *session = None;
        }
    }

    /// Takes a slot for a request, which there is; returns its sequence id and its name.
    pub fn begin(&mut self, kind: OperationType, start_ns: u64, now_ns: u64) -> (u64, Name<'_>) {
        if self.in_flight() == 0 {
            self.waiting_since_ns = now_ns;
        }
        let slot = self.free.pop().expect("the caller has looked for room");
        self.rounds += 1;
        let sequence_id = self.rounds << SLOT_BITS | u64::from(slot);
        let (name, number) = self.identity.name(kind);
        self.slots[usize::from(slot)] = Some(InFlight {
            kind,
            start_ns,
            number,
            sequence_id,
        });
        (sequence_id, name)
    }

    /// The request that an answer belongs to, which is then done with; `None` if nobody
    /// waits for it.
    pub fn end(&mut self, sequence_id: u64, now_ns: u64) -> Option<InFlight> {
        let slot = sequence_id as usize % SLOTS_MAX;
        let taken = self.slots.get_mut(slot)?;
        let request = taken.filter(|request| request.sequence_id == sequence_id)?;
        *taken = None;
        self.free.push(slot as u16);
        self.identity.done(request.number);
        self.waiting_since_ns = now_ns;
        Some(request)
    }

    /// Gives up all that is in flight; returns how many requests that are.
    pub fn give_up(&mut self) -> usize {
        let given_up = self.in_flight();
        for slot in 0..self.slots.len() {
            if let Some(request) = self.slots[slot].take() {
                self.free.push(slot as u16);
                self.identity.done(request.number);
            }
        }
        given_up
    }

    /// When the oldest request in flight was meant to be sent.
    pub fn oldest_start_ns(&self) -> Option<u64> {
        self.slots.iter().flatten().map(|r| r.start_ns).min()
    }

    pub fn succeeded(&mut self) {
        self.setbacks = 0;
    }

    /// How long to pause after this failure: the first is followed up at once.
    pub fn set_back(&mut self) -> Duration {
        let setbacks = self.setbacks;
        self.setbacks = setbacks.saturating_add(1);
        match setbacks {
            0 => Duration::ZERO,
            n => (PAUSE_MIN * (1 << (n - 1).min(10))).min(PAUSE_MAX),
        }
    }
}

impl Identity {
    /// The name for the next request, and its number in the session: reads have none.
    fn name(&mut self, kind: OperationType) -> (Name<'_>, u64) {
        match self {
            Identity::Uuid(uuid) => (Name::Uuid(uuid), 0),
            Identity::Session(Some(session)) if is_write(kind) => {
                let sequence = session.next_number;
                session.next_number += 1;
                session.done.push_back(false);
                let name = Name::Session {
                    id: session.id,
                    sequence,
                    acked_below: session.acked_below,
                };
                (name, sequence)
            }
            Identity::Session(_) => (Name::Uuid(""), 0),
        }
    }

    /// A write, answered or given up, will never be sent again.
    fn done(&mut self, number: u64) {
        let Identity::Session(Some(session)) = self else {
            return;
        };
        // One of an earlier session is not among them; 0 is none.
        let Some(place) = number.checked_sub(session.acked_below) else {
            return;
        };
        if let Some(done) = session.done.get_mut(place as usize) {
            *done = true;
        }
        while session.done.front() == Some(&true) {
            session.done.pop_front();
            session.acked_below += 1;
        }
    }
}

fn is_write(kind: OperationType) -> bool {
    !matches!(
        kind,
        OperationType::Get | OperationType::Scan | OperationType::OpenSession
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPDATE: OperationType = OperationType::Update;

    fn lane(pipeline: usize, has_session: bool) -> Lane {
        Lane::new("127.0.0.1:1".parse().unwrap(), pipeline, has_session)
    }

    #[test]
    fn an_answer_finds_its_request_once_and_in_any_order() {
        let mut lane = lane(3, false);
        let ids: Vec<u64> = (0..3).map(|at| lane.begin(UPDATE, at, at).0).collect();
        assert_eq!(lane.in_flight(), 3);
        for (start, id) in [(1, ids[1]), (2, ids[2]), (0, ids[0])] {
            assert_eq!(lane.end(id, 9).map(|r| r.start_ns), Some(start));
            assert_eq!(lane.end(id, 9), None, "answered twice");
        }
        let (again, _) = lane.begin(UPDATE, 5, 5);
        assert!(!ids.contains(&again), "a sequence id came twice");
        assert_eq!(lane.end(ids[0], 9), None);
        assert_eq!(lane.end(u64::MAX, 9), None);
    }

    fn begin(lane: &mut Lane) -> (u64, u64, u64) {
        match lane.begin(UPDATE, 0, 0) {
            (
                id,
                Name::Session {
                    sequence,
                    acked_below,
                    ..
                },
            ) => (id, sequence, acked_below),
            (_, name) => panic!("not in the session: {name:?}"),
        }
    }

    #[test]
    fn a_session_acknowledges_what_lies_below_the_oldest_write_in_flight() {
        let mut lane = lane(4, true);
        assert!(lane.needs_session());
        lane.session_opened(7);
        let (first, one, _) = begin(&mut lane);
        let (second, two, _) = begin(&mut lane);
        assert_eq!((one, two), (1, 2));
        lane.end(second, 0);
        let (third, three, acked_below) = begin(&mut lane);
        assert_eq!((three, acked_below), (3, 1), "the first is still in flight");
        lane.end(first, 0);
        let (_, four, acked_below) = begin(&mut lane);
        assert_eq!((four, acked_below), (4, 3));
        assert_eq!(lane.give_up(), 2);
        assert_eq!(lane.end(third, 0), None);
        let (_, five, acked_below) = begin(&mut lane);
        assert_eq!((five, acked_below), (5, 5));
    }

    #[test]
    fn reads_take_no_number_of_the_session() {
        let mut lane = lane(2, true);
        lane.session_opened(7);
        let (read, name) = lane.begin(OperationType::Get, 0, 0);
        assert_eq!(name, Name::Uuid(""));
        let (_, number, acked_below) = begin(&mut lane);
        assert_eq!((number, acked_below), (1, 1));
        lane.end(read, 0);
    }

    #[test]
    fn pauses_begin_with_the_second_setback_and_grow_up_to_a_bound() {
        let mut lane = lane(1, false);
        let pauses: Vec<u128> = (0..8).map(|_| lane.set_back().as_millis()).collect();
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 200, 200]);
        lane.succeeded();
        assert_eq!(lane.set_back(), Duration::ZERO);
    }
}
