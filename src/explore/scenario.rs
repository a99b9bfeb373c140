//! Where an exploration starts, and how far it goes.

use crate::explore::node::change;
use crate::raft::Change;
use crate::types::NodeId;

/// Something that happens at most so often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spend {
    /// A crash with a restart: what was not synced is lost.
    Crash,
    /// A restart with an empty directory.
    Loss,
    /// A message that arrives and is still on its way.
    Duplicate,
    /// An election time-out.
    Timeout,
    /// A round of heartbeats, with a look after the followers.
    Heartbeat,
    /// A leader that has heard of no majority for long enough.
    StepDown,
    /// A command.
    Propose,
    /// A read, of the leader or of a follower.
    Read,
    /// What seems to be lost is sent again: entries, or the question that reads wait for.
    Repeat,
    /// A change of the members.
    Change,
    /// A transfer of the leadership, or giving it up.
    Transfer,
    /// A connection to the leader that breaks.
    Forget,
    /// A node that introduces itself to a leader, or a connection of a leader that ends.
    Introduce,
    /// The founding of the cluster by n1.
    Found,
}

/// How often each may still happen, at most 15 times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget(u64);

impl Budget {
    /// So much of each; nothing of the others.
    #[must_use]
    pub const fn of(list: &[(Spend, u8)]) -> Budget {
        let mut bits = 0;
        let mut at = 0;
        while at < list.len() {
            let (spend, count) = list[at];
            assert!(count < 16, "a count has four bits");
            bits |= (count as u64) << (4 * spend as u64);
            at += 1;
        }
        Budget(bits)
    }

    /// What is left of it.
    #[must_use]
    pub fn left(self, spend: Spend) -> u8 {
        (self.0 >> (4 * spend as u64) & 15) as u8
    }

    /// One less, if there is one.
    pub(super) fn spent(self, spend: Spend) -> Option<Budget> {
        (self.left(spend) > 0).then(|| Budget(self.0 - (1 << (4 * spend as u64))))
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }
}

/// A node's disk at the start.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The node's number, from 1 on.
    pub node: u64,
    /// Its entries, as `1@1 2@1`.
    pub log: &'static str,
    /// Its term.
    pub term: u64,
    /// Its vote in that.
    pub vote: Option<u64>,
}

/// Where an exploration starts, and how far it goes.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// How many voters there are at first: n1, n2 and so on.
    pub nodes: u64,
    /// How many nodes behind them are no members.
    pub spare: u64,
    /// The feature level at first.
    pub level: u16,
    /// Whether all directories are new, and the cluster has to be founded.
    pub unborn: bool,
    /// Disks that are not empty.
    pub disks: &'static [Start],
    /// What happens before, in the words of the golden scripts; writes are durable at once.
    pub before: &'static [&'static str],
    /// Whether writes are durable at once: fewer states, where the disk is not what matters.
    pub autosync: bool,
    /// Nobody campaigns for a later term.
    pub term_max: u64,
    /// How often what may happen.
    pub budget: Budget,
    /// The changes of the members that are tried, each as `add:n4 promote:n4`.
    pub changes: &'static [&'static str],
    /// Who takes part in what is not a message: all, if empty. Messages arrive everywhere.
    pub actors: &'static [u64],
    /// Messages that can be on their way; where more might be, some get lost first.
    pub messages_max: usize,
    /// Whether nodes that nothing tells apart may be taken for each other. Not where a leader
    /// leaves: it chooses its successor by the lowest id.
    pub symmetric: bool,
}

/// What a scenario is if it says nothing else.
pub(super) const BASE: Scenario = Scenario {
    name: "",
    about: "",
    nodes: 3,
    spare: 0,
    level: 1,
    unborn: false,
    disks: &[],
    before: &[],
    autosync: false,
    term_max: 3,
    budget: Budget(0),
    changes: &[],
    actors: &[],
    messages_max: super::state::MESSAGES_MAX,
    symmetric: true,
};

impl Scenario {
    /// The changes that are tried.
    pub(super) fn all_changes(&self) -> Vec<Vec<Change>> {
        let words = self.changes.iter();
        words
            .map(|words| words.split(' ').map(change).collect())
            .collect()
    }

    /// Whether births are drawn, or the numbers of questions: where nodes go on with others in
    /// each life.
    pub(super) fn draws(&self) -> bool {
        self.budget.left(Spend::Read) > 0 || self.unborn || self.level == 0
    }

    /// Nodes that something tells apart: those that are changed, and no members at first; the
    /// one that founds.
    pub(super) fn is_special(&self, id: u64) -> bool {
        !self.symmetric
            || self.unborn && id == 1
            || id > self.nodes
            || (self.all_changes().iter().flatten()).any(|change| change.id().0 == id)
            || !self.actors.is_empty() && !self.actors.contains(&id)
    }
}

/// All ways to name the nodes that leave those that differ from the others as they are. The
/// first leaves all.
pub(super) fn namings(scenario: &Scenario) -> Vec<Vec<NodeId>> {
    let all = scenario.nodes + scenario.spare;
    let mut ways = vec![vec![NodeId(0)]];
    for id in 1..=all {
        let mut longer = Vec::new();
        for way in &ways {
            for name in (1..=all).map(NodeId) {
                let taken = way[1..].contains(&name);
                let fits =
                    name.0 == id || !(scenario.is_special(id) || scenario.is_special(name.0));
                if fits && !taken {
                    longer.push([&way[..], &[name]].concat());
                }
            }
        }
        ways = longer;
    }
    ways.sort(); // The names as they are come first.
    ways
}
