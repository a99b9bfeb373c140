//! Breadth first through all states, level by level.
//!
//! A level is a range of [`Paths`]: no state is kept. A worker makes them again in their
//! order, in which neighbours share most of their path, from the ancestors of the last one
//! that it has at hand; a step costs a look into its [`Space`]. Spaces are not shared: what
//! an action is depends on the state alone, not on the numbers that a space gives out.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::explore::scenario::Scenario;
use crate::explore::state::{Action, Next, Space, State};
use crate::explore::story::Story;
use crate::explore::table::{Fingerprints, Paths};

/// How far a search goes, beside the bounds of its scenario.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// So many states, about.
    pub states_max: usize,
    /// So many steps from the first state.
    pub depth_max: u32,
    /// So long.
    pub time_max: Duration,
    /// How many threads search; with one it is the caller's.
    pub jobs: usize,
}

/// Why a search has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// There are no other states within the scenario's bounds.
    Complete,
    /// There is a finding.
    Finding,
    /// One of the limits was reached.
    Limit,
}

/// How a search stands, or stood in the end.
#[derive(Clone, Debug)]
pub struct Report {
    /// Distinct states.
    pub states: usize,
    /// Steps that were tried.
    pub steps: u64,
    /// How many steps the farthest of the states is away from the first.
    pub depth: u32,
    /// Since the beginning.
    pub elapsed: Duration,
}

/// Something that must not be.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What does not hold.
    pub what: String,
    /// After how many steps.
    pub depth: u32,
    /// How it comes about, as a golden script without its effects.
    pub script: String,
}

/// What came of a search.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How far it went.
    pub report: Report,
    /// Why no farther.
    pub end: End,
    /// The first finding, by one of the shortest ways.
    pub finding: Option<Finding>,
}

/// States that a worker takes at a time.
const CHUNK: usize = 2_048;
/// A space with more states of single nodes than this is begun anew, to keep memory bounded.
const SPACE_MAX: usize = 150_000;

/// What one worker finds in a chunk.
#[derive(Default)]
struct Found {
    first: usize,
    states: Vec<(u32, u8)>,
    violation: Option<(u32, u8, String)>,
}

struct Shared<'a> {
    scenario: &'a Scenario,
    limits: &'a Limits,
    seen: Fingerprints,
    begin: Instant,
    steps: AtomicUsize,
    states: AtomicUsize,
    stop: AtomicBool,
}

/// Searches a scenario; `progress` is told now and then how it stands.
pub fn explore(scenario: &Scenario, limits: &Limits, progress: &mut dyn FnMut(&Report)) -> Outcome {
    let shared = Shared {
        scenario,
        limits,
        // Workers may go a little too far before they see it.
        seen: Fingerprints::new(limits.states_max + limits.states_max / 16 + 100_000),
        begin: Instant::now(),
        steps: AtomicUsize::new(0),
        states: AtomicUsize::new(1),
        stop: AtomicBool::new(false),
    };
    let mut workers: Vec<Worker> = (0..limits.jobs).map(|_| Worker::new(&shared)).collect();
    let mut paths = Paths::default();
    paths.push(0, 0);
    let first = workers[0].first;
    shared.seen.insert(workers[0].space.fingerprint(&first));
    let mut level = 0..1;
    let mut depth = 0;
    loop {
        let found = search_level(&shared, &mut workers, &paths, &level, depth, progress);
        for (parent, action) in found.iter().flat_map(|found| &found.states) {
            paths.push(*parent, *action);
        }
        let report = |depth| shared.report(depth);
        if let Some((state, action, what)) = found.into_iter().find_map(|found| found.violation) {
            let script = tell(&shared, &paths, state, action, &what, depth + 1);
            return Outcome {
                report: report(depth + 1),
                end: End::Finding,
                finding: Some(Finding {
                    what,
                    depth: depth + 1,
                    script,
                }),
            };
        }
        let next = level.end..paths.len();
        let end = if next.is_empty() {
            Some(End::Complete)
        } else if shared.stop.load(Ordering::Relaxed) || depth + 1 >= limits.depth_max {
            Some(End::Limit)
        } else {
            None
        };
        if let Some(end) = end {
            return Outcome {
                report: report(depth + u32::from(!next.is_empty())),
                end,
                finding: None,
            };
        }
        level = next;
        depth += 1;
        progress(&report(depth));
    }
}

impl Shared<'_> {
    fn report(&self, depth: u32) -> Report {
        Report {
            states: self.states.load(Ordering::Relaxed),
            steps: self.steps.load(Ordering::Relaxed) as u64,
            depth,
            elapsed: self.begin.elapsed(),
        }
    }

    fn has_reached_a_limit(&self) -> bool {
        self.states.load(Ordering::Relaxed) >= self.limits.states_max
            || self.begin.elapsed() >= self.limits.time_max
    }
}

/// All workers go through a level; what they find comes back in its order.
fn search_level(
    shared: &Shared,
    workers: &mut [Worker],
    paths: &Paths,
    level: &Range<usize>,
    depth: u32,
    progress: &mut dyn FnMut(&Report),
) -> Vec<Found> {
    let next = AtomicUsize::new(level.start);
    let all = Mutex::new(Vec::new());
    let work = |worker: &mut Worker, tell: &mut dyn FnMut()| {
        loop {
            // ORDERING: each number goes to one worker; nothing else hangs on it.
            let first = next.fetch_add(CHUNK, Ordering::Relaxed);
            if first >= level.end || shared.stop.load(Ordering::Relaxed) {
                return;
            }
            let found = worker.search(paths, first..level.end.min(first + CHUNK));
            let ends = found.violation.is_some() || shared.has_reached_a_limit();
            all.lock().expect("no worker panics here").push(found);
            if ends {
                shared.stop.store(true, Ordering::Relaxed);
            }
            tell();
        }
    };
    let (own, others) = workers.split_first_mut().expect("there is a worker");
    std::thread::scope(|scope| {
        for worker in others {
            scope.spawn(|| work(worker, &mut || {}));
        }
        // The caller's thread works, too: what is switched on for it alone counts.
        work(own, &mut || progress(&shared.report(depth + 1)));
    });
    let mut all = all.into_inner().expect("no worker panics here");
    all.sort_by_key(|found| found.first);
    all
}

struct Worker<'a> {
    shared: &'a Shared<'a>,
    space: Space<'a>,
    first: State,
    /// The path to the state that was last made, from the first on.
    path: Vec<(u32, State)>,
    actions: Vec<Action>,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared<'a>) -> Worker<'a> {
        let mut space = Space::new(shared.scenario);
        let (_, first) = Story::begin(&mut space);
        Worker {
            shared,
            space,
            first,
            path: vec![(0, first)],
            actions: Vec::new(),
        }
    }

    fn search(&mut self, paths: &Paths, chunk: Range<usize>) -> Found {
        if self.space.size() > SPACE_MAX {
            *self = Worker::new(self.shared);
        }
        let mut found = Found {
            first: chunk.start,
            ..Found::default()
        };
        let mut steps = 0;
        for number in chunk {
            let state = self.make(paths, number as u32);
            let mut actions = std::mem::take(&mut self.actions);
            self.space.actions(&state, &mut actions);
            for (at, action) in actions.iter().enumerate() {
                let at = u8::try_from(at).expect("a state has few actions");
                match self.space.next(&state, action) {
                    Next::Same => {}
                    Next::State(next) => {
                        steps += 1;
                        if self.shared.seen.insert(self.space.fingerprint(&next)) {
                            found.states.push((number as u32, at));
                        }
                    }
                    Next::Violation(what) => {
                        found.violation = Some((number as u32, at, what));
                    }
                }
            }
            self.actions = actions;
            if found.violation.is_some() {
                break;
            }
        }
        self.shared.steps.fetch_add(steps, Ordering::Relaxed);
        self.shared
            .states
            .fetch_add(found.states.len(), Ordering::Relaxed);
        found
    }

    /// Makes a state again from its path.
    fn make(&mut self, paths: &Paths, number: u32) -> State {
        let mut missing = Vec::new();
        let mut at = number;
        // A state's number is higher than its parent's.
        loop {
            while self.path.last().is_some_and(|(known, _)| *known > at) {
                self.path.pop();
            }
            let (known, mut state) = *self
                .path
                .last()
                .expect("the first state is all paths' begin");
            if known == at {
                for (number, action) in missing.into_iter().rev() {
                    state = self.after(&state, action);
                    self.path.push((number, state));
                }
                return state;
            }
            let (parent, action) = paths.step_to(at);
            missing.push((at, action));
            at = parent;
        }
    }

    fn after(&mut self, state: &State, action: u8) -> State {
        let mut actions = std::mem::take(&mut self.actions);
        self.space.actions(state, &mut actions);
        let Next::State(next) = self.space.next(state, &actions[usize::from(action)]) else {
            panic!("a step that was made once can be made again");
        };
        self.actions = actions;
        next
    }
}

/// Writes down how a finding comes about.
fn tell(shared: &Shared, paths: &Paths, last: u32, action: u8, what: &str, depth: u32) -> String {
    let mut steps = vec![action];
    let mut at = last;
    while at != 0 {
        let (parent, action) = paths.step_to(at);
        steps.push(action);
        at = parent;
    }
    let mut space = Space::new(shared.scenario);
    let (mut story, mut state) = Story::begin(&mut space);
    let mut actions = Vec::new();
    for step in steps.into_iter().rev() {
        space.actions(&state, &mut actions);
        let action = actions[usize::from(step)];
        story.goes_on(&mut space, &state, &action);
        if let Next::State(next) = space.next(&state, &action) {
            state = next;
        }
    }
    let comment = format!(
        "Found by raft_explore {}, after {depth} steps:",
        shared.scenario.name
    );
    story.end(&[comment, what.lines().next().unwrap_or_default().to_owned()])
}
