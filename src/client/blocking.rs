//! [`Client`]: finds the leader, repeats what may be repeated, ends in time.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use crate::client::connection::{Connection, Failure, describe};
use crate::client::protocol::{
    Answer, Identity, Operation, Page, Range, Reply, decode_answer, encode_follower_read,
    encode_operation,
};
use crate::client::{Attempt, ClientError, NodeStatus, Outcome, resolve, status_of};
use crate::kv::WriteOp;
use crate::mem::Buffer;

/// The longest wait for a connection: a host that is off answers nothing at all.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(1);
/// One node may keep a call waiting for this part of its timeout; then another is
/// asked, which knows the new leader if this one hangs.
const ATTEMPTS_PER_TIMEOUT: u32 = 2;
/// The first pause after nobody could help; it doubles …
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// … up to this, about the length of an election.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Redirects in a row that are followed at once; later ones are followed after a
/// pause, for two nodes that name each other have no leader yet.
const REDIRECTS_AT_ONCE: u32 = 3;

/// How a [`Client`] behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// Every call ends within this. Default 5 s.
    pub timeout: Duration,
    /// Whether to go where a node says that the leader is. Default yes; otherwise
    /// calls end with [`ClientError::Redirected`].
    pub follow_redirects: bool,
    /// Whether writes belong to an explicit session, which is opened before the first one.
    /// Default yes.
    ///
    /// Without, a write is known by the client's uuid and its number for a stretch of the
    /// log only ([`IMPLICIT_SESSION_WINDOW`](crate::limits::IMPLICIT_SESSION_WINDOW)), which
    /// a busy cluster writes in seconds: repeated after that, it is applied again. That
    /// suits those who make one write and go. The server of the original knows no sessions;
    /// where opening one is refused, writes go without.
    pub explicit_sessions: bool,
    /// Whether gets and scans are answered by whichever node is asked, in place of a redirect
    /// to the leader. They are as recent; the node asks the leader from where on it may
    /// answer. Takes load from the leader, and costs a round trip between nodes. Default no.
    pub follower_reads: bool,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            timeout: Duration::from_secs(5),
            follow_redirects: true,
            explicit_sessions: true,
            follower_reads: false,
        }
    }
}

type RedirectHook = Box<dyn FnMut(SocketAddr) + Send>;

/// A client of the cluster, for one thread at a time.
pub struct Client {
    options: ClientOptions,
    /// Where to begin; never empty.
    addrs: Vec<SocketAddr>,
    /// Whose turn it is among `addrs` when no leader is known.
    turn: usize,
    /// Who answered last as the leader, or was named as it.
    leader: Option<SocketAddr>,
    connection: Option<Connection>,
    uuid: String,
    /// Numbers the calls; a repeated one keeps its number.
    next_sequence_id: u64,
    session: Option<Session>,
    /// Whether a session is opened when a write needs one.
    opens_sessions: bool,
    unresolved: Option<Request>,
    on_redirect: Option<RedirectHook>,
}

/// An explicit session.
struct Session {
    id: u64,
    next_sequence: u64,
    /// Opened for a write that needed one; then another follows when it has expired.
    is_own: bool,
}

/// An operation under its name, as it is sent however often.
struct Request {
    operation: Operation,
    identity: Identity,
    sequence_id: u64,
}

/// One call on its way.
struct Call {
    deadline: Instant,
    attempt_timeout: Duration,
    tried: Vec<Attempt>,
    /// Some node could be spoken to.
    reached: bool,
    /// The write may have been applied.
    uncertain: bool,
    redirects: u32,
    /// Tries since the last pause.
    tries: usize,
    /// Addresses that failed since the last pause: redirects to them are not followed.
    failed: Vec<SocketAddr>,
    pause: Duration,
}

impl Client {
    /// A client that begins at these addresses, in this order. Nothing is dialled
    /// before the first call.
    ///
    /// # Errors
    ///
    /// [`ClientError::BadAddress`] if none of them resolves; one among others is left out. A host
    /// name is resolved here, by the system, in the time that takes. See [`resolve`].
    pub fn connect<A: AsRef<str>>(
        addrs: &[A],
        options: ClientOptions,
    ) -> Result<Client, ClientError> {
        match resolve(addrs) {
            (none, mut bad) if none.is_empty() && !bad.is_empty() => Err(bad.swap_remove(0)),
            (resolved, _) => Client::at(resolved, options),
        }
    }

    /// As [`Client::connect`], with addresses that need no resolving.
    ///
    /// # Errors
    ///
    /// [`ClientError::BadAddress`] if there is none.
    pub fn at(addrs: Vec<SocketAddr>, options: ClientOptions) -> Result<Client, ClientError> {
        if addrs.is_empty() {
            return Err(ClientError::BadAddress {
                addr: String::new(),
                reason: "none is given".into(),
            });
        }
        Ok(Client {
            opens_sessions: options.explicit_sessions,
            options,
            addrs,
            turn: 0,
            leader: None,
            connection: None,
            uuid: Uuid::new_v4().to_string(),
            next_sequence_id: 1,
            session: None,
            unresolved: None,
            on_redirect: None,
        })
    }

    /// Calls `hook` with the leader's address before each redirect is followed.
    pub fn on_redirect(&mut self, hook: impl FnMut(SocketAddr) + Send + 'static) {
        self.on_redirect = Some(Box::new(hook));
    }

    /// Inserts a key that must be new.
    ///
    /// # Errors
    ///
    /// [`ClientError::KeyExists`] if it is not; else see [`ClientError`].
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), ClientError> {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.call(Operation::Put { key, value }).map(drop)
    }

    /// Inserts or overwrites a key.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn update(&mut self, key: &[u8], value: &[u8]) -> Result<(), ClientError> {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.call(Operation::Update { key, value }).map(drop)
    }

    /// Reads a key, linearizably; [`None`] if it does not exist.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ClientError> {
        let key = Bytes::copy_from_slice(key);
        match self.call(Operation::Get { key })? {
            Outcome::Value(value) => Ok(Some(value)),
            _ => Ok(None),
        }
    }

    /// Removes a key; whether it was there.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn remove(&mut self, key: &[u8]) -> Result<bool, ClientError> {
        let key = Bytes::copy_from_slice(key);
        Ok(self.call(Operation::Remove { key })? == Outcome::Done)
    }

    /// Sets a key to `new`, or removes it if that is [`None`], if it holds what is expected:
    /// a value, or [`None`] if it must not exist. Returns whether that was done; not if a
    /// value was expected and there is no such key.
    ///
    /// # Errors
    ///
    /// [`ClientError::Mismatch`] if it holds something else; else see [`ClientError`].
    pub fn compare_and_set(
        &mut self,
        key: &[u8],
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<bool, ClientError> {
        let operation = Operation::CompareAndSet {
            key: Bytes::copy_from_slice(key),
            expected: expected.map(Bytes::copy_from_slice),
            new: new.map(Bytes::copy_from_slice),
        };
        Ok(self.call(operation)? == Outcome::Done)
    }

    /// Carries out all operations at one moment, or none of them.
    ///
    /// # Errors
    ///
    /// [`ClientError::BatchFailed`] if one of them cannot be carried out; else see
    /// [`ClientError`].
    pub fn batch(&mut self, operations: Vec<WriteOp>) -> Result<(), ClientError> {
        self.call(Operation::Batch(operations)).map(drop)
    }

    /// Reads the first page of a range, linearizably.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn scan(&mut self, range: Range) -> Result<Page, ClientError> {
        match self.call(Operation::Scan(range))? {
            Outcome::Page(page) => Ok(page),
            other => unreachable!("decode_answer gives a page, not {other:?}"),
        }
    }

    /// Carries out any operation. A write drops what [`Client::resolve`] could resolve.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn call(&mut self, operation: Operation) -> Result<Outcome, ClientError> {
        operation.check()?;
        let deadline = self.deadline();
        if operation.is_write() {
            self.ensure_session(deadline)?;
        }
        let mut request = self.name(operation);
        let mut result = self.run(&request, false, deadline);
        let nothing_done = Err(ClientError::SessionExpired {
            outcome_unknown: false,
        });
        if result == nothing_done && self.leave_own_session() {
            self.ensure_session(deadline)?;
            request = self.name(request.operation);
            result = self.run(&request, false, deadline);
        }
        self.remember(request, &result);
        result
    }

    /// Opens an explicit session; from now on writes belong to it, and are known to
    /// the cluster for as long as it lives. When it has expired, writes are refused until
    /// another is opened. Its id is for logs only.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; the client stays in the session that it had, if any.
    pub fn open_session(&mut self) -> Result<u64, ClientError> {
        match self.call(Operation::OpenSession)? {
            Outcome::Session(id) => {
                self.session = Some(Session {
                    id,
                    next_sequence: 1,
                    is_own: false,
                });
                Ok(id)
            }
            other => unreachable!("decode_answer gives a session, not {other:?}"),
        }
    }

    /// Goes back to implicit sessions, one for each write.
    pub fn leave_session(&mut self) {
        self.session = None;
        self.opens_sessions = false;
    }

    /// Learns the outcome of the last write, after [`ClientError::OutcomeUnknown`], by
    /// sending it under the same name again: it is applied now if it was not before.
    ///
    /// # Errors
    ///
    /// [`ClientError::NothingToResolve`]; else as the write itself.
    pub fn resolve(&mut self) -> Result<Outcome, ClientError> {
        let request = self.unresolved.take();
        let request = request.ok_or(ClientError::NothingToResolve)?;
        let result = self.run(&request, true, self.deadline());
        self.remember(request, &result);
        result
    }

    /// The addresses that the client was given.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Asks all nodes that the client was given for their status, at the same time.
    #[must_use]
    pub fn status(&self) -> Vec<NodeStatus> {
        status_of(&self.addrs, self.options.timeout)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.options.timeout
    }

    /// Opens a session for writes if there is none and should be one.
    fn ensure_session(&mut self, deadline: Instant) -> Result<(), ClientError> {
        if self.session.is_some() || !self.opens_sessions {
            return Ok(());
        }
        let request = self.name(Operation::OpenSession);
        match self.run(&request, false, deadline) {
            Ok(Outcome::Session(id)) => {
                self.session = Some(Session {
                    id,
                    next_sequence: 1,
                    is_own: true,
                });
            }
            Ok(other) => unreachable!("decode_answer gives a session, not {other:?}"),
            Err(ClientError::BadRequest { .. } | ClientError::Refused { .. }) => {
                self.opens_sessions = false;
            }
            // A remove needs no space, and no session that does.
            Err(ClientError::NoSpace { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Leaves the session if it was opened for a write, and says whether it was.
    fn leave_own_session(&mut self) -> bool {
        self.session.take_if(|session| session.is_own).is_some()
    }

    /// Keeps what stays unknown, and leaves a session that is of no more use.
    fn remember(&mut self, request: Request, result: &Result<Outcome, ClientError>) {
        match result {
            Err(ClientError::OutcomeUnknown { .. }) => self.unresolved = Some(request),
            Err(ClientError::SessionExpired { .. }) => drop(self.leave_own_session()),
            _ => {}
        }
    }

    /// Gives an operation the name under which it is applied once.
    fn name(&mut self, operation: Operation) -> Request {
        let sequence_id = self.next_sequence_id;
        self.next_sequence_id += 1;
        if operation.is_write() {
            self.unresolved = None;
        }
        let identity = match &mut self.session {
            Some(session) if operation.is_write() => {
                let sequence = session.next_sequence;
                session.next_sequence += 1;
                Identity::Session {
                    id: session.id,
                    sequence,
                    // One write at a time, and those before are answered or given up.
                    acked_below: sequence,
                }
            }
            _ => Identity::Uuid(self.uuid.clone()),
        };
        Request {
            operation,
            identity,
            sequence_id,
        }
    }

    /// Tries until there is an outcome or no time left.
    fn run(
        &mut self,
        request: &Request,
        uncertain: bool,
        deadline: Instant,
    ) -> Result<Outcome, ClientError> {
        let mut call = Call::new(&self.options, uncertain, deadline);
        let mut frame = Buffer::default();
        let reads = matches!(
            request.operation,
            Operation::Get { .. } | Operation::Scan(_)
        );
        let follower_read = reads && self.options.follower_reads;
        let encode = if follower_read {
            encode_follower_read
        } else {
            encode_operation
        };
        encode(
            &mut frame,
            request.sequence_id,
            &request.operation,
            &request.identity,
        );
        loop {
            if call.is_over() {
                return Err(call.give_up());
            }
            let any = self.addrs[self.turn];
            let target = match self.leader {
                Some(leader) if !follower_read => leader,
                _ => any,
            };
            if let Some(result) = self.step(&mut call, target, request, &frame) {
                return result;
            }
        }
    }

    /// One try at one node: the result of the call if that decides it.
    fn step(
        &mut self,
        call: &mut Call,
        target: SocketAddr,
        request: &Request,
        frame: &[u8],
    ) -> Option<Result<Outcome, ClientError>> {
        let decoded = self
            .exchange(call, target, frame, request.sequence_id)
            .and_then(|reply| {
                decode_answer(&request.operation, reply.payload).map_err(|why| Failure {
                    sent: true,
                    reason: format!("not an answer of this protocol: {why}"),
                })
            });
        let answer = match decoded {
            Ok(answer) => answer,
            Err(Failure { sent, reason }) => {
                self.connection = None;
                call.uncertain |= sent && request.operation.is_write();
                call.failed.push(target);
                self.try_elsewhere(call, target, reason);
                return None;
            }
        };
        match answer {
            Answer::Outcome(outcome) => {
                self.leader = Some(target);
                return Some(Ok(outcome));
            }
            Answer::Refused(error) => return Some(Err(call.refused(error))),
            Answer::Redirect(leader) if !self.options.follow_redirects => {
                return Some(Err(call.refused(ClientError::Redirected { leader })));
            }
            Answer::Redirect(leader) => {
                if let Some(hook) = &mut self.on_redirect {
                    hook(leader);
                }
                let reason = format!("redirected to {leader}");
                if call.failed.contains(&leader) {
                    self.try_elsewhere(call, target, reason);
                    return None;
                }
                call.note(target, reason);
                self.leader = Some(leader);
                call.redirects += 1;
                if call.redirects > REDIRECTS_AT_ONCE {
                    call.pause();
                }
            }
            Answer::NoLeader(reason) => self.try_elsewhere(call, target, reason),
            Answer::Busy(reason) => {
                call.note(target, reason);
                self.leader = Some(target);
                call.pause();
            }
            Answer::Unknown(reason) => {
                call.uncertain = true;
                self.try_elsewhere(call, target, reason);
            }
        }
        None
    }

    /// Sends to `target` and waits for its answer, on the connection that is there if
    /// the node has left it open.
    fn exchange(
        &mut self,
        call: &mut Call,
        target: SocketAddr,
        frame: &[u8],
        sequence_id: u64,
    ) -> Result<Reply, Failure> {
        let kept = self.connection.take();
        let kept = kept.filter(|connection| connection.addr() == target && connection.is_open());
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let deadline = call.attempt_deadline(CONNECT_TIMEOUT_MAX);
                Connection::open(target, deadline).map_err(|e| Failure {
                    sent: false,
                    reason: describe(&e),
                })?
            }
        };
        call.reached = true;
        let deadline = call.attempt_deadline(call.attempt_timeout);
        let reply = connection.exchange(frame, sequence_id, deadline)?;
        self.connection = Some(connection);
        Ok(reply)
    }

    /// The next address is asked next; after a round without luck, after a pause.
    fn try_elsewhere(&mut self, call: &mut Call, target: SocketAddr, reason: String) {
        call.note(target, reason);
        if self
            .leader
            .take()
            .is_none_or(|leader| self.addrs[self.turn] == leader)
        {
            self.turn = (self.turn + 1) % self.addrs.len();
        }
        call.tries += 1;
        if call.tries >= self.addrs.len() {
            call.pause();
        }
    }
}

impl Call {
    fn new(options: &ClientOptions, uncertain: bool, deadline: Instant) -> Call {
        Call {
            deadline,
            attempt_timeout: options.timeout / ATTEMPTS_PER_TIMEOUT,
            tried: Vec::new(),
            reached: false,
            uncertain,
            redirects: 0,
            tries: 0,
            failed: Vec::new(),
            pause: PAUSE_MIN,
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    fn attempt_deadline(&self, at_most: Duration) -> Instant {
        self.deadline.min(Instant::now() + at_most)
    }

    /// Remembers the last try at each address, for messages.
    fn note(&mut self, addr: SocketAddr, reason: String) {
        match self.tried.iter_mut().find(|attempt| attempt.addr == addr) {
            Some(attempt) => attempt.reason = reason,
            None => self.tried.push(Attempt { addr, reason }),
        }
    }

    fn pause(&mut self) {
        let left = self.deadline.saturating_duration_since(Instant::now());
        thread::sleep(self.pause.min(left));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.tries = 0;
        self.failed.clear();
    }

    /// A refusal that says "nothing was done" speaks for this try, not for an earlier
    /// one that may be applied yet. That a key exists, or a request is wrong, is the
    /// answer of the first try, told again.
    fn refused(&mut self, error: ClientError) -> ClientError {
        match error {
            ClientError::SessionExpired { .. } => ClientError::SessionExpired {
                outcome_unknown: self.uncertain,
            },
            ClientError::NoSpace { .. } | ClientError::Redirected { .. } if self.uncertain => {
                self.give_up()
            }
            error => error,
        }
    }

    fn give_up(&mut self) -> ClientError {
        let tried = std::mem::take(&mut self.tried);
        if self.uncertain {
            ClientError::OutcomeUnknown { tried }
        } else if self.reached {
            ClientError::Timeout { tried }
        } else {
            ClientError::Unreachable { tried }
        }
    }
}

#[cfg(test)]
mod tests;
