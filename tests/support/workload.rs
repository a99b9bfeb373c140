//! Clients that use a cluster while somebody kills, pauses and restarts its nodes, and keep a record
//! of what they were answered.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftkv::pb::{BatchOperation, ErrorCode, KvOperationRequest, OperationType, Scan};
use raftkv::sim::linearizability::{Action, Operation, Outcome};

use super::Random;
use super::wire::{Answer, Connection, comparison, new_uuid, request};

/// How long one attempt at one node may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(500);
/// Before the next attempt after a refusal, so that a cluster without a leader is not flooded.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(5);

/// How an operation ended for a client that follows redirects and retries in the same session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With an answer.
    Answered(Answer),
    /// Nobody took it until the deadline: it has no effect.
    Refused(String),
    /// It may have taken effect, or may still.
    Unknown(String),
}

/// A client that looks for the leader among all nodes.
#[derive(Debug)]
pub struct Client {
    nodes: Arc<[SocketAddr]>,
    target: SocketAddr,
    connection: Option<Connection>,
    /// Names the client: with the sequence id, the session of a write.
    pub uuid: String,
    /// The last sequence id in use.
    pub sequence: u64,
    /// How often it has turned to another node: it must not go round between some of them.
    turns: u64,
}

impl Client {
    /// A client of these nodes, with a name of its own.
    pub fn new(nodes: &[SocketAddr]) -> Client {
        Client {
            nodes: nodes.into(),
            target: nodes[0],
            connection: None,
            uuid: new_uuid(),
            sequence: 0,
            turns: 0,
        }
    }

    /// Inserts, as [`Client::run`] with the next sequence id.
    pub fn put(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        limit: Duration,
    ) -> Ended {
        let request = request(OperationType::Put, &self.uuid, key, value);
        self.run_next(&request, limit)
    }

    /// Overwrites, as [`Client::run`] with the next sequence id.
    pub fn update(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        limit: Duration,
    ) -> Ended {
        let request = request(OperationType::Update, &self.uuid, key, value);
        self.run_next(&request, limit)
    }

    /// Reads, as [`Client::run`] with the next sequence id.
    pub fn get(&mut self, key: impl AsRef<[u8]>, limit: Duration) -> Ended {
        let request = request(OperationType::Get, &self.uuid, key, "");
        self.run_next(&request, limit)
    }

    fn run_next(&mut self, request: &KvOperationRequest, limit: Duration) -> Ended {
        self.sequence += 1;
        self.run(self.sequence, request, limit, &mut |_| ())
    }

    /// Sends a request until it is answered or the time is over. A retry has the same uuid and
    /// sequence id, so that a write is applied once.
    ///
    /// `attempt` is called before each attempt, with whether an earlier one may have had an effect.
    pub fn run(
        &mut self,
        sequence: u64,
        request: &KvOperationRequest,
        limit: Duration,
        attempt: &mut dyn FnMut(bool),
    ) -> Ended {
        let deadline = Instant::now() + limit;
        let mut may_have_effect = false;
        let mut last = String::from("no attempt");
        while let Some(left) = deadline.checked_duration_since(Instant::now())
            && left > Duration::ZERO
        {
            attempt(may_have_effect);
            match self.attempt(sequence, request, left.min(ATTEMPT_TIMEOUT)) {
                Ok(Answer::Redirect(address)) => {
                    last = format!("redirected to {address}");
                    self.connection = None;
                    match address.parse() {
                        Ok(leader) if leader != self.target => self.target = leader,
                        _ => std::thread::sleep(PAUSE_AFTER_REFUSAL),
                    }
                }
                Ok(Answer::Failed(code, reason))
                    if !matches!(code, ErrorCode::KeyExists | ErrorCode::ValueMismatch) =>
                {
                    last = format!("{code:?}: {reason}");
                    match code {
                        ErrorCode::NoLeader
                        | ErrorCode::Busy
                        | ErrorCode::NoSpace
                        | ErrorCode::MemoryLimit => {}
                        ErrorCode::OutcomeUnknown => may_have_effect = true,
                        other => panic!("an answer without a meaning: {other:?} {reason}"),
                    }
                    self.try_another();
                }
                Ok(answer) => return Ended::Answered(answer),
                Err(Lost { sent, error }) => {
                    last = error.to_string();
                    may_have_effect |= sent;
                    self.try_another();
                }
            }
        }
        if may_have_effect {
            Ended::Unknown(last)
        } else {
            Ended::Refused(last)
        }
    }

    fn attempt(
        &mut self,
        sequence: u64,
        request: &KvOperationRequest,
        limit: Duration,
    ) -> Result<Answer, Lost> {
        if self.connection.is_none() {
            let opened = Connection::open(self.target, limit);
            let opened = opened.map_err(|error| Lost { sent: false, error })?;
            self.connection = Some(opened);
        }
        let connection = self.connection.as_mut().expect("just opened");
        let answer = connection
            .send(sequence, request)
            .and_then(|()| connection.receive(sequence));
        answer.map_err(|error| Lost { sent: true, error })
    }

    fn try_another(&mut self) {
        self.connection = None;
        self.turns += 1;
        let here = self.nodes.iter().position(|n| *n == self.target);
        let mut random = Random(self.turns ^ self.target.port() as u64);
        let step = 1 + random.below(self.nodes.len().max(2) as u64 - 1) as usize;
        self.target = self.nodes[(here.unwrap_or(0) + step) % self.nodes.len()];
        std::thread::sleep(PAUSE_AFTER_REFUSAL);
    }
}

/// An attempt without an answer.
struct Lost {
    /// Whether the node may have got the request.
    sent: bool,
    error: std::io::Error,
}

/// Keys that batches and scans touch together. A checker has to judge what happens to them
/// jointly, and bears few of them when many clients use them.
pub const GROUP_KEYS: u64 = 3;

/// What the clients of a [`Workload`] do.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// How many clients there are, each with one operation at a time.
    pub clients: u64,
    /// How many keys they share, in groups of [`GROUP_KEYS`].
    pub keys: u64,
    /// How long a client tries before it gives an operation up. Every third has little patience, a
    /// tenth of that, so that the history has operations of which nobody knows what became of them.
    pub limit: Duration,
    /// How long each client waits between two operations; a bound for the length of the history.
    pub think: Duration,
}

/// Clients at work, doing random puts, updates, gets, removes, compare-and-sets, batches and scans
/// with values that are never used twice.
#[derive(Debug)]
pub struct Workload {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<Operation>>>,
}

impl Workload {
    /// Starts the clients.
    pub fn start(nodes: &[SocketAddr], mix: Mix, seed: u64) -> Workload {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let epoch = Instant::now();
        let clients = (0..mix.clients)
            .map(|number| {
                let mut recorder = Recorder {
                    number,
                    mix,
                    epoch,
                    client: Client::new(nodes),
                    random: Random(seed.wrapping_mul(1_000).wrapping_add(number)),
                    history: Vec::new(),
                    seen: HashMap::new(),
                    answered: Arc::clone(&answered),
                };
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        recorder.step();
                    }
                    recorder.history
                })
            })
            .collect();
        Workload {
            stop,
            answered,
            clients,
        }
    }

    /// How many operations have been answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Lets each client end its operation, and gives what all of them saw.
    pub fn stop(self) -> Vec<Operation> {
        self.stop.store(true, Ordering::Relaxed);
        let mut history = Vec::new();
        for client in self.clients {
            history.extend(client.join().expect("a client failed"));
        }
        history
    }
}

/// One client of a [`Workload`] with its part of the history.
struct Recorder {
    number: u64,
    mix: Mix,
    epoch: Instant,
    client: Client,
    random: Random,
    history: Vec<Operation>,
    /// What it read last of a key: what it expects when it compares.
    seen: HashMap<Bytes, Bytes>,
    answered: Arc<AtomicU64>,
}

impl Recorder {
    fn step(&mut self) {
        self.client.sequence += 1;
        let sequence = self.client.sequence;
        let (key, mut action) = self.draw();
        let mut request = self.request(&key, &action);
        let is_read = matches!(action, Action::Get | Action::Scan { .. });
        // A third of what is read is read from whichever node.
        if is_read && self.random.below(3) == 0 {
            request.follower_read = true;
            self.client.try_another();
        }
        let mut invoked_ns = 0;
        let epoch = self.epoch;
        // What had no effect for sure need not be counted from its first attempt on.
        let mut attempt = |may_have_effect: bool| {
            if is_read || !may_have_effect {
                invoked_ns = nanos_since(epoch);
            }
        };
        let patience = if self.number.is_multiple_of(3) { 10 } else { 1 };
        let limit = self.mix.limit / patience;
        let ended = self.client.run(sequence, &request, limit, &mut attempt);
        let returned_ns = nanos_since(self.epoch);
        let returned = match ended {
            Ended::Answered(answer) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                let outcome = outcome(&mut action, answer);
                self.note(&key, &outcome);
                Some((returned_ns, outcome))
            }
            Ended::Unknown(_) if !is_read => None,
            Ended::Unknown(_) | Ended::Refused(_) => return,
        };
        self.history.push(Operation {
            client: self.number,
            key,
            action,
            invoked_ns,
            returned,
        });
        std::thread::sleep(self.mix.think);
    }

    /// What to do next, and with which key.
    fn draw(&mut self) -> (Bytes, Action) {
        let number = self.random.below(self.mix.keys);
        let value = Bytes::from(format!("v{}-{}", self.number, self.client.sequence));
        let action = match self.random.below(14) {
            0..2 => Action::Put(value),
            2..4 => Action::Update(value),
            4..6 => Action::Remove,
            6..10 => Action::Get,
            10 => self.comparison(&key(number), value),
            11 => return (key(number), self.batch(number)),
            _ => {
                let last = number - number % GROUP_KEYS + GROUP_KEYS;
                let until = Some(key(last));
                return (key(last - GROUP_KEYS), Action::Scan { until });
            }
        };
        (key(number), action)
    }

    /// Compares with what was read last, so that it is right now and then.
    fn comparison(&mut self, key: &Bytes, value: Bytes) -> Action {
        let expected = self.seen.get(key).cloned();
        let new = (self.random.below(4) > 0).then_some(value);
        Action::Cas { expected, new }
    }

    /// Two or three operations on the keys of a group.
    fn batch(&mut self, number: u64) -> Action {
        let first = number - number % GROUP_KEYS;
        let begin = self.random.below(GROUP_KEYS);
        let count = 2 + self.random.below(GROUP_KEYS - 1);
        let mut operations = Vec::new();
        for n in 0..count {
            let key = key(first + (begin + n) % GROUP_KEYS);
            let value = Bytes::from(format!("v{}-{}-{n}", self.number, self.client.sequence));
            let action = match self.random.below(8) {
                0 => Action::Put(value),
                1..5 => Action::Update(value),
                5 => Action::Remove,
                _ => self.comparison(&key, value),
            };
            operations.push((key, action));
        }
        Action::Batch(operations)
    }

    fn request(&self, key: &Bytes, action: &Action) -> KvOperationRequest {
        let (kind, value) = kind_and_value(action);
        let mut request = request(kind, &self.client.uuid, key, value);
        match action {
            Action::Cas { expected, new } => {
                request.comparison = comparison(expected.as_deref(), new.is_none());
            }
            Action::Batch(operations) => {
                request.key = Bytes::new();
                request.operations = operations.iter().map(batch_operation).collect();
            }
            Action::Scan { until } => {
                request.scan = Some(Scan {
                    until: until.clone().unwrap_or_default(),
                    ..Scan::default()
                });
            }
            _ => {}
        }
        request
    }

    /// Remembers what was read.
    fn note(&mut self, key: &Bytes, outcome: &Outcome) {
        match outcome {
            Outcome::Found(value) => drop(self.seen.insert(key.clone(), value.clone())),
            Outcome::NotFound => drop(self.seen.remove(key)),
            Outcome::Entries(entries) => self.seen.extend(entries.iter().cloned()),
            _ => {}
        }
    }
}

fn key(number: u64) -> Bytes {
    // Two digits, so that they are in order.
    Bytes::from(format!("k{number:02}"))
}

/// What an action is called on the wire, and the value that goes with it.
fn kind_and_value(action: &Action) -> (OperationType, Bytes) {
    match action {
        Action::Put(value) => (OperationType::Put, value.clone()),
        Action::Update(value) => (OperationType::Update, value.clone()),
        Action::Remove => (OperationType::Delete, Bytes::new()),
        Action::Get => (OperationType::Get, Bytes::new()),
        Action::Cas { new, .. } => {
            let value = new.clone().unwrap_or_default();
            (OperationType::CompareAndSet, value)
        }
        Action::Batch(_) => (OperationType::Batch, Bytes::new()),
        Action::Scan { .. } => (OperationType::Scan, Bytes::new()),
    }
}

fn batch_operation((key, action): &(Bytes, Action)) -> BatchOperation {
    let (kind, value) = kind_and_value(action);
    let comparison = match action {
        Action::Cas { expected, new } => comparison(expected.as_deref(), new.is_none()),
        _ => None,
    };
    BatchOperation {
        r#type: kind.into(),
        key: key.clone(),
        value,
        comparison,
    }
}

fn nanos_since(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_nanos()).expect("less than 584 years")
}

/// What the answer says. A scan that was answered in part covers that part alone.
fn outcome(action: &mut Action, answer: Answer) -> Outcome {
    match (action, answer) {
        (Action::Put(_) | Action::Update(_) | Action::Batch(_), Answer::Created)
        | (Action::Cas { new: Some(_), .. }, Answer::Created) => Outcome::Created,
        (Action::Put(_), Answer::Failed(ErrorCode::KeyExists, _)) => Outcome::KeyExists,
        (Action::Remove | Action::Cas { new: None, .. }, Answer::Created) => Outcome::Removed,
        (Action::Remove | Action::Get | Action::Cas { .. }, Answer::NotFound) => Outcome::NotFound,
        (Action::Cas { .. }, Answer::Failed(ErrorCode::ValueMismatch, _)) => Outcome::Mismatch,
        (Action::Batch(_), Answer::BatchFailed(at)) => Outcome::BatchFailed(at as usize - 1),
        (Action::Get, Answer::Value(value)) => Outcome::Found(value),
        (Action::Scan { until }, Answer::Entries(entries, next)) => {
            if next.is_some() {
                *until = next;
            }
            Outcome::Entries(entries)
        }
        (action, answer) => panic!("{action:?} was answered with {answer:?}"),
    }
}

/// A write that was answered.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// A key that was written once.
    pub key: String,
    /// What was written.
    pub value: String,
    /// Whose write it was.
    pub uuid: String,
    /// Which of its writes.
    pub sequence: u64,
    /// When the answer came.
    pub at: Instant,
}

/// Writers at work, each putting one new key after the other, that remember what was answered.
#[derive(Debug)]
pub struct Ledger {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    writers: Vec<JoinHandle<Vec<Acknowledged>>>,
}

impl Ledger {
    /// Starts so many writers; `name` makes their keys differ from those of other ledgers.
    pub fn start(nodes: &[SocketAddr], writers: usize, name: &str, limit: Duration) -> Ledger {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let writers = (0..writers)
            .map(|writer| {
                let mut client = Client::new(nodes);
                let name = format!("{name}-{writer}");
                let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
                std::thread::spawn(move || {
                    let mut acknowledged = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let key = format!("{name}-{}", client.sequence + 1);
                        let value = format!("value of {key}");
                        match client.put(&key, &value, limit) {
                            Ended::Answered(Answer::Created) => acknowledged.push(Acknowledged {
                                key,
                                value,
                                uuid: client.uuid.clone(),
                                sequence: client.sequence,
                                at: Instant::now(),
                            }),
                            Ended::Answered(other) => panic!("put of new {key}: {other:?}"),
                            Ended::Refused(_) | Ended::Unknown(_) => continue,
                        }
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    acknowledged
                })
            })
            .collect();
        Ledger {
            stop,
            answered,
            writers,
        }
    }

    /// How many writes have been answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes have been answered, and says how long it took.
    pub fn wait_for_more(&self, more: u64, limit: Duration) -> Duration {
        let begin = Instant::now();
        let goal = self.answered() + more;
        super::eventually(&format!("{more} more writes"), limit, || {
            (self.answered() >= goal).then_some(())
        });
        begin.elapsed()
    }

    /// Lets each writer end its write, and gives what was answered, by time.
    pub fn stop(self) -> Vec<Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Vec::new();
        for writer in self.writers {
            acknowledged.extend(writer.join().expect("a writer failed"));
        }
        acknowledged.sort_by_key(|a| a.at);
        acknowledged
    }
}

/// Asserts that each write of the ledger can be read back from the leader.
pub fn assert_all_there(leader: SocketAddr, ledger: &[Acknowledged]) {
    let requests = ledger
        .iter()
        .map(|a| request(OperationType::Get, &a.uuid, &a.key, ""));
    let answers = pipelined(leader, requests.collect());
    for (write, answer) in ledger.iter().zip(answers) {
        let expected = Answer::Value(Bytes::from(write.value.clone()));
        assert_eq!(answer, expected, "an acknowledged write is lost: {write:?}");
    }
}

/// Asserts that each write of the ledger, sent again in its session, is answered as the first time;
/// applied again, it would be told that the key exists.
pub fn assert_answered_as_before(leader: SocketAddr, ledger: &[Acknowledged]) {
    let limit = Duration::from_secs(10);
    let mut connection = Connection::open(leader, limit).expect("the leader is there");
    for write in ledger {
        let again = request(OperationType::Put, &write.uuid, &write.key, &write.value);
        connection.send(write.sequence, &again).expect("sent");
        let answer = connection.receive(write.sequence).expect("answered");
        assert_eq!(answer, Answer::Created, "a retry was applied: {write:?}");
    }
}

/// Sends many requests over one connection, a window of them at a time; the answers are in the order
/// of the requests.
pub fn pipelined(node: SocketAddr, requests: Vec<KvOperationRequest>) -> Vec<Answer> {
    const WINDOW: u64 = 64;
    let mut connection = Connection::open(node, Duration::from_secs(10)).expect("it is there");
    let total = requests.len() as u64;
    let mut sent = 0;
    let mut answers = Vec::with_capacity(requests.len());
    for received in 0..total {
        while sent < total && sent < received + WINDOW {
            let request = &requests[sent as usize];
            connection.send(sent + 1, request).expect("sent");
            sent += 1;
        }
        answers.push(connection.receive(received + 1).expect("answered"));
    }
    answers
}
