//! What has happened, in the words of the golden scripts (`src/raft/tests/script.rs`): what
//! comes before an exploration is read from them, and a finding is written in them.

use std::time::Duration;

use crate::explore::node::{self, Event, change};
use crate::explore::scenario::Scenario;
use crate::explore::state::{Action, Fate, Next, Space, State};
use crate::raft::{Change, Introduction, Message, ReadId};
use crate::types::NodeId;

/// The messages on their way, in the order in which the scripts keep them.
#[derive(Default)]
struct Pool(Vec<u32>);

impl Pool {
    /// Takes out those that a script's words choose, as the scripts do: all of a kind on a
    /// link, or one of them, by its place.
    fn choose(&mut self, space: &Space, like: &Message, nth: Option<usize>) -> Vec<u32> {
        let alike = |number: &u32| is_alike(space.message(*number), like);
        let (mut these, mut others): (Vec<u32>, Vec<u32>) =
            std::mem::take(&mut self.0).into_iter().partition(alike);
        if let Some(nth) = nth {
            let chosen = these.remove(nth);
            others.append(&mut these);
            these.push(chosen);
        }
        self.0 = others;
        these
    }

    /// The words that choose one message, and its place if there are others like it.
    fn place_of(&self, space: &Space, message: u32) -> (String, Option<usize>) {
        let like = space.message(message);
        let alike = |number: &&u32| is_alike(space.message(**number), like);
        let these: Vec<u32> = self.0.iter().filter(alike).copied().collect();
        let nth = these.iter().position(|m| *m == message);
        let nth = nth.filter(|_| these.len() > 1);
        let mut words = format!("{} {}", node::link(like), like.body.kind());
        if let Some(nth) = nth {
            words += &format!(" nth={}", nth + 1);
        }
        (words, nth)
    }
}

fn is_alike(a: &Message, b: &Message) -> bool {
    node::link(a) == node::link(b) && a.body.kind() == b.body.kind()
}

/// Writes a script.
pub(super) struct Story {
    pool: Pool,
    lines: Vec<String>,
}

impl Story {
    /// The beginning: the disks, and what happens before the exploration.
    pub(super) fn begin(space: &mut Space) -> (Story, State) {
        let mut story = Story {
            pool: Pool::default(),
            lines: first_lines(space.scenario),
        };
        let mut state = space.first();
        space.set_autosync(true);
        for words in space.scenario.before {
            story.lines.push(format!("({words})"));
            state = story.happens(space, state, words);
        }
        space.set_autosync(space.scenario.autosync);
        if !space.scenario.autosync {
            story.lines.push("(autosync off)".to_owned());
        }
        (story, state)
    }

    /// What the words of a script bring about.
    fn happens(&mut self, space: &mut Space, mut state: State, words: &str) -> State {
        let mut list = words.split(' ');
        let (verb, rest) = (list.next().unwrap_or_default(), list.collect::<Vec<_>>());
        match verb {
            "settle" => {
                while let Some(message) = self.pool.0.first().copied() {
                    self.pool.0.remove(0);
                    state = self.delivered(space, state, message);
                }
            }
            "drop" if rest.is_empty() => {
                for message in std::mem::take(&mut self.pool.0) {
                    state = space.without(&state, message);
                }
            }
            "deliver" | "drop" => {
                let (link, kind) = (rest[0], rest[1]);
                let chosen = |number: &&u32| {
                    let message = space.message(**number);
                    node::link(message) == link && message.body.kind() == kind
                };
                let chosen: Vec<u32> = self.pool.0.iter().filter(chosen).copied().collect();
                self.pool.0.retain(|message| !chosen.contains(message));
                for message in chosen {
                    state = match verb {
                        "deliver" => self.delivered(space, state, message),
                        _ => space.without(&state, message),
                    };
                }
            }
            "introduce" => {
                let (at, peer) = (id_of(rest[0]), id_of(rest[1]));
                state = self.introduced(space, state, at, peer);
            }
            _ => {
                let (place, event) = event(verb, &rest);
                // As in the scripts, a node is heard of before it is added.
                if let Event::Change(changes) = &event {
                    for change in changes {
                        if matches!(change, Change::AddLearner { .. }) {
                            let at = NodeId(u64::from(place) + 1);
                            state = self.introduced(space, state, at, change.id());
                        }
                    }
                }
                let action = space.action_of(place, event);
                state = self.acted(space, state, &action, words);
            }
        }
        state
    }

    fn introduced(&mut self, space: &mut Space, state: State, at: NodeId, peer: NodeId) -> State {
        let introduction = space.node(&state, peer.0 as usize - 1).introduction();
        let event = Event::Introduce(peer, introduction);
        let action = space.action_of(at.0 as u8 - 1, event);
        self.acted(space, state, &action, "introduce")
    }

    fn delivered(&mut self, space: &mut Space, state: State, message: u32) -> State {
        if !state.messages().contains(&message) {
            return state; // It means nothing any more.
        }
        let action = space.delivery_of(message);
        self.acted(space, state, &action, "deliver")
    }

    fn acted(&mut self, space: &mut Space, state: State, action: &Action, words: &str) -> State {
        self.pool.0.extend(space.sent_by(&state, action));
        match space.next(&state, action) {
            Next::State(next) => next,
            // Nothing but the message's being gone.
            Next::Same => match action.message_number() {
                Some(message) => space.without(&state, message),
                None => panic!("nothing comes of {words}"),
            },
            Next::Violation(what) => panic!("{words}: {what}"),
        }
    }

    /// One more step.
    pub(super) fn goes_on(&mut self, space: &mut Space, state: &State, action: &Action) {
        let id = NodeId(u64::from(action.node) + 1);
        let event = space.event(action);
        if let Some(message) = action.message_number() {
            let like = space.message(message).clone();
            let (words, nth) = self.pool.place_of(space, message);
            let chosen = self.pool.choose(space, &like, Some(nth.unwrap_or(0)));
            match action.message {
                Fate::Repeated => {
                    self.lines.push(format!("duplicate {words}"));
                    let bare = words.split(" nth=").next().unwrap_or_default().to_owned();
                    self.lines.push(format!("deliver {bare} last"));
                    // The copies are the last of their kind; one of them stays, behind all
                    // others that are chosen among.
                    let all = self.pool.choose(space, &like, None);
                    self.pool.0.extend(all);
                    self.pool.0.extend(chosen);
                }
                Fate::Lost => self.lines.push(format!("drop {words}")),
                _ => self.lines.push(format!("deliver {words}")),
            }
        } else {
            self.lines.push(words_of(id, &event));
        }
        let sent = space.sent_by(state, action);
        self.pool.0.extend(sent);
    }

    /// The whole of it.
    pub(super) fn end(self, comment: &[String]) -> String {
        let comment = comment.iter().map(|line| format!("# {line}\n"));
        let lines = self.lines.iter().map(|line| format!("{line}\n"));
        comment.chain(lines).collect()
    }
}

fn first_lines(scenario: &Scenario) -> Vec<String> {
    let Scenario { nodes, .. } = scenario;
    let mut words = format!("nodes={nodes}");
    if scenario.spare > 0 {
        words += &format!(" spare={}", scenario.spare);
    }
    if scenario.level == 0 {
        words += " level=0";
    }
    if scenario.unborn {
        words += " unborn=1";
    }
    let mut lines = vec![format!("(cluster {words} timeless=1)")];
    for start in scenario.disks {
        let vote = start
            .vote
            .map_or(String::new(), |id| format!(" vote=n{id}"));
        let (node, log, term) = (start.node, start.log, start.term);
        lines.push(format!("(restore n{node} log=[{log}] term={term}{vote})"));
    }
    lines
}

/// An event in the words of a script.
fn words_of(id: NodeId, event: &Event) -> String {
    match event {
        Event::Deliver(_) => unreachable!("messages have their own words"),
        Event::Tick(late) => format!("tick {id} {}ms", late.as_millis()),
        Event::Sync => format!("sync {id} 1"),
        Event::Restart { lost: false } => format!("restart {id}"),
        Event::Restart { lost: true } => format!("restart {id} lost"),
        Event::Propose { size: 0 } => format!("propose {id} x"),
        Event::Propose { size } => format!("propose {id} x size={size}"),
        Event::Read(read) => format!("read-anywhere {id} {}", read.0),
        Event::ForgetLeader => format!("forget {id}"),
        Event::Found => format!("found {id}"),
        Event::Introduce(peer, Introduction { was_voter, .. }) => match was_voter {
            true => format!("introduce {id} {peer} voter"),
            false => format!("introduce {id} {peer}"),
        },
        Event::Disconnect(peer) => format!("disconnect {id}->{peer}"),
        Event::Change(changes) => {
            let list = changes.iter().map(|change| {
                let kind = match change {
                    Change::AddLearner { .. } => "add",
                    Change::Promote(_) => "promote",
                    Change::Demote(_) => "demote",
                    Change::Remove(_) => "remove",
                    Change::Move { .. } => "move",
                };
                format!(" {kind}:{}", change.id())
            });
            format!("change {id}{}", list.collect::<String>())
        }
        Event::Transfer(to) => format!("transfer {id}->{to}"),
        Event::Unreachable(peer) => format!("unreachable {id}->{peer}"),
    }
}

/// Whose event the words of a script are.
fn event(verb: &str, rest: &[&str]) -> (u8, Event) {
    let (from, to) = match rest[0].split_once("->") {
        Some((from, to)) => (id_of(from), Some(id_of(to))),
        None => (id_of(rest[0]), None),
    };
    let event = match (verb, to) {
        ("tick", _) => {
            let late = rest[1].strip_suffix("ms").and_then(|ms| ms.parse().ok());
            Event::Tick(Duration::from_millis(late.expect("2000ms")))
        }
        ("restart", _) => Event::Restart {
            lost: rest.get(1) == Some(&"lost"),
        },
        ("propose", _) => Event::Propose {
            size: match rest.get(2).and_then(|word| word.strip_prefix("size=")) {
                Some(size) => size.parse().expect("a number"),
                None => 0,
            },
        },
        ("read-anywhere", _) => Event::Read(ReadId(rest[1].parse().expect("a number"))),
        ("forget", _) => Event::ForgetLeader,
        ("found", _) => Event::Found,
        ("disconnect", Some(peer)) => Event::Disconnect(peer),
        ("change", _) => Event::Change(rest[1..].iter().map(|word| change(word)).collect()),
        ("transfer", Some(to)) => Event::Transfer(to),
        ("unreachable", Some(to)) => Event::Unreachable(to),
        _ => panic!("not what can happen before: {verb} {rest:?}"),
    };
    (from.0 as u8 - 1, event)
}

fn id_of(word: &str) -> NodeId {
    let number = word.strip_prefix('n').and_then(|id| id.parse().ok());
    NodeId(number.unwrap_or_else(|| panic!("not a node: {word}")))
}
