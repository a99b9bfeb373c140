//! What a cluster owes once faults have stopped: in a core first, which has a majority, then
//! everywhere. Each time it must serve a fresh write and a fresh read, and agree.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::seq::SliceRandom;

use crate::kv::{ClientId, Command, Identity, WriteOp};
use crate::node::{Answer, Request};
use crate::raft::{Configuration, LEVEL_MAX, Standing};
use crate::sim::cluster::{Event, Simulation};
use crate::sim::place::State;
use crate::sim::plan::Rest;
use crate::time::Time;
use crate::types::NodeId;

/// How long it may take until all nodes of the core agree, and serve.
const CONVERGENCE: Duration = Duration::from_secs(30);
/// The probe's number among the clients.
pub(super) const PROBE: usize = u32::MAX as usize;
/// The probe asks again after this long.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// A client that wants to write something and to read it back.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// Names what it writes.
    number: u64,
    written: bool,
    read: bool,
    attempt: u64,
    ask_at: Time,
}

impl Probe {
    /// The next one, with a value of its own.
    fn next(&self, now: Time) -> Probe {
        Probe {
            number: self.number + 1,
            attempt: self.attempt,
            ask_at: now,
            ..Probe::default()
        }
    }

    fn value(&self) -> Bytes {
        Bytes::from(format!("probe {}", self.number))
    }

    fn request(&self) -> Request {
        let key = Bytes::from_static(b"probe");
        if self.written {
            let anywhere = false;
            return Request::Get { key, anywhere };
        }
        let identity = Identity::Implicit {
            client: ClientId(u128::MAX),
            sequence: self.number,
        };
        let value = self.value();
        let op = WriteOp::Update { key, value };
        Request::Write {
            command: Command::Write { identity, op }.encode(),
            grows: true,
        }
    }

    /// An answer came; one to an earlier attempt counts for nothing.
    pub(super) fn take_answer(&mut self, attempt: u64, answer: &Answer) {
        if attempt != self.attempt {
            return;
        }
        match answer {
            Answer::Applied(_) if !self.written => self.written = true,
            Answer::Value(value) if self.written => {
                let value = value.as_ref().map(|value| &value[..]);
                assert_eq!(value, Some(&self.value()[..]), "a fresh write is not there");
                self.read = true;
            }
            _ => return,
        }
        self.ask_at = Time::ZERO;
    }
}

impl Simulation {
    /// Faults stop in the core, then everywhere.
    pub(super) fn calm(&mut self) {
        let core = self.choose_core();
        self.note(|| format!("faults stop in the core: {core:?}"));
        self.turmoil = false;
        self.network.calm();
        self.set_apart(&core);
        self.plan.disk_delay = self.plan.disk_delay.min(Duration::from_millis(1));
        self.mend_nodes(&core);
        self.report.core_recovered = self.wait_for_agreement(&core);
        let all: Vec<u64> = (0..self.plan.nodes).collect();
        if core.len() < all.len() {
            self.note(|| "faults stop everywhere".to_owned());
            self.network.calm();
            self.mend_nodes(&all);
            self.report.all_agreed = self.wait_for_agreement(&all);
        }
    }

    /// A majority picked at random, and what becomes of the others. A node that waits for
    /// the right to vote may need more than a majority, so then all are in the core.
    fn choose_core(&mut self) -> Vec<u64> {
        let nodes = self.plan.nodes;
        let mut core: Vec<u64> = (0..nodes).collect();
        let lost = self.places.iter().any(|place| place.lost);
        if self.plan.rest == Rest::Calm || nodes < 3 || lost {
            return core;
        }
        // While the members change, who decides is not the same for everyone.
        let Some(members) = self.settled_members() else {
            return core;
        };
        core.shuffle(&mut self.rng);
        let size = self.rng.random_range(1..nodes as usize);
        let quorum = members.quorum();
        // As many more as make a majority of the voters.
        let enough = (size..=core.len())
            .find(|size| quorum.is_met(|voter| core[..*size].contains(&voter.id.0)));
        core.truncate(enough.expect("all are a majority"));
        core.sort_unstable();
        core
    }

    /// The members, if there is no doubt about who they are: all nodes are up, or the
    /// members have never changed, and all have committed the same.
    pub(super) fn settled_members(&self) -> Option<Configuration> {
        let rafts = self
            .places
            .iter()
            .filter_map(|place| Some(place.node()?.raft()));
        let mut rafts = rafts.peekable();
        let members = rafts.peek()?.configuration().clone();
        let all_are_up = self.places.iter().all(|place| place.node().is_some());
        let settled = rafts.all(|raft| {
            *raft.configuration() == members && raft.configuration_index() <= raft.commit_index()
        });
        let known = all_are_up || !self.checker.members_changed();
        let moves = members
            .members()
            .any(|(_, m)| m.standing == Standing::Entering);
        let founds = members.is_empty() || members.pending().next().is_some();
        (settled && known && !members.is_joint() && !moves && !founds).then_some(members)
    }

    /// What becomes of the others.
    fn set_apart(&mut self, core: &[u64]) {
        for id in (0..self.plan.nodes).filter(|id| !core.contains(id)) {
            if self.plan.rest == Rest::Down {
                let power = self.rng.random_bool(0.5);
                self.crash(id, power);
                self.places[id as usize].stays_down = true;
                continue;
            }
            let mut links: Vec<(u64, u64)> = core.iter().map(|other| (*other, id)).collect();
            if self.plan.rest == Rest::Cut {
                links.extend(core.iter().map(|other| (id, *other)));
            }
            // Never mended but by the calm everywhere.
            let _ = self.network.cut(links);
        }
    }

    fn mend_nodes(&mut self, nodes: &[u64]) {
        for id in nodes.iter().copied() {
            if self.places[id as usize].level < LEVEL_MAX {
                self.crash(id, false); // To be started with the newer program.
            }
            let place = &mut self.places[id as usize];
            place.stays_down = false;
            place.slowness = 1;
            place.full = false;
            place.disk_mut().mend();
            if place.hung_until > self.now {
                place.hung_until = Time::ZERO;
                let life = place.life;
                self.after(Duration::ZERO, Event::Disk(id, life));
            }
            self.resume(id);
            if matches!(self.places[id as usize].state, State::Down(_)) {
                self.after(Duration::ZERO, Event::Restart(id));
            }
        }
    }

    /// Waits until the core agrees and has served a fresh write and read; says how long
    /// that took.
    fn wait_for_agreement(&mut self, core: &[u64]) -> Duration {
        let begin = self.now;
        self.probe = self.probe.next(begin);
        while !(self.probe.read && self.has_converged(core)) {
            assert!(
                self.now < begin + CONVERGENCE,
                "no agreement of {core:?} in time after the faults, {:?}: {}",
                self.probe,
                self.describe()
            );
            self.ask_probe(core);
            assert!(self.step(), "nothing happens any more: {}", self.describe());
        }
        self.now.since(begin)
    }

    /// The probe asks the leader, if it is time.
    fn ask_probe(&mut self, core: &[u64]) {
        if self.probe.read || self.now < self.probe.ask_at {
            return;
        }
        let Some(to) = self.leader().filter(|leader| core.contains(leader)) else {
            return;
        };
        self.probe.ask_at = self.now + PROBE_EVERY;
        self.probe.attempt += 1;
        let (attempt, request) = (self.probe.attempt, self.probe.request());
        self.checker.asked(PROBE, attempt, &request);
        self.take_request(PROBE, attempt, to, request);
    }

    fn has_converged(&self, core: &[u64]) -> bool {
        // Only who is a member gets the log.
        let members = self.leader().and_then(|leader| {
            let raft = self.places[leader as usize].node()?.raft();
            Some(raft.configuration().clone())
        });
        let Some(members) = members else {
            return false;
        };
        let mut applied = None;
        self.clients.iter().all(|client| !client.is_busy())
            && self.leader().is_some_and(|leader| core.contains(&leader))
            && core.iter().all(|id| {
                let of_id: Vec<Standing> = members
                    .members_of(NodeId(*id))
                    .map(|(_, m)| m.standing)
                    .collect();
                of_id.is_empty()
                    || self.places[*id as usize].node().is_some_and(|node| {
                        let same = *applied.get_or_insert(node.applied()) == node.applied();
                        let votes = match of_id[..] {
                            [Standing::Voter] => node.raft().may_vote(),
                            [Standing::Learner] => true,
                            _ => false, // A change is under way.
                        };
                        same && votes && node.applied() == node.raft().log().last().index
                    })
            })
    }
}
