//! The load of one thread: lanes to the leader, kept full or fed by a schedule, as the
//! handler of an event loop.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::Sender;
use raftkv::client::ClientError;
use raftkv::client::protocol::{self, Answer, Outcome};
use raftkv::client::request::Request;
use raftkv::net::frame::Body;
use raftkv::net::{CloseReason, ConnectionId, ConnectorId, Handler, Io, TimerId};
use raftkv::pb::OperationType;

use crate::lane::{InFlight, Lane, Link};
use crate::schedule::{Pacer, Schedule};
use crate::tally::{ErrorKind, Tally};
use crate::workload::Workload;

/// What a load has to keep to.
#[derive(Clone, Debug)]
pub struct Orders {
    /// The nodes' client addresses; one of them leads, at first `leader`.
    pub addrs: Vec<SocketAddr>,
    pub leader: SocketAddr,
    pub lanes: usize,
    pub pipeline: usize,
    pub has_sessions: bool,
    /// Without an answer for so long a lane gives up what it has in flight.
    pub timeout: Duration,
    /// Where time begins.
    pub origin: Instant,
    /// When intervals end, in nanoseconds; the first is the warm-up, and may be empty.
    pub interval_ends_ns: Vec<u64>,
}

impl Orders {
    /// When the last interval ends.
    pub fn end_ns(&self) -> u64 {
        self.interval_ends_ns.last().copied().unwrap_or(0)
    }
}

/// What is left at the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leftover {
    /// Sent and not answered.
    pub in_flight: u64,
    /// Due and not sent.
    pub not_sent: u64,
    /// How long ago the oldest of both was meant to be sent.
    pub oldest_ns: u64,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug)]
enum Alarm {
    IntervalEnd,
    /// Time to look for lanes that wait for too long.
    Watch,
    /// The pause of this lane is over.
    Lane(usize),
}

/// See the module.
pub struct Load {
    orders: Orders,
    workload: Workload,
    /// `None` for a closed loop: a lane sends as soon as it has room.
    schedule: Option<Schedule>,
    pacer: Option<Pacer>,
    lanes: Vec<Lane>,
    /// The lane of the connection with this key, as long as the connection is its own.
    by_key: Vec<usize>,
    by_connector: HashMap<ConnectorId, usize>,
    /// Lanes that may have room, each once; the first is the next. For an open loop.
    with_room: VecDeque<usize>,
    alarms: HashMap<TimerId, Alarm>,
    tally: Tally,
    /// Which interval it is.
    interval: usize,
    /// Takes the tally of each interval, with its number.
    tallies: Sender<(usize, Tally)>,
}

impl Load {
    pub fn new(
        orders: Orders,
        workload: Workload,
        paced: Option<(Schedule, Pacer)>,
        tallies: Sender<(usize, Tally)>,
    ) -> Load {
        let lanes = (0..orders.lanes)
            .map(|_| Lane::new(orders.leader, orders.pipeline, orders.has_sessions))
            .collect();
        let (schedule, pacer) = paced.unzip();
        Load {
            orders,
            workload,
            schedule,
            pacer,
            lanes,
            by_key: Vec::new(),
            by_connector: HashMap::new(),
            with_room: VecDeque::new(),
            alarms: HashMap::new(),
            tally: Tally::new(),
            interval: 0,
            tallies,
        }
    }

    /// What is left once the loop has ended.
    pub fn leftover(&self) -> Leftover {
        let end_ns = self.orders.end_ns();
        let next_ns = self.schedule.as_ref().map(Schedule::next_ns);
        let oldest_ns = self.lanes.iter().filter_map(Lane::oldest_start_ns);
        let oldest_ns = oldest_ns.chain(next_ns).min().unwrap_or(end_ns);
        Leftover {
            in_flight: self.lanes.iter().map(|lane| lane.in_flight() as u64).sum(),
            not_sent: self
                .schedule
                .clone()
                .map_or(0, |schedule| schedule.count_until(end_ns)),
            oldest_ns: end_ns.saturating_sub(oldest_ns),
        }
    }

    fn now_ns(&self) -> u64 {
        self.orders.origin.elapsed().as_nanos() as u64
    }

    fn set_alarm(&mut self, io: &mut Io, deadline: Instant, alarm: Alarm) {
        self.alarms.insert(io.set_timer(deadline), alarm);
    }

    fn set_watch(&mut self, io: &mut Io) {
        let deadline = Instant::now() + (self.orders.timeout / 4).min(Duration::from_millis(250));
        self.set_alarm(io, deadline, Alarm::Watch);
    }

    fn set_interval_end(&mut self, io: &mut Io) {
        let end = Duration::from_nanos(self.orders.interval_ends_ns[self.interval]);
        self.set_alarm(io, self.orders.origin + end, Alarm::IntervalEnd);
    }

    /// Hands over the tally of the interval that has ended; with the last one the load ends.
    fn end_interval(&mut self, io: &mut Io) {
        let tally = std::mem::replace(&mut self.tally, Tally::new());
        // If nobody takes it any more, the run has failed, and nobody needs it.
        let _ = self.tallies.send((self.interval, tally));
        self.interval += 1;
        if self.interval == self.orders.interval_ends_ns.len() {
            return io.stop();
        }
        self.set_interval_end(io);
    }

    /// The lane whose present connection this is.
    fn lane_of(&self, connection: ConnectionId) -> Option<usize> {
        let lane = *self.by_key.get(connection.key as usize)?;
        let link = self.lanes.get(lane)?.link;
        (link.connection() == Some(connection)).then_some(lane)
    }

    /// Sends one more request on a lane that has room.
    fn send(&mut self, io: &mut Io, lane: usize, start_ns: u64, now_ns: u64) {
        let lane = &mut self.lanes[lane];
        let Link::Up(connection) = lane.link else {
            unreachable!("a lane that has room is up");
        };
        let drawn = self.workload.draw();
        let (sequence_id, name) = lane.begin(drawn.kind, start_ns, now_ns);
        let request = Request {
            kind: drawn.kind,
            key: &drawn.key,
            value: drawn.value,
            name,
        };
        // If the connection takes nothing any more, its end is about to be told.
        io.send_with(connection, |out| request.encode_call(out, sequence_id));
    }

    /// A lane may have room: sends what a closed loop has to send there; an open loop sends
    /// at the end of the round.
    fn on_room(&mut self, io: &mut Io, lane: usize, now_ns: u64) {
        if self.schedule.is_some() {
            let found = &mut self.lanes[lane];
            if found.has_room() && !found.is_listed {
                found.is_listed = true;
                self.with_room.push_back(lane);
            }
            return;
        }
        while self.lanes[lane].has_room() {
            self.send(io, lane, now_ns, now_ns);
        }
    }

    /// Sends what is due, as far as lanes have room; the rest keeps its intended starts.
    fn send_due(&mut self, io: &mut Io) {
        let Some(schedule) = &self.schedule else {
            return;
        };
        let (now_ns, end_ns) = (self.now_ns(), self.orders.end_ns());
        let mut start_ns = schedule.next_ns();
        while start_ns <= now_ns && start_ns < end_ns {
            let Some(lane) = self.with_room.pop_front() else {
                break;
            };
            self.lanes[lane].is_listed = false;
            if !self.lanes[lane].has_room() {
                continue;
            }
            self.send(io, lane, start_ns, now_ns);
            self.on_room(io, lane, now_ns);
            let schedule = self.schedule.as_mut().expect("it is an open loop");
            schedule.advance();
            start_ns = schedule.next_ns();
        }
        if let Some(pacer) = &self.pacer {
            // What is due and has no room leaves with an answer.
            pacer.set_wanted(start_ns > now_ns);
        }
    }

    fn go(&mut self, io: &mut Io, lane: usize) {
        let found = &mut self.lanes[lane];
        let target = found.target;
        let known = found.connectors.iter().find(|(addr, _)| *addr == target);
        let connector = match known {
            Some((_, connector)) => {
                io.reset_backoff(*connector);
                *connector
            }
            None => {
                let connector = io.connect(target);
                found.connectors.push((target, connector));
                self.by_connector.insert(connector, lane);
                connector
            }
        };
        self.lanes[lane].connector = Some(connector);
    }

    /// Drops what a lane is connected to, and dials again after a pause.
    fn depart(&mut self, io: &mut Io, lane: usize) {
        let found = &mut self.lanes[lane];
        found.link = Link::Down;
        if let Some(connector) = found.connector.take() {
            io.disconnect(connector);
        }
        let pause = found.set_back();
        self.set_alarm(io, Instant::now() + pause, Alarm::Lane(lane));
    }

    /// The next of the nodes, in their order.
    fn next_target(&self, lane: usize) -> SocketAddr {
        let addrs = &self.orders.addrs;
        let at = addrs.iter().position(|a| *a == self.lanes[lane].target);
        addrs[at.map_or(0, |at| (at + 1) % addrs.len())]
    }

    /// The node of this lane does not lead: once all is answered, the lane goes elsewhere.
    fn leave(&mut self, lane: usize, to: Option<SocketAddr>) {
        let is_leaving = matches!(self.lanes[lane].link, Link::Leaving(_));
        if let Some(target) = to {
            self.lanes[lane].target = target;
        } else if !is_leaving {
            self.lanes[lane].target = self.next_target(lane);
        }
        if let Some(connection) = self.lanes[lane].link.connection() {
            self.lanes[lane].link = Link::Leaving(connection);
        }
    }

    /// The node of this lane asks for patience.
    fn rest(&mut self, io: &mut Io, lane: usize) {
        let found = &mut self.lanes[lane];
        let (Link::Up(connection) | Link::Opening(connection)) = found.link else {
            return;
        };
        found.link = Link::Resting(connection);
        let pause = found.set_back();
        self.set_alarm(io, Instant::now() + pause, Alarm::Lane(lane));
    }

    /// Sends again on a connection that is there, in a session if there is to be one.
    fn start(&mut self, io: &mut Io, lane: usize, connection: ConnectionId) {
        let now_ns = self.now_ns();
        let found = &mut self.lanes[lane];
        if !found.needs_session() {
            found.link = Link::Up(connection);
            return self.on_room(io, lane, now_ns);
        }
        if found.in_flight() > 0 {
            // Those of the session that has expired are answered first.
            found.link = Link::Resting(connection);
            let again = Instant::now() + Duration::from_millis(10);
            return self.set_alarm(io, again, Alarm::Lane(lane));
        }
        found.link = Link::Opening(connection);
        let (sequence_id, name) = found.begin(OperationType::OpenSession, now_ns, now_ns);
        let request = Request {
            kind: OperationType::OpenSession,
            key: &[],
            value: &[],
            name,
        };
        io.send_with(connection, |out| request.encode_call(out, sequence_id));
    }

    fn take_answer(&mut self, io: &mut Io, lane: usize, body: Bytes) -> Result<(), ()> {
        let reply = protocol::decode_reply(body).map_err(drop)?;
        let now_ns = self.now_ns();
        let request = self.lanes[lane].end(reply.sequence_id, now_ns).ok_or(())?;
        let answer = protocol::decode_answer_to(request.kind, reply.payload);
        match answer.map_err(|_| self.tally.fail(ErrorKind::BadAnswer))? {
            Answer::Outcome(outcome) => self.succeed(lane, &request, &outcome, now_ns),
            failure => self.fail(io, lane, failure),
        }
        match self.lanes[lane].link {
            Link::Leaving(_) if self.lanes[lane].in_flight() == 0 => self.depart(io, lane),
            _ => self.on_room(io, lane, now_ns),
        }
        Ok(())
    }

    fn succeed(&mut self, lane: usize, request: &InFlight, outcome: &Outcome, now_ns: u64) {
        let lane = &mut self.lanes[lane];
        lane.succeeded();
        if let Outcome::Session(id) = outcome {
            lane.session_opened(*id);
            if let Link::Opening(connection) = lane.link {
                lane.link = Link::Up(connection);
            }
            return;
        }
        self.tally.not_found += u64::from(*outcome == Outcome::NotFound);
        let latency_ns = now_ns.saturating_sub(request.start_ns);
        self.tally.latency_ns.saturating_record(latency_ns);
    }

    fn fail(&mut self, io: &mut Io, lane: usize, failure: Answer) {
        let kind = match failure {
            Answer::Redirect(leader) => {
                self.leave(lane, Some(leader));
                ErrorKind::Redirected
            }
            Answer::NoLeader(_) => {
                self.leave(lane, None);
                ErrorKind::NoLeader
            }
            Answer::Busy(_) => {
                self.rest(io, lane);
                ErrorKind::Busy
            }
            Answer::Unknown(_) => ErrorKind::OutcomeUnknown,
            Answer::Refused(ClientError::KeyExists) => ErrorKind::KeyExists,
            Answer::Refused(ClientError::NoSpace { .. }) => ErrorKind::NoSpace,
            Answer::Refused(ClientError::SessionExpired { .. }) => {
                self.lanes[lane].session_expired();
                self.rest(io, lane);
                ErrorKind::SessionExpired
            }
            Answer::Refused(_) | Answer::Outcome(_) => ErrorKind::Refused,
        };
        if matches!(self.lanes[lane].link, Link::Opening(_)) {
            self.rest(io, lane);
        }
        self.tally.fail(kind);
    }

    fn give_up(&mut self, lane: usize, kind: ErrorKind) {
        for _ in 0..self.lanes[lane].give_up() {
            self.tally.fail(kind);
        }
    }

    /// Lanes whose node has not answered for too long go elsewhere.
    fn watch(&mut self, io: &mut Io) {
        let timeout_ns = self.orders.timeout.as_nanos() as u64;
        let now_ns = self.now_ns();
        for lane in 0..self.lanes.len() {
            let found = &self.lanes[lane];
            let waits = found.in_flight() > 0
                && now_ns.saturating_sub(found.waiting_since_ns) >= timeout_ns;
            let Some(connection) = found.link.connection().filter(|_| waits) else {
                continue;
            };
            self.give_up(lane, ErrorKind::TimedOut);
            self.lanes[lane].target = self.next_target(lane);
            self.depart(io, lane);
            io.abort(connection);
        }
        self.set_watch(io);
    }
}

impl Handler for Load {
    fn on_start(&mut self, io: &mut Io) {
        for lane in 0..self.lanes.len() {
            self.go(io, lane);
        }
        self.set_interval_end(io);
        self.set_watch(io);
    }

    fn on_connected(&mut self, io: &mut Io, connector: ConnectorId, connection: ConnectionId) {
        let lane = self.by_connector[&connector];
        if self.lanes[lane].connector != Some(connector) {
            return io.disconnect(connector);
        }
        let key = connection.key as usize;
        if self.by_key.len() <= key {
            self.by_key.resize(key + 1, usize::MAX);
        }
        self.by_key[key] = lane;
        self.start(io, lane, connection);
    }

    fn on_connect_failed(
        &mut self,
        io: &mut Io,
        connector: ConnectorId,
        _error: &io::Error,
        _retry_in: Option<Duration>,
    ) {
        let lane = self.by_connector[&connector];
        if self.lanes[lane].connector != Some(connector) {
            return io.disconnect(connector);
        }
        self.tally.connects_failed += 1;
        self.lanes[lane].target = self.next_target(lane);
        self.depart(io, lane);
    }

    fn on_frame(&mut self, io: &mut Io, connection: ConnectionId, body: Body<'_>) {
        let Some(lane) = self.lane_of(connection) else {
            return;
        };
        if self.take_answer(io, lane, body.into_bytes()).is_err() {
            // What else it sends cannot be trusted; its end comes to `on_close`.
            io.abort(connection);
        }
    }

    fn on_close(&mut self, io: &mut Io, connection: ConnectionId, _reason: CloseReason) {
        if let Some(lane) = self.lane_of(connection) {
            self.give_up(lane, ErrorKind::ConnectionLost);
            self.depart(io, lane);
        }
    }

    fn on_timer(&mut self, io: &mut Io, timer: TimerId) {
        match self.alarms.remove(&timer) {
            Some(Alarm::IntervalEnd) => self.end_interval(io),
            Some(Alarm::Watch) => self.watch(io),
            Some(Alarm::Lane(lane)) => match self.lanes[lane].link {
                Link::Down if self.lanes[lane].connector.is_none() => self.go(io, lane),
                Link::Resting(connection) => self.start(io, lane, connection),
                _ => {}
            },
            None => {}
        }
    }

    fn on_round_end(&mut self, io: &mut Io) {
        self.send_due(io);
    }
}
