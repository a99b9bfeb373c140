//! A state of the whole cluster, and what may happen next.
//!
//! Nodes, messages and what is known of the past are numbered ([`Space`]): a state is a few
//! numbers, and a step of a node that was seen before is looked up, however many states of
//! the others go with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::explore::invariants::{self, History};
use crate::explore::node::{self, Disk, Event, Node};
use crate::explore::numbered::{Map, Numbered, spread};
use crate::explore::scenario::{Budget, Scenario, Spend, namings};
use crate::raft::{
    Digest, Introduction, LEVEL_MAX, Message, ReadId, ReadOutcome, TICK_CAMPAIGNS,
    TICK_GIVES_TRANSFER_UP, TICK_REPEATS,
};
use crate::time::Time;
use crate::types::{EntryId, HardState, Incarnation, NodeId, Server, Term};

/// Nodes of a scenario.
pub(super) const NODES_MAX: usize = 5;
/// Messages on their way in one state.
pub(super) const MESSAGES_MAX: usize = 28;

/// A state: numbers of a [`Space`].
#[derive(Clone, Copy)]
pub(super) struct State {
    pub(super) nodes: [u32; NODES_MAX],
    history: u32,
    pub(super) budget: Budget,
    /// In the order of their digests, which is the same in every space.
    messages: [u32; MESSAGES_MAX],
    count: u8,
}

impl State {
    pub(super) fn messages(&self) -> &[u32] {
        &self.messages[..usize::from(self.count)]
    }
}

/// What may happen in a state, most of it to one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Action {
    /// The node's place.
    pub(super) node: u8,
    /// A message, or a number of [`Space::local`].
    event: u32,
    /// What becomes of the message.
    pub(super) message: Fate,
    spends: Option<Spend>,
}

impl Action {
    /// The message that it is about.
    pub(super) fn message_number(&self) -> Option<u32> {
        (self.message != Fate::None).then_some(self.event)
    }
}

/// What becomes of the message that an action is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The action is about none.
    None,
    Delivered,
    Repeated,
    Lost,
}

/// What comes of an action.
pub(super) enum Next {
    /// Nothing, or nothing else than the loss of a message; or a bound is reached.
    Same,
    State(State),
    /// An invariant does not hold.
    Violation(String),
}

/// A step of a node by itself.
enum Step {
    /// The core has turned it down.
    Refused,
    Broken(String),
    Done(Done),
}

struct Done {
    node: u32,
    sent: Box<[u32]>,
    reads: Box<[ReadOutcome]>,
    /// Whether the cluster's invariants have to be looked at.
    notable: bool,
}

/// Events that are no messages are numbered from here on.
const LOCAL: u32 = 1 << 31;

/// All values that states are made of.
pub(super) struct Space<'a> {
    pub(super) scenario: &'a Scenario,
    /// The names that nodes may go by, by their number.
    namings: Vec<Vec<NodeId>>,
    nodes: Numbered<Node>,
    messages: Numbered<Message>,
    histories: Numbered<History>,
    steps: Map<u32>,
    done: Vec<Step>,
    /// Events that are no messages: those that are tried, then what else happens before.
    local: Vec<(Event, Option<Spend>)>,
    tried: usize,
    autosync: bool,
}

impl<'a> Space<'a> {
    pub(super) fn new(scenario: &'a Scenario) -> Space<'a> {
        let all = (scenario.nodes + scenario.spare) as usize;
        assert!(all <= NODES_MAX && scenario.messages_max <= MESSAGES_MAX);
        let local = local_events(scenario);
        Space {
            scenario,
            namings: namings(scenario),
            nodes: Numbered::new(),
            messages: Numbered::new(),
            histories: Numbered::new(),
            steps: Map::default(),
            done: Vec::new(),
            tried: local.len(),
            local,
            autosync: scenario.autosync,
        }
    }

    /// How many states of single nodes it holds.
    pub(super) fn size(&self) -> usize {
        self.nodes.values.len()
    }

    /// How many nodes there are, spare ones included.
    pub(super) fn count(&self) -> usize {
        (self.scenario.nodes + self.scenario.spare) as usize
    }

    pub(super) fn node(&self, state: &State, place: usize) -> &Node {
        &self.nodes.values[state.nodes[place] as usize]
    }

    fn all(&self, state: &State) -> impl Iterator<Item = &Node> {
        let nodes = state.nodes[..self.count()].to_vec();
        let node = |number: u32| &self.nodes.values[number as usize];
        nodes.into_iter().map(node)
    }

    pub(super) fn message(&self, number: u32) -> &Message {
        &self.messages.values[number as usize]
    }

    /// What an action does, and to whom.
    pub(super) fn event(&self, action: &Action) -> Event {
        match action.event.checked_sub(LOCAL) {
            Some(local) => self.local[local as usize].0.clone(),
            None => Event::Deliver(self.message(action.event).clone()),
        }
    }

    /// The state that the disks of the scenario make, before anything happens.
    pub(super) fn first(&mut self) -> State {
        let Scenario { level, unborn, .. } = *self.scenario;
        let voters = (1..=self.scenario.nodes).map(NodeId);
        let first = node::first_members(voters, level, unborn);
        let mut nodes = [0; NODES_MAX];
        for (place, id) in (1..=self.count() as u64).enumerate() {
            let mut disk = Disk::first(NodeId(id), &first);
            if id <= self.scenario.nodes && !unborn {
                disk.hard_state.term = Term(1); // As in the scripts.
            }
            if let Some(start) = self.scenario.disks.iter().find(|start| start.node == id) {
                disk.hard_state = HardState {
                    term: Term(start.term),
                    voted_for: start.vote.map(|id| Server::new(id, 1)),
                };
                let ids = start.log.split_whitespace().map(|word| {
                    let (index, term) = word.split_once('@').expect("index@term");
                    let number = |text: &str| text.parse().expect("a number");
                    EntryId::new(number(term), number(index))
                });
                disk.entries = ids.map(node::first_entry).collect();
            }
            let node = Node::new(NodeId(id), &first, disk, self.scenario.draws());
            nodes[place] = self.number_node(node);
        }
        let put = |digest: &mut Digest, history: &History| history.digest(digest);
        State {
            nodes,
            history: self
                .histories
                .number(&self.namings, History::default(), put),
            budget: self.scenario.budget,
            messages: [0; MESSAGES_MAX],
            count: 0,
        }
    }

    fn number_node(&mut self, node: Node) -> u32 {
        let put = |digest: &mut Digest, node: &Node| node.digest(digest);
        self.nodes.number(&self.namings, node, put)
    }

    /// All that may happen. The order depends on nothing but the state.
    pub(super) fn actions(&self, state: &State, out: &mut Vec<Action>) {
        out.clear();
        for place in 0..self.count() {
            let node = self.node(state, place);
            let acts = self.scenario.actors;
            if acts.is_empty() || acts.contains(&node.id().0) || node.has_unsynced() {
                self.actions_of(state, place as u8, node, out);
            }
        }
        // A loss matters only where the network may get full: until then, a message that
        // never arrives is as good as lost.
        let burst = 2 * self.count();
        let may_be_full = state.messages().len() + burst > self.scenario.messages_max;
        let mut before = None;
        for message in state.messages() {
            if before.replace(message) == Some(message) {
                continue;
            }
            let mut push = |fate, spends| {
                let node = node::receiver(self.message(*message)) as u8;
                out.push(Action {
                    node,
                    event: *message,
                    message: fate,
                    spends,
                });
            };
            push(Fate::Delivered, None);
            if state.budget.left(Spend::Duplicate) > 0 {
                push(Fate::Repeated, Some(Spend::Duplicate));
            }
            if may_be_full {
                push(Fate::Lost, None);
            }
        }
    }

    fn actions_of(&self, state: &State, place: u8, node: &Node, out: &mut Vec<Action>) {
        for (number, (event, spends)) in self.local[..self.tried].iter().enumerate() {
            let affordable = spends.is_none_or(|spend| state.budget.left(spend) > 0);
            if affordable && self.makes_sense(state, node, event) {
                out.push(Action {
                    node: place,
                    event: LOCAL + number as u32,
                    message: Fate::None,
                    spends: *spends,
                });
            }
        }
    }

    /// Whether it would do something.
    fn makes_sense(&self, state: &State, node: &Node, event: &Event) -> bool {
        let raft = &node.raft;
        let peer = |id: NodeId| id != node.id() && id.0 <= self.count() as u64;
        match event {
            Event::Deliver(_) => true,
            Event::Sync => node.has_unsynced(),
            Event::Tick(TICK_REPEATS) => {
                raft.is_leader() || raft.next_deadline() < self.campaign_at()
            }
            Event::Tick(TICK_GIVES_TRANSFER_UP) => raft.transferee().is_some(),
            // A leader steps down, anybody else campaigns.
            Event::Tick(_) => {
                raft.is_leader() == (*event == Event::Tick(STEPS_DOWN))
                    && raft.next_deadline() != Time::NEVER
                    && (raft.is_leader() || node::next_term(node).0 <= self.scenario.term_max)
            }
            Event::Restart { .. } => !raft.is_new(),
            // `node/identity.rs`: while all first members are connected and new.
            Event::Found => {
                node.id() == NodeId(1) && self.all(state).all(|node| node.raft.is_new())
            }
            Event::Introduce(id, introduction) => {
                let peer = self.all(state).find(|peer| peer.id() == *id);
                raft.is_leader()
                    && *id != node.id()
                    && peer.is_some_and(|peer| peer.introduction() == *introduction)
            }
            Event::Disconnect(id) => raft.is_leader() && *id != node.id(),
            Event::Propose { .. } => raft.is_leader(),
            // One read has one number.
            Event::Read(id) => {
                let is_next = id.0 == u64::from(state.budget.left(Spend::Read));
                is_next && raft.leader().is_some() && !raft.configuration().is_empty()
            }
            Event::ForgetLeader => !raft.is_leader() && raft.leader().is_some(),
            Event::Change(_) => raft.is_leader(),
            Event::Transfer(to) => raft.is_leader() && raft.transferee().is_none() && peer(*to),
            Event::Unreachable(to) => {
                raft.is_leader()
                    && raft
                        .followers()
                        .is_some_and(|all| all.keys().any(|server| server.id == *to))
            }
        }
    }

    /// What comes of an action.
    pub(super) fn next(&mut self, state: &State, action: &Action) -> Next {
        let mut next = *state;
        if let Some(spend) = action.spends {
            next.budget = state.budget.spent(spend).expect("it can be afforded");
        }
        if matches!(action.message, Fate::Delivered | Fate::Lost) {
            remove(&mut next, action.event);
        }
        if action.message == Fate::Lost {
            return Next::State(next);
        }
        let place = usize::from(action.node);
        let step = self.step(state.nodes[place], action.event);
        let done = match &self.done[step as usize] {
            Step::Refused => return Next::Same,
            Step::Broken(what) => return Next::Violation(what.clone()),
            Step::Done(done) => done,
        };
        if done.node == state.nodes[place] && done.sent.is_empty() && done.reads.is_empty() {
            return Next::Same;
        }
        next.nodes[place] = done.node;
        if next.messages().len() + done.sent.len() > self.scenario.messages_max {
            return Next::Same;
        }
        for message in &done.sent {
            insert(&mut next, &self.messages, self.namings.len(), *message);
        }
        self.forget_stale(&mut next);
        if self.is_notable(action, step) {
            match self.judge(state, &next, place, action, step) {
                Ok(history) => next.history = history,
                Err(what) => return Next::Violation(what),
            }
        }
        Next::State(next)
    }

    fn is_notable(&self, action: &Action, step: u32) -> bool {
        let Step::Done(done) = &self.done[step as usize] else {
            return false;
        };
        let local = action.event.checked_sub(LOCAL);
        let event = local.map(|local| &self.local[local as usize].0);
        done.notable || matches!(event, Some(Event::Read(_) | Event::Restart { lost: true }))
    }

    fn judge(
        &mut self,
        before: &State,
        after: &State,
        place: usize,
        action: &Action,
        step: u32,
    ) -> Result<u32, String> {
        let event = self.event(action);
        let Step::Done(done) = &self.done[step as usize] else {
            return Ok(before.history);
        };
        let nodes: Vec<&Node> = (0..self.count()).map(|at| self.node(after, at)).collect();
        let history = &self.histories.values[before.history as usize];
        let history = invariants::check(
            &invariants::Seen {
                nodes: &nodes,
                place,
                before: self.node(before, place),
                event: &event,
                reads: &done.reads,
            },
            history,
        )?;
        let put = |digest: &mut Digest, history: &History| history.digest(digest);
        Ok(self.histories.number(&self.namings, history, put))
    }

    /// The step of a node by itself, looked up or carried out.
    fn step(&mut self, number: u32, event: u32) -> u32 {
        let key = u64::from(number) << 32 | u64::from(event);
        if let Some(step) = self.steps.get(&key) {
            return *step;
        }
        let step = self.carry_out(number, event);
        self.done.push(step);
        let at = self.done.len() as u32 - 1;
        self.steps.insert(key, at);
        at
    }

    fn carry_out(&mut self, number: u32, event: u32) -> Step {
        let before = &self.nodes.values[number as usize];
        let mut after = before.clone();
        let what = match event.checked_sub(LOCAL) {
            Some(local) => self.local[local as usize].0.clone(),
            None => Event::Deliver(self.message(event).clone()),
        };
        // The core's own invariants panic.
        let effects = match catch_unwind(AssertUnwindSafe(|| after.step(&what, self.autosync))) {
            Ok(Ok(effects)) => effects,
            Ok(Err(broken)) => return Step::Broken(broken),
            Err(panic) => return Step::Broken(invariants::words_of(&*panic)),
        };
        if effects.refused {
            return Step::Refused;
        }
        let notable = !effects.reads.is_empty() || invariants::is_notable(before, &after);
        let sent = effects.sent.into_iter().map(|message| {
            let put = |digest: &mut Digest, message: &Message| digest.message(message);
            self.messages.number(&self.namings, message, put)
        });
        let sent = sent.collect();
        Step::Done(Done {
            node: self.number_node(after),
            sent,
            reads: effects.reads.into(),
            notable,
        })
    }

    /// What an action has sent, in its order.
    pub(super) fn sent_by(&mut self, state: &State, action: &Action) -> Vec<u32> {
        let number = state.nodes[usize::from(action.node)];
        if action.message == Fate::Lost {
            return Vec::new();
        }
        let step = self.step(number, action.event);
        match &self.done[step as usize] {
            Step::Done(done) => done.sent.to_vec(),
            _ => Vec::new(),
        }
    }

    /// Whether writes are durable at once from now on.
    pub(super) fn set_autosync(&mut self, autosync: bool) {
        self.autosync = autosync;
        self.steps.clear();
        self.done.clear();
    }

    /// An action that is no message, whether or not it is tried in an exploration.
    pub(super) fn action_of(&mut self, node: u8, event: Event) -> Action {
        let at = self.local.iter().position(|(known, _)| *known == event);
        let at = at.unwrap_or_else(|| {
            self.local.push((event, None));
            self.local.len() - 1
        });
        Action {
            node,
            event: LOCAL + at as u32,
            message: Fate::None,
            spends: None,
        }
    }

    /// The arrival of a message.
    pub(super) fn delivery_of(&self, message: u32) -> Action {
        Action {
            node: node::receiver(self.message(message)) as u8,
            event: message,
            message: Fate::Delivered,
            spends: None,
        }
    }

    /// The state without a message, if that is still in it.
    pub(super) fn without(&self, state: &State, message: u32) -> State {
        let mut next = *state;
        if state.messages().contains(&message) {
            remove(&mut next, message);
        }
        next
    }

    fn forget_stale(&self, state: &mut State) {
        // An empty directory knows of no term, and what an answer says of the directory counts.
        if self.scenario.budget.left(Spend::Loss) > 0 {
            return;
        }
        let mut kept = 0;
        for at in 0..usize::from(state.count) {
            let number = state.messages[at];
            let message = self.message(number);
            let receiver = self.node(state, node::receiver(message));
            if !node::is_stale(message, receiver) {
                state.messages[kept] = number;
                kept += 1;
            }
        }
        state.count = kept as u8;
    }

    /// A hash of the state, the same for all ways to name the nodes.
    pub(super) fn fingerprint(&self, state: &State) -> u64 {
        let ways = self.namings.len();
        let digests = |way: usize| {
            let mut sum = spread(state.budget.bits());
            sum = sum.wrapping_add(self.histories.digests[state.history as usize * ways + way]);
            for node in &state.nodes[..self.count()] {
                sum = sum.wrapping_add(self.nodes.digests[*node as usize * ways + way]);
            }
            for message in state.messages() {
                sum = sum.wrapping_add(self.messages.digests[*message as usize * ways + way]);
            }
            sum
        };
        let least = (0..ways).map(digests).min().expect("there is one");
        spread(least).max(1) // 0 is the empty place of a table.
    }

    /// When a campaign is due.
    fn campaign_at(&self) -> Time {
        node::NOW + TICK_CAMPAIGNS
    }
}

/// A tick that makes a leader step down; for all others one that campaigns.
const STEPS_DOWN: Duration = Duration::from_millis(2_001);

fn local_events(scenario: &Scenario) -> Vec<(Event, Option<Spend>)> {
    let mut events = vec![
        (Event::Tick(TICK_CAMPAIGNS), Some(Spend::Timeout)),
        (Event::Tick(TICK_REPEATS), Some(Spend::Heartbeat)),
        (Event::Tick(TICK_GIVES_TRANSFER_UP), Some(Spend::Transfer)),
        (Event::Tick(STEPS_DOWN), Some(Spend::StepDown)),
        (Event::Restart { lost: false }, Some(Spend::Crash)),
        (Event::Restart { lost: true }, Some(Spend::Loss)),
        (Event::Propose { size: 0 }, Some(Spend::Propose)),
        (Event::ForgetLeader, Some(Spend::Forget)),
        (Event::Found, Some(Spend::Found)),
    ];
    if !scenario.autosync {
        events.push((Event::Sync, None));
    }
    let reads = u64::from(scenario.budget.left(Spend::Read));
    events.extend((1..=reads).map(|read| (Event::Read(ReadId(read)), Some(Spend::Read))));
    let changes = scenario.all_changes().into_iter();
    events.extend(changes.map(|change| (Event::Change(change), Some(Spend::Change))));
    events.retain(|(_, spend)| spend.is_none_or(|spend| scenario.budget.left(spend) > 0));
    if scenario.budget.left(Spend::Introduce) > 0 {
        events.extend(introductions(scenario));
    }
    for id in (1..=scenario.nodes + scenario.spare).map(NodeId) {
        events.push((Event::Transfer(id), Some(Spend::Transfer)));
        events.push((Event::Unreachable(id), Some(Spend::Repeat)));
    }
    events
}

/// All that nodes may say of their directories, and the ends of connections.
fn introductions(scenario: &Scenario) -> Vec<(Event, Option<Spend>)> {
    let lost_before = scenario
        .before
        .iter()
        .filter(|words| words.ends_with("lost"));
    let losses = lost_before.count() as u64 + u64::from(scenario.budget.left(Spend::Loss));
    let mut events = Vec::new();
    for id in (1..=scenario.nodes + scenario.spare).map(NodeId) {
        for incarnation in (1..=1 + losses).map(Incarnation) {
            for (established, was_voter) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                let introduction = Introduction {
                    incarnation,
                    level: LEVEL_MAX,
                    established,
                    was_voter,
                };
                let event = Event::Introduce(id, introduction);
                events.push((event, Some(Spend::Introduce)));
            }
        }
        events.push((Event::Disconnect(id), Some(Spend::Introduce)));
    }
    events
}

fn insert(state: &mut State, all: &Numbered<Message>, ways: usize, message: u32) {
    let digest = |number: u32| all.digests[number as usize * ways];
    let count = usize::from(state.count);
    let at = state
        .messages()
        .partition_point(|m| digest(*m) <= digest(message));
    state.messages.copy_within(at..count, at + 1);
    state.messages[at] = message;
    state.count += 1;
}

fn remove(state: &mut State, message: u32) {
    let at = state.messages().iter().position(|m| *m == message);
    let at = at.expect("it is on its way");
    let count = usize::from(state.count);
    state.messages.copy_within(at + 1..count, at);
    state.count -= 1;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::explore::scenario::BASE;
    use crate::explore::story::Story;
    use crate::explore::{End, Limits, explore};

    /// Every state that there is, by the numbers of one space, which are the same only for what
    /// is the same; and the fingerprints of all.
    fn by_brute_force(scenario: &Scenario) -> (usize, HashSet<u64>) {
        let mut space = Space::new(scenario);
        let (_, first) = Story::begin(&mut space);
        let exact = |state: &State| {
            let State {
                nodes,
                history,
                budget,
                ..
            } = *state;
            (nodes, history, budget, state.messages().to_vec())
        };
        let mut seen = HashSet::from([exact(&first)]);
        let mut fingerprints = HashSet::from([space.fingerprint(&first)]);
        let mut open = vec![first];
        let mut actions = Vec::new();
        while let Some(state) = open.pop() {
            space.actions(&state, &mut actions);
            for action in &actions {
                let Next::State(next) = space.next(&state, action) else {
                    continue;
                };
                if seen.insert(exact(&next)) {
                    fingerprints.insert(space.fingerprint(&next));
                    open.push(next);
                }
            }
        }
        (seen.len(), fingerprints)
    }

    fn search(scenario: &Scenario, jobs: usize) -> usize {
        let limits = Limits {
            states_max: 1_000_000,
            depth_max: u32::MAX,
            time_max: Duration::from_secs(300),
            jobs,
        };
        let outcome = explore(scenario, &limits, &mut |_| {});
        assert_eq!(outcome.end, End::Complete);
        outcome.report.states
    }

    #[test]
    fn a_search_meets_every_state_and_takes_those_for_one_that_differ_in_names() {
        let small = [
            Scenario {
                budget: Budget::of(&[(Spend::Timeout, 1)]),
                ..BASE
            },
            Scenario {
                before: &["tick n1 2000ms", "settle"],
                autosync: true,
                budget: Budget::of(&[(Spend::Read, 1), (Spend::Propose, 1), (Spend::Crash, 1)]),
                ..BASE
            },
        ];
        for symmetric in small {
            let plain = Scenario {
                symmetric: false,
                ..symmetric
            };
            let (all, fingerprints) = by_brute_force(&symmetric);
            assert!(all > 1_000, "{all} states are too few to tell");
            assert_eq!(search(&plain, 1), all, "each has a fingerprint of its own");
            assert_eq!(search(&symmetric, 1), fingerprints.len());
            assert_eq!(
                search(&symmetric, 2),
                fingerprints.len(),
                "with two threads"
            );
            assert!(
                fingerprints.len() * 5 < all * 4,
                "{} of {all}",
                fingerprints.len()
            );
        }
    }

    #[test]
    fn names_change_only_among_nodes_that_nothing_tells_apart() {
        let count = |scenario: &Scenario| namings(scenario).len();
        assert_eq!(count(&BASE), 6);
        let change = Scenario {
            spare: 1,
            changes: &["promote:n4 demote:n3"],
            ..BASE
        };
        assert_eq!(count(&change), 2);
        assert_eq!(namings(&change)[0], (0..=4).map(NodeId).collect::<Vec<_>>());
    }
}
