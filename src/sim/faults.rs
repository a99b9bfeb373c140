//! What goes wrong with nodes, links, disks and clocks.
//!
//! Each kind of fault is a variant of [`Fault`] with a function of its own in
//! [`Simulation::fault`]; the plan of a run says how often each is drawn. To add one, add
//! a variant, its place in [`Fault::ALL`] with its name, and its function.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::disk::SimDisk;
use crate::node::Node;
use crate::sim::cluster::{Event, Simulation};
use crate::sim::network::draw_delay;
use crate::sim::place::{Place, State};
use crate::types::NodeId;

/// How long a fault lasts, if it has no reason to last shorter or longer.
const USUAL: Duration = Duration::from_millis(500);
/// How long what takes seconds lasts.
const LONG: Duration = Duration::from_secs(2);
/// How many times slower a slow disk is.
const SLOWNESS: u32 = 20;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A process is killed. What it had written stays.
    Kill,
    /// A machine loses its power. What it had not synced may be gone, torn or garbage.
    PowerLoss,
    /// All machines lose their power at once.
    Blackout,
    /// All nodes are restarted, one after the other.
    RollingRestart,
    /// A process does nothing for a while; its clock jumps when it wakes.
    Pause,
    /// The leader is paused, and what others send to it arrives just before it wakes, behind
    /// what clients ask: it thinks that it still leads.
    Zombie,
    /// A node comes back without its data directory.
    LostDirectory,
    /// Two sides that do not hear each other.
    Partition,
    /// Some pairs do not hear each other, though everyone still reaches someone.
    PartialPartition,
    /// A node hears nobody, or nobody hears it.
    HalfDeaf,
    /// The leader is cut off from some of the others.
    CutLeader,
    /// Links hold back what they carry, and deliver all of it late.
    Clog,
    /// A disk is many times slower for a while.
    SlowDisk,
    /// A disk does nothing for seconds.
    HungDisk,
    /// A sync fails: the node stops with a reason, and is restarted from what is there.
    FailedSync,
    /// A disk has no room for a while.
    FullDisk,
    /// A clock changes its rate.
    Drift,
    /// An operator asks for some change of the members, sensible or not.
    ChangeMembers,
    /// An operator wants another leader.
    HandOver,
}

impl Fault {
    /// All of them, with their names.
    pub(super) const ALL: [(Fault, &'static str); 19] = [
        (Fault::Kill, "kill"),
        (Fault::PowerLoss, "power loss"),
        (Fault::Blackout, "blackout"),
        (Fault::RollingRestart, "rolling restart"),
        (Fault::Pause, "pause"),
        (Fault::Zombie, "zombie"),
        (Fault::LostDirectory, "lost directory"),
        (Fault::Partition, "partition"),
        (Fault::PartialPartition, "partial partition"),
        (Fault::HalfDeaf, "half deaf"),
        (Fault::CutLeader, "cut leader"),
        (Fault::Clog, "clog"),
        (Fault::SlowDisk, "slow disk"),
        (Fault::HungDisk, "hung disk"),
        (Fault::FailedSync, "failed sync"),
        (Fault::FullDisk, "full disk"),
        (Fault::Drift, "drift"),
        (Fault::ChangeMembers, "change of members"),
        (Fault::HandOver, "hand-over"),
    ];
}

impl Simulation {
    /// Draws a fault by the weights of the plan, and lets it happen.
    pub(super) fn fault(&mut self) {
        if !self.turmoil {
            return;
        }
        let pause = draw_delay(&mut self.rng, self.plan.fault_every);
        self.after(pause, Event::Fault);
        let sum: u32 = self.plan.weights.iter().sum();
        let mut toss = self.rng.random_range(0..sum);
        let drawn = self.plan.weights.iter().position(|weight| {
            let hit = toss < *weight;
            toss = toss.saturating_sub(*weight);
            hit
        });
        let kind = drawn.expect("the toss is below the sum");
        let (fault, name) = Fault::ALL[kind];
        let id = self.victim();
        self.note(|| format!("fault: {name}, n{id} if it is about one"));
        let happened = match fault {
            Fault::Kill => self.knock_out(id, false),
            Fault::PowerLoss => self.knock_out(id, true),
            Fault::Blackout => self.black_out(),
            Fault::RollingRestart => self.begin_rolling(),
            Fault::Pause => self.pause(id),
            Fault::Zombie => self.make_zombie(),
            Fault::LostDirectory => self.lose_directory(id),
            Fault::Partition => self.part(),
            Fault::PartialPartition => self.part_in_part(),
            Fault::HalfDeaf => self.half_deafen(id),
            Fault::CutLeader => self.cut_leader(id),
            Fault::Clog => self.clog(id),
            Fault::SlowDisk => self.slow_disk(id),
            Fault::HungDisk => self.hang_disk(id),
            Fault::FailedSync => self.fail_sync(id),
            Fault::FullDisk => self.fill_disk(id),
            Fault::Drift => self.drift(id),
            Fault::ChangeMembers => self.change_members(id),
            Fault::HandOver => self.hand_over(id),
        };
        self.report.faults[kind] += u64::from(happened);
    }

    /// Any node, but the leader more often than the others.
    fn victim(&mut self) -> u64 {
        let any = self.rng.random_range(0..self.plan.nodes);
        if self.rng.random_range(0..3) == 0 {
            self.leader().unwrap_or(any)
        } else {
            any
        }
    }

    fn is_up(&self, id: u64) -> bool {
        self.places[id as usize].node().is_some()
    }

    fn knock_out(&mut self, id: u64, power: bool) -> bool {
        let happened = self.is_up(id);
        self.crash(id, power);
        let time = draw_delay(&mut self.rng, USUAL);
        self.after(time, Event::Restart(id));
        happened
    }

    fn black_out(&mut self) -> bool {
        for id in 0..self.plan.nodes {
            self.crash(id, true);
            let time = draw_delay(&mut self.rng, Duration::from_millis(100));
            self.after(time, Event::Restart(id));
        }
        true
    }

    fn begin_rolling(&mut self) -> bool {
        let mut order: Vec<u64> = (0..self.plan.nodes).collect();
        order.shuffle(&mut self.rng);
        self.roll(order);
        true
    }

    /// Restarts the last of these nodes, and goes on with the others in a while.
    pub(super) fn roll(&mut self, mut order: Vec<u64>) {
        let Some(id) = order.pop().filter(|_| self.turmoil) else {
            return;
        };
        let power = self.rng.random_bool(0.3);
        self.crash(id, power);
        let down = draw_delay(&mut self.rng, Duration::from_millis(50));
        self.after(down, Event::Restart(id));
        let next = draw_delay(&mut self.rng, Duration::from_millis(300));
        self.after(down + next, Event::Roll(order));
    }

    fn pause(&mut self, id: u64) -> bool {
        let time = draw_delay(&mut self.rng, USUAL);
        self.pause_for(id, time)
    }

    pub(super) fn pause_for(&mut self, id: u64, time: Duration) -> bool {
        let place = &mut self.places[id as usize];
        if place.node().is_none() || place.paused {
            return false;
        }
        place.paused = true;
        let life = place.life;
        self.after(time, Event::Resume(id, life));
        true
    }

    /// What it is sent stays away first, so that answers to its last rounds are among the
    /// late mail, and then it is paused, before it misses them.
    fn make_zombie(&mut self) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        let awake = Duration::from_millis(self.rng.random_range(60..200));
        let time = USUAL.mul_f64(self.rng.random_range(0.6..2.0));
        let late = self.now + awake + time.mul_f64(self.rng.random_range(0.7..1.0));
        for (from, to) in pairs(self.plan.nodes).filter(|(_, to)| *to == leader) {
            self.network.clog(from, to, late);
        }
        let life = self.places[leader as usize].life;
        self.after(awake, Event::Pause(leader, life, time));
        true
    }

    /// A node comes back with nothing. One at a time, and only while all others have
    /// what they promised: no store survives the loss of a majority of its disks.
    fn lose_directory(&mut self, id: u64) -> bool {
        let intact = |place: &Place| place.node().is_some() && !place.lost;
        let members = self.settled_members();
        let voters = members
            .as_ref()
            .map_or(0, |members| members.quorum().voters().len());
        if voters < 3 || !self.places.iter().all(intact) {
            return false;
        }
        let votes = |node: &Node<SimDisk>| node.raft().may_vote();
        let was_voter = self.places[id as usize].node().is_some_and(votes);
        self.crash(id, true);
        let place = &mut self.places[id as usize];
        place.state = State::Down(SimDisk::new());
        place.incarnation += 1000;
        place.lost = was_voter;
        place.full = false;
        self.checker.forget(NodeId(id));
        let time = draw_delay(&mut self.rng, USUAL);
        self.after(time, Event::Restart(id));
        true
    }

    /// Cuts links for a while.
    fn cut(&mut self, links: Vec<(u64, u64)>) -> bool {
        let happened = !links.is_empty();
        let cut = self.network.cut(links);
        let time = draw_delay(&mut self.rng, USUAL * 2);
        self.after(time, Event::Mend(cut));
        happened
    }

    fn part(&mut self) -> bool {
        let nodes = self.plan.nodes;
        let sides: Vec<bool> = (0..nodes).map(|_| self.rng.random_bool(0.5)).collect();
        let apart = |(from, to): &(u64, u64)| sides[*from as usize] != sides[*to as usize];
        self.cut(pairs(nodes).filter(apart).collect())
    }

    fn part_in_part(&mut self) -> bool {
        let links = links_of_some(&mut self.rng, self.plan.nodes);
        self.cut(links)
    }

    fn half_deafen(&mut self, id: u64) -> bool {
        let deaf = self.rng.random_bool(0.5);
        let its = |(from, to): &(u64, u64)| if deaf { *to == id } else { *from == id };
        self.cut(pairs(self.plan.nodes).filter(its).collect())
    }

    fn cut_leader(&mut self, otherwise: u64) -> bool {
        let leader = self.leader().unwrap_or(otherwise);
        let mut links = Vec::new();
        for other in (0..self.plan.nodes).filter(|other| *other != leader) {
            if self.rng.random_bool(0.6) {
                links.extend([(leader, other), (other, leader)]);
            }
        }
        self.cut(links)
    }

    /// One link, or all of a node.
    fn clog(&mut self, id: u64) -> bool {
        let until = self.now + draw_delay(&mut self.rng, LONG);
        let peer = self.rng.random_range(0..self.plan.nodes);
        let all = self.rng.random_bool(0.5);
        for (from, to) in pairs(self.plan.nodes) {
            if (from, to) == (id, peer) || all && (from == id || to == id) {
                self.network.clog(from, to, until);
            }
        }
        all || peer != id
    }

    fn slow_disk(&mut self, id: u64) -> bool {
        let place = &mut self.places[id as usize];
        place.slowness = SLOWNESS;
        place.may_stop |= self.plan.disk_give_up.is_some();
        let time = draw_delay(&mut self.rng, LONG);
        self.after(time, Event::DiskRecovers(id));
        true
    }

    fn hang_disk(&mut self, id: u64) -> bool {
        let until = self.now + draw_delay(&mut self.rng, LONG);
        let place = &mut self.places[id as usize];
        place.hung_until = place.hung_until.max(until);
        place.may_stop |= self.plan.disk_give_up.is_some();
        true
    }

    fn fail_sync(&mut self, id: u64) -> bool {
        let place = &mut self.places[id as usize];
        let Some(node) = place.node_mut() else {
            return false;
        };
        node.disk().fail_next_sync();
        place.may_stop = true;
        true
    }

    fn fill_disk(&mut self, id: u64) -> bool {
        let place = &mut self.places[id as usize];
        place.full = true;
        place.may_stop = true;
        place.disk_mut().set_no_space(true);
        let time = draw_delay(&mut self.rng, LONG / 2);
        self.after(time, Event::RoomAgain(id));
        true
    }

    fn drift(&mut self, id: u64) -> bool {
        let bound = self.plan.drift_ppm;
        let gain = self.rng.random_range(-bound..=bound);
        let now = self.now;
        self.places[id as usize].clock.retune(now, gain);
        bound > 0
    }
}

/// All links between nodes.
fn pairs(nodes: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..nodes).flat_map(move |from| {
        let others = (0..nodes).filter(move |to| *to != from);
        others.map(move |to| (from, to))
    })
}

/// Links to cut so that everyone still reaches someone: in some order everybody keeps its
/// neighbours on a ring, or on a path of three, and other links may go.
fn links_of_some(rng: &mut StdRng, nodes: u64) -> Vec<(u64, u64)> {
    let mut order: Vec<u64> = (0..nodes).collect();
    order.shuffle(rng);
    let ring = if nodes > 3 { nodes } else { u64::MAX };
    let place = |id: u64| order.iter().position(|other| *other == id);
    let place = |id: u64| place(id).expect("all are there") as u64;
    let mut links = Vec::new();
    for (from, to) in pairs(nodes).filter(|(from, to)| from < to) {
        let apart = place(from).abs_diff(place(to));
        let near = apart == 1 || apart + 1 == ring;
        if !near && rng.random_bool(0.8) {
            links.extend([(from, to), (to, from)]);
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn in_a_partial_partition_everyone_still_reaches_someone_and_some_pairs_are_cut() {
        let mut rng = StdRng::seed_from_u64(5);
        for nodes in [2, 3, 5, 7] {
            let mut cut_ever = false;
            for _ in 0..50 {
                let cut = links_of_some(&mut rng, nodes);
                cut_ever |= !cut.is_empty();
                let mut reached = vec![0];
                while let Some(next) = pairs(nodes).find(|link| {
                    reached.contains(&link.0) && !reached.contains(&link.1) && !cut.contains(link)
                }) {
                    reached.push(next.1);
                }
                assert_eq!(reached.len() as u64, nodes, "all are connected: {cut:?}");
            }
            assert_eq!(cut_ever, nodes > 2);
        }
    }
}
