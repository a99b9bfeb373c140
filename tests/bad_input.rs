//! Bad input on both ports: a clear error or a closed connection, a bounded amount of memory, other
//! clients served meanwhile, and never a panic.

mod support;

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use prost::Message;
use raftkv::limits;
use raftkv::pb::{self, ErrorCode, OperationType};
use support::cluster::{SOON, TestCluster};
use support::wire::{
    Answer, Connection, KV_SERVICE, call_frame, envelope, frame, header, new_uuid, request,
    request_frame,
};
use support::workload::{Client, Ended};
use support::{Random, count, eventually, figure};

const TIMEOUT: Duration = Duration::from_secs(5);
/// How much more memory a node may hold after input that it has no use for.
const GROWTH_BYTES_MAX: u64 = 24 << 20;

/// A three-node cluster whose nodes are asked, before and after each case, whether they are well.
struct Ward {
    cluster: TestCluster,
    leader: usize,
    resident_bytes: Vec<u64>,
}

impl Ward {
    fn new() -> Ward {
        let mut cluster = TestCluster::with_leader(3, &[]);
        let leader = cluster.wait_for_leader(SOON);
        let mut ward = Ward {
            cluster,
            leader,
            resident_bytes: Vec::new(),
        };
        ward.serves_others();
        ward.resident_bytes = ward.measure();
        ward
    }

    fn measure(&self) -> Vec<u64> {
        let nodes = self.cluster.ids();
        nodes.map(|n| self.cluster.resident_bytes(n)).collect()
    }

    /// The client port of the leader, and the peer ports of it and of a follower.
    fn ports(&self) -> [SocketAddr; 3] {
        let follower = (self.leader + 1) % 3;
        [
            self.cluster.client(self.leader),
            self.cluster.peer(self.leader),
            self.cluster.peer(follower),
        ]
    }

    /// Another client gets its answers.
    fn serves_others(&self) {
        let mut client = Client::new(self.cluster.clients());
        let key = new_uuid();
        let put = client.put(&key, "value", TIMEOUT);
        assert_eq!(put, Ended::Answered(Answer::Created));
        let got = client.get(&key, TIMEOUT);
        assert_eq!(got, Ended::Answered(Answer::Value("value".into())));
    }

    /// All nodes run, serve, have not grown and have not panicked.
    fn is_well(&mut self) {
        self.cluster.assert_alive();
        self.serves_others();
        for (node, (now, before)) in self.measure().iter().zip(&self.resident_bytes).enumerate() {
            let growth = now.saturating_sub(*before);
            assert!(
                growth <= GROWTH_BYTES_MAX,
                "node {node} grew by {growth} bytes"
            );
        }
        self.cluster.assert_no_panic();
    }
}

fn open(port: SocketAddr) -> Connection {
    Connection::open(port, TIMEOUT).expect("the node is there")
}

/// Sends bytes after which the node has to close the connection. Sending fails if it is that quick.
fn is_closed_after(port: SocketAddr, bytes: &[u8]) {
    let mut connection = open(port);
    let _ = connection.send_raw(bytes);
    let closed = connection.wait_closed();
    assert!(
        closed.is_ok(),
        "{port} left the connection open: {closed:?}"
    );
}

fn put_frame() -> Vec<u8> {
    let put = request(OperationType::Update, &new_uuid(), "key", "value");
    request_frame(1, &put)
}

#[test]
fn bad_framing_closes_the_connection() {
    let mut ward = Ward::new();
    let mut random = Random(7);
    let garbage: Vec<u8> = (0..64 << 10).map(|_| random.below(256) as u8).collect();
    let mut wrong_checksum = put_frame();
    wrong_checksum[12] ^= 1;
    let mut big_endian_checksum = put_frame();
    let sum = crc32fast::hash(&big_endian_checksum[..12]);
    big_endian_checksum[12..16].copy_from_slice(&sum.to_be_bytes());
    for port in ward.ports() {
        is_closed_after(port, &garbage);
        is_closed_after(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        is_closed_after(port, &wrong_checksum);
        is_closed_after(port, &big_endian_checksum);
        let over_the_limit = limits::FRAME_BYTES_MAX as u32 + 1;
        for total in [0, 1, 15, over_the_limit, 0x7FFF_FFFF, 0xFFFF_FFFF] {
            is_closed_after(port, &header(total));
        }
        // A good frame behind a bad one does not bring it back.
        let mut both = header(15).to_vec();
        both.extend(put_frame());
        is_closed_after(port, &both);
    }
    ward.is_well();
}

#[test]
fn a_length_of_four_gib_is_not_buffered() {
    let mut ward = Ward::new();
    let piece = vec![0; 1 << 20];
    for port in ward.ports() {
        let mut connection = open(port);
        let _ = connection.send_raw(&header(0xFFFF_FFFF));
        for _ in 0..64 {
            if connection.send_raw(&piece).is_err() {
                break;
            }
        }
    }
    ward.is_well();
}

/// Bodies in a good frame that say nothing useful.
fn senseless_bodies() -> Vec<(&'static str, Vec<u8>)> {
    let good = |payload: Vec<u8>| envelope(KV_SERVICE, "Execute", 9, payload);
    let get = request(OperationType::Get, &new_uuid(), "key", "").encode_to_vec();
    let mut wrong_checksum = good(get.clone());
    wrong_checksum.payload_checksum ^= 1;
    let mut wrong_size = good(get.clone());
    wrong_size.payload_size += 1;
    let mut no_such_operation = request(OperationType::Get, &new_uuid(), "key", "");
    no_such_operation.r#type = 77;
    vec![
        (
            "unknown service",
            envelope("Nobody", "Execute", 9, get.clone()).encode_to_vec(),
        ),
        (
            "unknown method",
            envelope(KV_SERVICE, "Explode", 9, get.clone()).encode_to_vec(),
        ),
        (
            "the other port's service",
            envelope("RaftService", "RequestVote", 9, get).encode_to_vec(),
        ),
        ("payload checksum", wrong_checksum.encode_to_vec()),
        ("payload size", wrong_size.encode_to_vec()),
        (
            "a payload that is no message",
            good(vec![0xFF; 40]).encode_to_vec(),
        ),
        (
            "no operation",
            good(no_such_operation.encode_to_vec()).encode_to_vec(),
        ),
        ("no key", good(Vec::new()).encode_to_vec()),
    ]
}

#[test]
fn bad_content_in_a_good_frame_is_answered_and_the_connection_stays_open() {
    let mut ward = Ward::new();
    let port = ward.cluster.client(ward.leader);
    for (what, body) in senseless_bodies() {
        let mut connection = open(port);
        connection.send_raw(&frame(&body)).expect("sent");
        let answer = connection.receive(9);
        let answer = answer.unwrap_or_else(|e| panic!("{what}: no answer: {e}"));
        assert!(
            matches!(&answer, Answer::BadRequest(reason) if !reason.is_empty()),
            "{what}: {answer:?}"
        );
        let get = request(OperationType::Get, &new_uuid(), "missing", "");
        let next = connection.execute(&get);
        assert_eq!(next.expect("still open"), Answer::NotFound, "{what}");
    }
    ward.is_well();
}

#[test]
fn a_body_without_an_envelope_is_answered_or_closes_the_connection() {
    let mut ward = Ward::new();
    for port in ward.ports() {
        for body in [
            Vec::new(),
            vec![0xFF; 100],
            vec![0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F],
        ] {
            let mut connection = open(port);
            connection.send_raw(&frame(&body)).expect("sent");
            connection.half_close().expect("half closed");
            // Whatever comes, the end has to come.
            connection.wait_closed().expect("the end");
        }
    }
    ward.is_well();
}

#[test]
fn nonsense_on_a_peer_port_does_not_disturb_the_cluster() {
    let mut ward = Ward::new();
    let term = |ward: &Ward| {
        let status = eventually("a status", TIMEOUT, || ward.cluster.status(ward.leader));
        (status.term, status.leader)
    };
    let before = term(&ward);
    // A stranger with a huge term, without a Hello; a Hello of another cluster; nonsense.
    let append = pb::AppendEntriesRequest {
        term: i64::MAX - 1,
        leader_id: 1,
        ..Default::default()
    };
    let vote = pb::RequestVoteRequest {
        term: i64::MAX,
        candidate_id: -1,
        ..Default::default()
    };
    let hello = pb::HelloRequest {
        cluster_id: 1,
        from: 1,
        to: 0,
        incarnation: 1,
        version: u32::MAX,
        established: true,
        ..Default::default()
    };
    let mut calls: Vec<Vec<u8>> = [
        ("AppendEntries", append.encode_to_vec()),
        ("RequestVote", vote.encode_to_vec()),
        ("Hello", hello.encode_to_vec()),
        ("Hello", Vec::new()),
        ("InstallSnapshot", vec![0xFF; 64]),
        ("Nothing", Vec::new()),
    ]
    .into_iter()
    .map(|(method, payload)| call_frame("RaftService", method, 3, payload))
    .collect();
    calls.extend(senseless_bodies().into_iter().map(|(_, body)| frame(&body)));
    for node in ward.cluster.ids() {
        for call in &calls {
            let mut connection = open(ward.cluster.peer(node));
            connection.send_raw(call).expect("sent");
            let _ = connection.half_close();
            connection.wait_closed().expect("the end");
        }
    }
    ward.is_well();
    assert_eq!(
        term(&ward),
        before,
        "a stranger changed the term or the leader"
    );
}

#[test]
fn a_slow_trickle_blocks_nobody_and_gets_its_answer() {
    let mut ward = Ward::new();
    let pause = Duration::from_millis(count("RAFTKV_TRICKLE_MS", 10));
    let bytes = put_frame();
    let mut connection =
        Connection::open(ward.cluster.client(ward.leader), TIMEOUT + pause).expect("it is there");
    for byte in &bytes {
        let begin = Instant::now();
        connection.send_raw(&[*byte]).expect("sent");
        ward.serves_others();
        std::thread::sleep(pause.saturating_sub(begin.elapsed()));
    }
    assert_eq!(connection.receive(1).expect("answered"), Answer::Created);
    ward.is_well();
}

#[test]
fn idle_connections_cost_little_and_block_nobody() {
    let mut ward = Ward::new();
    let wanted = count("RAFTKV_IDLE_CONNECTIONS", 1_000);
    support::cluster::raise_open_files(wanted + 500);
    let ports = ward.ports();
    let mut idle: Vec<Connection> = (0..wanted)
        .map(|number| open(ports[number as usize % 2]))
        .collect();
    // Half of them have begun a frame.
    let bytes = put_frame();
    for connection in idle.iter_mut().step_by(2) {
        let _ = connection.send_raw(&bytes[..20]);
    }
    ward.is_well();
    // The first, which is on the client port, completes it.
    idle[0].send_raw(&bytes[20..]).expect("sent");
    assert_eq!(idle[0].receive(1).expect("answered"), Answer::Created);
    drop(idle);
    ward.is_well();
}

#[test]
fn what_is_over_the_limits_is_refused_with_a_reason() {
    let mut ward = Ward::new();
    let mut connection = open(ward.cluster.client(ward.leader));
    let long_key = vec![b'k'; limits::KEY_BYTES_MAX + 1];
    let long_value = vec![b'v'; limits::VALUE_BYTES_MAX + 1];
    let long_uuid = "u".repeat(limits::UUID_BYTES_MAX + 1);
    let uuid = new_uuid();
    for (what, bad) in [
        (
            "long key",
            request(OperationType::Put, &uuid, &long_key, "v"),
        ),
        (
            "long key",
            request(OperationType::Get, &uuid, &long_key, ""),
        ),
        (
            "long value",
            request(OperationType::Update, &uuid, "k", &long_value),
        ),
        ("empty key", request(OperationType::Put, &uuid, "", "v")),
        ("empty key", request(OperationType::Get, &uuid, "", "")),
        ("empty key", request(OperationType::Delete, &uuid, "", "")),
        (
            "long uuid",
            request(OperationType::Put, &long_uuid, "k", "v"),
        ),
    ] {
        let answer = connection.execute(&bad).expect("an answer");
        assert!(
            matches!(&answer, Answer::BadRequest(reason) if !reason.is_empty()),
            "{what}: {answer:?}"
        );
    }
    ward.is_well();
}

#[test]
fn what_is_just_within_the_limits_is_stored() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let leader = cluster.wait_for_leader(SOON);
    let mut connection = open(cluster.client(leader));
    let key = vec![0xFF; limits::KEY_BYTES_MAX];
    let value: Vec<u8> = (0..limits::VALUE_BYTES_MAX).map(|i| i as u8).collect();
    let uuid = new_uuid();
    let put = connection.execute(&request(OperationType::Put, &uuid, &key, &value));
    assert_eq!(put.expect("an answer"), Answer::Created);
    let got = connection.execute(&request(OperationType::Get, &uuid, &key, ""));
    assert_eq!(got.expect("an answer"), Answer::Value(value.into()));

    // An empty value is a value, and a second put of the key has a code of its own.
    let empty = request(OperationType::Put, &uuid, "empty", "");
    assert_eq!(
        connection.execute(&empty).expect("an answer"),
        Answer::Created
    );
    let got = connection.execute(&request(OperationType::Get, &uuid, "empty", ""));
    assert_eq!(got.expect("an answer"), Answer::Value("".into()));
    let again = connection.execute(&request(OperationType::Put, &uuid, "empty", "x"));
    assert!(matches!(
        again.expect("an answer"),
        Answer::Failed(ErrorCode::KeyExists, reason) if reason.contains("exists")
    ));
    assert_eq!(
        cluster.wait_for_leader(SOON),
        leader,
        "a large value cost the leadership"
    );
    cluster.assert_no_panic();
}

#[test]
fn answers_that_nobody_takes_do_not_pile_up() {
    /// What waits for all connections of a reactor, and what is on its way to it.
    const BOUND: u64 = (limits::FRAME_BYTES_MAX * 16 + limits::ANSWER_BYTES_MAX) as u64;
    let mut cluster = TestCluster::with_leader(3, &["--reactors", "1"]);
    let leader = cluster.wait_for_leader(SOON);
    let value = vec![b'v'; limits::VALUE_BYTES_MAX];
    let uuid = new_uuid();
    let mut first = open(cluster.client(leader));
    let put = first.execute(&request(OperationType::Put, &uuid, "large", &value));
    assert_eq!(put.expect("an answer"), Answer::Created);
    let before = cluster.peak_resident_bytes(leader);

    // 64 GiB of answers, if all were made at once.
    let get = request(OperationType::Get, &uuid, "large", "");
    let gets: Vec<u8> = (1..=256).flat_map(|n| request_frame(n, &get)).collect();
    let mut greedy: Vec<Connection> = (0..32)
        .map(|_| {
            let mut connection = open(cluster.client(leader));
            connection.send_raw(&gets).expect("sent");
            connection
        })
        .collect();
    // Others are served meanwhile; a large value, too.
    let begin = Instant::now();
    for _ in 0..5 {
        match Client::new(cluster.clients()).get("large", SOON) {
            Ended::Answered(Answer::Value(got)) => assert_eq!(got.len(), value.len()),
            Ended::Answered(_) => panic!("the value is not there"),
            late => panic!("not answered: {late:?}"),
        }
    }
    figure(
        "unread answers, others' reads, ms",
        begin.elapsed().as_millis(),
    );
    eventually("the reads have been looked at", SOON, || {
        let status = cluster.status(leader)?;
        (status.waiting == 0).then_some(())
    });
    let growth = cluster.peak_resident_bytes(leader) - before;
    figure("unread answers, growth in MiB", growth >> 20);
    assert!(growth < 2 * BOUND, "it grew by {growth} bytes");

    // Who takes the answers at last gets the first ones, and is told that the others were too many;
    // or was the one who had to go.
    let mut answered = 0;
    for connection in &mut greedy {
        for sequence in 1..=256 {
            match connection.receive(sequence) {
                Ok(Answer::Value(got)) => assert_eq!(got.len(), value.len()),
                // On a machine that is busy with this, the lead may go to another node.
                Ok(Answer::Failed(ErrorCode::Busy | ErrorCode::NoLeader, _)) => {}
                Ok(Answer::Redirect(_)) => {}
                Ok(other) => panic!("answered with {other:?}"),
                Err(_) => break,
            }
            answered += 1;
        }
    }
    assert!(answered > 0, "nobody got an answer");
    cluster.assert_alive();
    cluster.assert_no_panic();
}

#[test]
fn more_requests_than_may_be_in_flight_are_all_answered() {
    let mut cluster = TestCluster::with_leader(3, &["--reactors", "1"]);
    let leader = cluster.wait_for_leader(SOON);
    // Twice what a connection may have in flight, and more than the reactor may.
    let each = 2 * limits::CONNECTION_REQUESTS_MAX as u64;
    let clients = 2 * limits::REQUESTS_IN_FLIGHT_MAX as u64 / each + 4;
    let get = request(OperationType::Get, &new_uuid(), "missing", "");
    let gets: Vec<u8> = (1..=each).flat_map(|n| request_frame(n, &get)).collect();
    let mut connections: Vec<Connection> =
        (0..clients).map(|_| open(cluster.client(leader))).collect();
    for _ in 0..2 {
        std::thread::scope(|scope| {
            for connection in &mut connections {
                scope.spawn(|| connection.send_raw(&gets).expect("sent"));
            }
        });
        for connection in &mut connections {
            for sequence in 1..=each {
                match connection.receive(sequence).expect("an answer") {
                    Answer::NotFound | Answer::Failed(ErrorCode::Busy, _) => {}
                    other => panic!("answered with {other:?}"),
                }
            }
        }
    }
    cluster.assert_no_panic();
}

#[test]
fn probes_of_the_peer_port_that_say_nothing_are_one_line() {
    let cluster = TestCluster::with_leader(1, &[]);
    for n in 0..20 {
        let probe = TcpStream::connect(cluster.peer(0)).expect("it listens");
        if n % 2 == 0 {
            // A reset in place of an orderly end, as some load balancers do it.
            rustix::net::sockopt::set_socket_linger(&probe, Some(Duration::ZERO))
                .expect("an option");
        }
    }
    let mut stranger = TcpStream::connect(cluster.peer(0)).expect("it listens");
    stranger
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .expect("a request");
    // In whichever order the node takes them in.
    for part in ["wrong magic", "closed without a word"] {
        eventually(part, SOON, || cluster.log_contains(0, part).then_some(()));
    }
    let output = cluster.output(0);
    let told = output.lines().filter(|line| line.contains("connection"));
    let told: Vec<&str> = told.collect();
    assert_eq!(told.len(), 2, "{told:?}");
}
