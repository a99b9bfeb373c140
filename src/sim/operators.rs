//! What operators ask for: other members, another leader, at any time and from whomever.

use rand::RngExt;

use crate::node::{Answer, Caller, OperatorAnswer, Request};
use crate::raft::Change;
use crate::sim::cluster::Simulation;
use crate::types::NodeId;

/// The operator's number among those who ask.
pub(super) const OPERATOR: u32 = u32::MAX - 1;

impl Simulation {
    /// Some change of the members, sensible or not: the leader has to tell.
    pub(super) fn change_members(&mut self, id: u64) -> bool {
        if self.places.iter().any(|place| place.lost) {
            // Two lost directories of three voters are beyond what any cluster survives, and
            // so is one of two: no change makes a majority of those who have lost something.
            return false;
        }
        let count = self.rng.random_range(1..=3);
        let changes = (0..count).map(|_| self.draw_change()).collect();
        self.ask_leader(id, Request::Change(changes))
    }

    fn draw_change(&mut self) -> Change {
        let id = NodeId(self.rng.random_range(0..self.plan.nodes));
        let moved = |to: u64| Change::Move {
            id,
            peer: format!("p{}", id.0 + to),
            client: format!("c{}", id.0 + to),
        };
        match self.rng.random_range(0..9) {
            8 => moved(if self.rng.random_bool(0.5) { 100 } else { 0 }),
            0 => Change::Remove(id),
            1 => Change::Demote(id),
            2..5 => Change::Promote(id),
            _ => Change::AddLearner {
                id,
                peer: format!("p{}", id.0),
                client: format!("c{}", id.0),
            },
        }
    }

    /// Another leader.
    pub(super) fn hand_over(&mut self, to: u64) -> bool {
        let any = self.rng.random_range(0..self.plan.nodes);
        self.ask_leader(any, Request::HandOver(NodeId(to)))
    }

    /// Asks the leader, or `otherwise` if there is none.
    fn ask_leader(&mut self, otherwise: u64, request: Request) -> bool {
        let to = self.leader().unwrap_or(otherwise);
        let happened = self.places[to as usize].node().is_some();
        self.note(|| format!("an operator asks n{to}: {request:?}"));
        let place = &mut self.places[to as usize];
        let caller = Caller {
            reactor: OPERATOR,
            connection: place.life,
            sequence: 0,
        };
        let now = place.clock.shows(self.now);
        if place.paused {
            return false;
        }
        if let Some(node) = place.node_mut() {
            node.handle_client(now, caller, request);
            self.after_step(to);
            self.queue_flush(to);
        }
        happened
    }

    /// An operator is answered.
    pub(super) fn hear_operator(&mut self, answer: &Answer) {
        self.note(|| format!("an operator is told {answer:?}"));
        let done = [
            Answer::Change(OperatorAnswer::Done),
            Answer::HandOver(OperatorAnswer::Done),
        ];
        if done.contains(answer) {
            self.report.wishes += 1;
        }
    }
}
