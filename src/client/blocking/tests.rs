use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use prost::Message;

use super::*;
use crate::net::envelope::{decode_envelope, encode_call};
use crate::net::frame::{HEADER_BYTES, parse_header};
use crate::pb::kv_operation_response::{Data, StatusCode};
use crate::pb::{ErrorCode, KvOperationRequest, KvOperationResponse};

/// What a node does with a request.
enum Reaction {
    Answer(KvOperationResponse),
    /// As the original.
    AnswerAndClose(KvOperationResponse),
    /// Takes the request, and says nothing.
    Close,
    Silence,
    Garbage,
    /// The header of an answer, a byte at a time, for ever.
    Trickle,
    /// An answer to a call that nobody made.
    WrongSequence,
    /// An answer to no call, and closes: as a node with too many connections.
    AnswerNoCall(KvOperationResponse),
}
use Reaction::{
    Answer as Say, AnswerAndClose, AnswerNoCall, Close, Garbage, Silence, Trickle, WrongSequence,
};

/// A node that reacts as a test says, and remembers what it was asked.
struct Node {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<(u64, KvOperationRequest)>>>,
    connections: Arc<Mutex<usize>>,
}

impl Node {
    /// `react` gets the number of the request, from 0 on, and the request.
    fn start(react: impl Fn(usize, &KvOperationRequest) -> Reaction + Send + 'static) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let connections = Arc::new(Mutex::new(0));
        let count = Arc::clone(&connections);
        // One connection at a time is enough: the client has one.
        thread::spawn(move || {
            for stream in listener.incoming() {
                *count.lock().unwrap() += 1;
                serve(stream.unwrap(), &react, &log);
            }
        });
        Node {
            addr,
            seen,
            connections,
        }
    }

    fn client(&self) -> Client {
        client(&[self.addr], 2000)
    }

    fn seen(&self) -> Vec<(u64, KvOperationRequest)> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    react: &impl Fn(usize, &KvOperationRequest) -> Reaction,
    log: &Mutex<Vec<(u64, KvOperationRequest)>>,
) {
    loop {
        let mut header = [0; HEADER_BYTES];
        if stream.read_exact(&mut header).is_err() {
            return;
        }
        let mut body = vec![0; parse_header(&header).unwrap()];
        stream.read_exact(&mut body).unwrap();
        let envelope = decode_envelope(body.into()).unwrap();
        let request = KvOperationRequest::decode(envelope.payload).unwrap();
        let number = {
            let mut log = log.lock().unwrap();
            log.push((envelope.sequence, request.clone()));
            log.len() - 1
        };
        let mut answer = |response: &KvOperationResponse, sequence_id| {
            let mut frame = Buffer::default();
            encode_call(
                &mut frame,
                "KVOperationService",
                "Execute",
                sequence_id,
                response,
            );
            let _ = stream.write_all(&frame);
        };
        match react(number, &request) {
            Say(response) => answer(&response, envelope.sequence),
            AnswerAndClose(response) => return answer(&response, envelope.sequence),
            WrongSequence => answer(&created(), envelope.sequence + 1),
            AnswerNoCall(response) => return answer(&response, 0),
            Garbage => {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            }
            Trickle => {
                while stream.write_all(&[0x0a]).is_ok() {
                    thread::sleep(Duration::from_millis(20));
                }
            }
            Close => return,
            // Until the client has enough.
            Silence => drop(stream.read(&mut [0])),
        }
    }
}

/// A client that opens no session by itself.
fn client(addrs: &[SocketAddr], timeout_ms: u64) -> Client {
    let options = ClientOptions {
        timeout: Duration::from_millis(timeout_ms),
        explicit_sessions: false,
        ..ClientOptions::default()
    };
    Client::at(addrs.to_vec(), options).unwrap()
}

fn response(status: StatusCode, data: Option<Data>) -> KvOperationResponse {
    KvOperationResponse {
        status_code: status as i32,
        data,
        ..KvOperationResponse::default()
    }
}

fn created() -> KvOperationResponse {
    response(StatusCode::Created, None)
}

fn value(value: &'static [u8]) -> KvOperationResponse {
    response(StatusCode::Success, Some(Data::Payload(value.into())))
}

fn redirect(to: SocketAddr) -> KvOperationResponse {
    response(StatusCode::Redirect, Some(Data::Address(to.to_string())))
}

fn error(code: ErrorCode) -> KvOperationResponse {
    KvOperationResponse {
        error_code: code as i32,
        ..response(StatusCode::InternalError, Some(Data::Reason("why".into())))
    }
}

/// An address where nothing listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// Asserts that a call ends within its timeout, with some room for a busy machine.
fn in_time<T>(client: &mut Client, call: impl FnOnce(&mut Client) -> T) -> T {
    let start = Instant::now();
    let result = call(client);
    let limit = client.options.timeout + Duration::from_millis(500);
    assert!(start.elapsed() < limit, "took {:?}", start.elapsed());
    result
}

#[test]
fn a_kept_connection_serves_many_calls() {
    let node = Node::start(|n, _| match n {
        0 => Say(created()),
        1 => Say(value(b"\xff\x00")),
        2 => Say(response(StatusCode::NotFound, None)),
        3 => Say(created()),
        _ => Say(response(StatusCode::NotFound, None)),
    });
    let mut client = node.client();
    client.put(b"k", b"\xff\x00").unwrap();
    assert_eq!(client.get(b"k").unwrap().as_deref(), Some(&b"\xff\x00"[..]));
    assert_eq!(client.get(b"x").unwrap(), None);
    assert_eq!(client.remove(b"k"), Ok(true));
    assert_eq!(client.remove(b"k"), Ok(false));
    assert_eq!(*node.connections.lock().unwrap(), 1);
    let numbers: Vec<u64> = node.seen().iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
}

#[test]
fn a_node_that_closes_after_each_answer_is_dialled_anew() {
    let node = Node::start(|_, _| AnswerAndClose(created()));
    let mut client = node.client();
    for _ in 0..3 {
        client.update(b"k", b"v").unwrap();
    }
    assert_eq!(node.seen().len(), 3, "nothing was sent twice");
    assert_eq!(*node.connections.lock().unwrap(), 3);
}

#[test]
fn redirects_are_followed_and_the_leader_is_remembered() {
    let leader = Node::start(|_, _| Say(created()));
    let to = leader.addr;
    let follower = Node::start(move |_, _| Say(redirect(to)));
    let mut client = follower.client();
    let hops = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&hops);
    client.on_redirect(move |addr| log.lock().unwrap().push(addr));
    client.put(b"a", b"1").unwrap();
    client.put(b"b", b"2").unwrap();
    assert_eq!(*hops.lock().unwrap(), [to]);
    assert_eq!(follower.seen().len(), 1);
    assert_eq!(leader.seen().len(), 2);
}

#[test]
fn redirects_end_the_call_if_they_are_not_followed() {
    let to = nobody();
    let node = Node::start(move |_, _| Say(redirect(to)));
    let mut client = node.client();
    client.options.follow_redirects = false;
    assert_eq!(
        client.get(b"k"),
        Err(ClientError::Redirected { leader: to })
    );
}

#[test]
fn nodes_that_name_each_other_are_asked_slowly_and_not_for_ever() {
    let other = Arc::new(Mutex::new(nobody()));
    let to = Arc::clone(&other);
    let a = Node::start(move |_, _| Say(redirect(*to.lock().unwrap())));
    let to = a.addr;
    let b = Node::start(move |_, _| Say(redirect(to)));
    *other.lock().unwrap() = b.addr;
    let mut client = client(&[a.addr, b.addr], 300);
    let result = in_time(&mut client, |client| client.put(b"k", b"v"));
    assert!(
        matches!(result, Err(ClientError::Timeout { .. })),
        "{result:?}"
    );
    assert!(a.seen().len() + b.seen().len() < 20);
}

#[test]
fn a_leader_that_died_is_left_for_the_next_node() {
    let dead = nobody();
    let new = Node::start(|_, _| Say(created()));
    let to = new.addr;
    // Names the dead leader until it has heard of the new one.
    let follower = Node::start(move |n, _| Say(redirect(if n < 3 { dead } else { to })));
    let mut client = client(&[dead, follower.addr], 2000);
    client.put(b"k", b"v").unwrap();
    assert_eq!(client.leader, Some(new.addr));
}

#[test]
fn a_wrong_address_that_followers_name_keeps_nobody_from_the_leader() {
    let wrong = nobody();
    let followers = [0, 1].map(|_| Node::start(move |_, _| Say(redirect(wrong))));
    let leader = Node::start(|_, _| Say(created()));
    let mut with_leader = client(&[followers[0].addr, followers[1].addr, leader.addr], 5000);
    with_leader.put(b"k", b"v").unwrap();
    assert_eq!(with_leader.leader, Some(leader.addr));

    let mut without = client(&[followers[0].addr], 300);
    let error = without.put(b"k", b"v").unwrap_err().to_string();
    assert!(
        error.contains(&format!("{wrong}: connection refused")),
        "{error}"
    );
}

#[test]
fn no_leader_is_waited_for() {
    let node = Node::start(|n, _| {
        Say(match n {
            0 | 1 => error(ErrorCode::NoLeader),
            _ => created(),
        })
    });
    node.client().put(b"k", b"v").unwrap();
    let seen = node.seen();
    assert_eq!(seen.len(), 3);
    assert!(
        seen.iter().all(|request| *request == seen[0]),
        "the same name each time"
    );
}

#[test]
fn a_busy_leader_is_asked_again_and_nobody_else() {
    let other = Node::start(|_, _| Say(created()));
    let leader = Node::start(|n, _| {
        Say(if n < 2 {
            error(ErrorCode::Busy)
        } else {
            created()
        })
    });
    client(&[leader.addr, other.addr], 2000)
        .put(b"k", b"v")
        .unwrap();
    assert_eq!((leader.seen().len(), other.seen().len()), (3, 0));
}

#[test]
fn a_node_with_too_many_connections_did_nothing_and_is_asked_again() {
    let full = |n, enough| match n < enough {
        true => AnswerNoCall(error(ErrorCode::Busy)),
        false => Say(created()),
    };
    let node = Node::start(move |n, _| full(n, 2));
    node.client().put(b"k", b"v").unwrap();
    assert_eq!(node.seen().len(), 3);

    let node = Node::start(move |n, _| full(n, usize::MAX));
    let mut client = client(&[node.addr], 200);
    let result = in_time(&mut client, |client| client.put(b"k", b"v")).unwrap_err();
    assert!(result.is_safe_to_retry(), "{result:?}");
    assert!(
        result.to_string().contains("too many connections"),
        "{result}"
    );
}

#[test]
fn an_answer_to_no_call_is_believed_only_if_it_refuses() {
    let node = Node::start(|_, _| AnswerNoCall(created()));
    let mut client = client(&[node.addr], 200);
    let result = in_time(&mut client, |client| client.put(b"k", b"v")).unwrap_err();
    assert!(
        matches!(result, ClientError::OutcomeUnknown { .. }),
        "{result:?}"
    );
}

#[test]
fn nothing_was_done_when_nobody_leads_or_listens() {
    let node = Node::start(|_, _| Say(error(ErrorCode::NoLeader)));
    let mut one = client(&[node.addr], 200);
    let result = in_time(&mut one, |client| client.put(b"k", b"v")).unwrap_err();
    assert!(matches!(result, ClientError::Timeout { .. }) && result.is_safe_to_retry());
    assert!(result.to_string().contains(&format!("{}: why", node.addr)));

    let addrs = [nobody(), nobody()];
    let mut two = client(&addrs, 200);
    let result = in_time(&mut two, |client| client.put(b"k", b"v")).unwrap_err();
    let ClientError::Unreachable { tried } = &result else {
        panic!("{result:?}");
    };
    assert!(result.is_safe_to_retry());
    let mut named: Vec<SocketAddr> = tried.iter().map(|attempt| attempt.addr).collect();
    named.sort();
    let mut addrs = addrs.to_vec();
    addrs.sort();
    assert_eq!(named, addrs);
    assert!(result.to_string().contains("connection refused"));
}

#[test]
fn a_silent_node_makes_a_write_unknown_and_a_read_time_out() {
    let node = Node::start(|_, _| Silence);
    let mut client = client(&[node.addr], 200);
    let read = in_time(&mut client, |client| client.get(b"k"));
    assert!(matches!(read, Err(ClientError::Timeout { .. })), "{read:?}");
    let write = in_time(&mut client, |client| client.put(b"k", b"v")).unwrap_err();
    assert!(
        matches!(write, ClientError::OutcomeUnknown { .. }),
        "{write:?}"
    );
    assert!(!write.is_safe_to_retry());
}

#[test]
fn another_node_is_asked_when_one_is_silent() {
    let silent = Node::start(|_, _| Silence);
    let leader = Node::start(|_, _| Say(created()));
    let mut client = client(&[silent.addr, leader.addr], 400);
    client.put(b"k", b"v").unwrap();
    assert_eq!(silent.seen(), leader.seen(), "under the same name");
}

#[test]
fn a_write_of_unknown_outcome_is_sent_again_under_the_same_name() {
    for doubt in [
        || Close,
        || Say(error(ErrorCode::OutcomeUnknown)),
        || Garbage,
        || WrongSequence,
    ] {
        let node = Node::start(move |n, _| if n == 0 { doubt() } else { Say(created()) });
        let mut client = node.client();
        client.put(b"k", b"v").unwrap();
        let seen = node.seen();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0], seen[1]);
    }
}

#[test]
fn resolve_learns_what_became_of_the_last_write() {
    let node = Node::start(|n, _| if n < 2 { Silence } else { Say(created()) });
    let mut client = client(&[node.addr], 200);
    assert_eq!(client.resolve(), Err(ClientError::NothingToResolve));
    let result = client.put(b"k", b"v");
    assert!(matches!(result, Err(ClientError::OutcomeUnknown { .. })));
    client.options.timeout = Duration::from_secs(2);
    assert_eq!(client.resolve(), Ok(Outcome::Done));
    let seen = node.seen();
    assert!(seen.iter().all(|request| *request == seen[0]));
    assert_eq!(client.resolve(), Err(ClientError::NothingToResolve));
}

#[test]
fn a_refusal_of_a_later_try_does_not_settle_an_earlier_one() {
    let node = Node::start(|n, _| {
        if n == 0 {
            Close
        } else {
            Say(error(ErrorCode::NoSpace))
        }
    });
    let result = node.client().put(b"k", b"v");
    assert!(
        matches!(result, Err(ClientError::OutcomeUnknown { .. })),
        "{result:?}"
    );
    let node = Node::start(|_, _| Say(error(ErrorCode::NoSpace)));
    let result = node.client().put(b"k", b"v");
    assert_eq!(
        result,
        Err(ClientError::NoSpace {
            reason: "why".into()
        })
    );
}

#[test]
fn a_duplicate_put_is_told_apart_and_the_original_says_only_that_it_failed() {
    let node = Node::start(|n, _| {
        Say(match n {
            0 => error(ErrorCode::KeyExists),
            _ => response(StatusCode::InternalError, None),
        })
    });
    let mut client = node.client();
    assert_eq!(client.put(b"k", b"v"), Err(ClientError::KeyExists));
    let result = client.put(b"k", b"v").unwrap_err();
    assert!(
        matches!(result, ClientError::Refused { status: 500, .. }) && !result.is_safe_to_retry()
    );
}

#[test]
fn garbage_ends_in_time_too() {
    let node = Node::start(|_, _| Garbage);
    let mut client = client(&[node.addr], 200);
    let result = in_time(&mut client, |client| client.get(b"k")).unwrap_err();
    assert!(
        result
            .to_string()
            .contains("not an answer of this protocol"),
        "{result}"
    );
}

#[test]
fn a_trickle_of_bytes_does_not_stretch_the_timeout() {
    let node = Node::start(|_, _| Trickle);
    let mut client = client(&[node.addr], 200);
    let result = in_time(&mut client, |client| client.get(b"k"));
    assert!(
        matches!(result, Err(ClientError::Timeout { .. })),
        "{result:?}"
    );
}

#[test]
fn writes_of_an_explicit_session_are_numbered_and_reads_are_not() {
    let node = Node::start(|n, _| {
        Say(match n {
            0 => KvOperationResponse {
                session_id: 77,
                ..created()
            },
            2 => value(b"v"),
            _ => created(),
        })
    });
    let mut client = node.client();
    assert_eq!(client.open_session(), Ok(77));
    client.put(b"k", b"v").unwrap();
    client.get(b"k").unwrap();
    client.update(b"k", b"w").unwrap();
    client.leave_session();
    client.update(b"k", b"x").unwrap();
    let sessions: Vec<Option<(u64, u64, u64)>> = node
        .seen()
        .iter()
        .map(|(_, request)| request.session.map(|s| (s.id, s.sequence, s.acked_below)))
        .collect();
    let expected = [None, Some((77, 1, 1)), None, Some((77, 2, 2)), None];
    assert_eq!(sessions, expected);
}

#[test]
fn an_expired_session_is_an_error_until_a_new_one_is_opened() {
    let node = Node::start(|n, request| match (n, request.session) {
        (0, _) => Say(KvOperationResponse {
            session_id: 1,
            ..created()
        }),
        (1, _) => Close,
        (_, Some(_)) => Say(error(ErrorCode::SessionExpired)),
        (_, None) => Say(created()),
    });
    let mut client = node.client();
    client.open_session().unwrap();
    let expired = |outcome_unknown| Err(ClientError::SessionExpired { outcome_unknown });
    assert_eq!(
        client.put(b"k", b"v"),
        expired(true),
        "its first try got no answer"
    );
    assert_eq!(
        client.put(b"k", b"v"),
        expired(false),
        "never quietly without a session"
    );
    client.leave_session();
    client.put(b"k", b"v").unwrap();
}

/// A client that opens its sessions itself, as it does by default.
fn client_with_sessions(addrs: &[SocketAddr], timeout_ms: u64) -> Client {
    let options = ClientOptions {
        timeout: Duration::from_millis(timeout_ms),
        ..ClientOptions::default()
    };
    Client::at(addrs.to_vec(), options).unwrap()
}

fn opened(session_id: u64) -> KvOperationResponse {
    KvOperationResponse {
        session_id,
        ..created()
    }
}

/// The session, if any, of each request: its id, the write's number, `acked_below`.
fn sessions_of(node: &Node) -> Vec<Option<(u64, u64, u64)>> {
    let seen = node.seen();
    let session = |request: &KvOperationRequest| request.session;
    seen.iter()
        .map(|(_, request)| session(request).map(|s| (s.id, s.sequence, s.acked_below)))
        .collect()
}

fn is_opening(request: &KvOperationRequest) -> bool {
    request.r#type() == crate::pb::OperationType::OpenSession
}

#[test]
fn a_session_is_opened_before_the_first_write_and_not_for_reads() {
    let node = Node::start(|_, request| {
        Say(match request.r#type() {
            crate::pb::OperationType::Get => value(b"v"),
            crate::pb::OperationType::OpenSession => opened(9),
            _ => created(),
        })
    });
    let mut client = client_with_sessions(&[node.addr], 2000);
    client.get(b"k").unwrap();
    client.put(b"k", b"v").unwrap();
    client.compare_and_set(b"k", Some(b"v"), None).unwrap();
    let expected = [None, None, Some((9, 1, 1)), Some((9, 2, 2))];
    assert_eq!(sessions_of(&node), expected);
    assert!(is_opening(&node.seen()[1].1));
}

#[test]
fn a_write_keeps_its_session_and_number_over_redirects_time_outs_and_another_leader() {
    let new = Node::start(|_, _| Say(created()));
    let to = new.addr;
    // Opens the session, dies with the write in hand, and then knows the new leader.
    let old = Node::start(move |n, _| match n {
        0 => Say(opened(5)),
        1 => Silence,
        2 => Say(error(ErrorCode::OutcomeUnknown)),
        _ => Say(redirect(to)),
    });
    let mut client = client_with_sessions(&[old.addr], 4000);
    client.put(b"k", b"v").unwrap();
    client.update(b"k", b"w").unwrap();
    let first = Some((5, 1, 1));
    assert_eq!(sessions_of(&old), [None, first, first, first]);
    assert_eq!(sessions_of(&new), [first, Some((5, 2, 2))]);
    let writes = old.seen();
    assert!(writes[1..].iter().all(|write| *write == new.seen()[0]));
}

#[test]
fn a_write_of_unknown_outcome_is_resolved_in_its_session() {
    let node = Node::start(|n, _| match n {
        0 => Say(opened(5)),
        1 | 2 => Silence,
        _ => Say(created()),
    });
    let mut client = client_with_sessions(&[node.addr], 300);
    let result = in_time(&mut client, |client| client.put(b"k", b"v"));
    assert!(matches!(result, Err(ClientError::OutcomeUnknown { .. })));
    client.options.timeout = Duration::from_secs(2);
    assert_eq!(client.resolve(), Ok(Outcome::Done));
    let write = Some((5, 1, 1));
    assert_eq!(sessions_of(&node), [None, write, write, write]);
}

#[test]
fn an_own_session_that_has_expired_is_followed_by_another_if_nothing_was_done() {
    let node = Node::start(|n, request| {
        Say(match request.session {
            None => opened(if n == 0 { 5 } else { 6 }),
            Some(session) if session.id == 5 => error(ErrorCode::SessionExpired),
            Some(_) => created(),
        })
    });
    let mut client = client_with_sessions(&[node.addr], 2000);
    client.put(b"k", b"v").unwrap();
    let expected = [None, Some((5, 1, 1)), None, Some((6, 1, 1))];
    assert_eq!(sessions_of(&node), expected);

    // A first try without an answer may have been applied: that is for the caller to know.
    let node = Node::start(|n, request| match (n, request.session) {
        (1, _) => Close,
        (_, None) => Say(opened(7)),
        (2, _) => Say(error(ErrorCode::SessionExpired)),
        _ => Say(created()),
    });
    let mut client = client_with_sessions(&[node.addr], 2000);
    let outcome_unknown = true;
    assert_eq!(
        client.put(b"k", b"v"),
        Err(ClientError::SessionExpired { outcome_unknown })
    );
    client.put(b"k", b"v").unwrap();
    assert_eq!(node.seen().len(), 5, "in a new session");
}

#[test]
fn where_there_are_no_sessions_or_no_space_for_one_writes_go_without() {
    let original = Node::start(|_, request| {
        Say(if is_opening(request) {
            response(StatusCode::BadRequest, Some(Data::Reason("what?".into())))
        } else {
            created()
        })
    });
    let mut client = client_with_sessions(&[original.addr], 2000);
    client.put(b"k", b"v").unwrap();
    client.put(b"l", b"v").unwrap();
    assert_eq!(sessions_of(&original), [None, None, None], "asked once");

    let full = Node::start(|_, request| {
        Say(if is_opening(request) {
            error(ErrorCode::NoSpace)
        } else {
            created()
        })
    });
    let mut client = client_with_sessions(&[full.addr], 2000);
    assert_eq!(client.remove(b"k"), Ok(true));
    assert_eq!(sessions_of(&full), [None, None]);
}

#[test]
fn opening_a_session_takes_from_the_time_of_the_write() {
    let node = Node::start(|_, _| Silence);
    let mut client = client_with_sessions(&[node.addr], 300);
    let result = in_time(&mut client, |client| client.put(b"k", b"v")).unwrap_err();
    assert!(
        matches!(result, ClientError::Timeout { .. }) && result.is_safe_to_retry(),
        "no write was sent: {result:?}"
    );
    assert!(node.seen().iter().all(|(_, request)| is_opening(request)));
}

#[test]
fn addresses_are_checked_before_anything_is_dialled() {
    let connect = |addrs: &[&str]| Client::connect(addrs, ClientOptions::default()).map(drop);
    assert_eq!(connect(&["127.0.0.1:4397", "localhost:1"]), Ok(()));
    // One that does not resolve is left out.
    assert_eq!(connect(&["127.0.0.1", "127.0.0.1:1"]), Ok(()));
    for bad in [
        &["127.0.0.1"][..],
        &["127.0.0.1:x"],
        &["127.0.0.1:99999"],
        &[],
    ] {
        let error = connect(bad).unwrap_err();
        assert!(matches!(error, ClientError::BadAddress { .. }), "{error}");
    }
}

#[test]
fn status_names_the_nodes_that_say_nothing() {
    let silent = Node::start(|_, _| Silence);
    let addrs = [nobody(), silent.addr];
    let start = Instant::now();
    let status = status_of(&addrs, Duration::from_millis(200));
    assert!(start.elapsed() < Duration::from_millis(700));
    assert_eq!(status[0].status, Err("connection refused".into()));
    assert_eq!(status[1].status, Err("no answer in time".into()));
    assert_eq!(status[1].addr, silent.addr);
}
