//! The wire format is the original's: bytes captured on its ports are sent and expected as they are.

mod support;

use std::time::Duration;

use raftkv::pb::OperationType;
use support::cluster::TestCluster;
use support::eventually;
use support::wire::{Answer, Connection, HEADER_BYTES, new_uuid, request, request_frame};

/// A put of `wk` = `wv`, sequence id 1.
const PUT_REQUEST: &str = "
    0a 1b 2c 3d 4e 5f 6a 7b 00 00 00 72 36 7b bf d3
    0a 12 4b 56 4f 70 65 72 61 74 69 6f 6e 53 65 72
    76 69 63 65 12 07 45 78 65 63 75 74 65 19 01 00
    00 00 00 00 00 00 25 30 00 00 00 2d 32 65 da 7a
    32 30 12 26 0a 24 30 30 31 31 32 32 33 33 2d 34
    34 35 35 2d 34 36 37 37 2d 38 38 39 39 2d 61 61
    62 62 63 63 64 64 65 65 66 66 1a 02 77 6b 22 02
    77 76";
/// Its answer, status 201.
const PUT_ANSWER: &str = "
    0a 1b 2c 3d 4e 5f 6a 7b 00 00 00 45 5b 87 7f cb
    0a 12 4b 56 4f 70 65 72 61 74 69 6f 6e 53 65 72
    76 69 63 65 12 07 45 78 65 63 75 74 65 19 01 00
    00 00 00 00 00 00 25 03 00 00 00 2d 3b d4 6d 9c
    32 03 08 c9 01";
/// A redirect to `127.0.0.1:4399`, sequence id 1.
const REDIRECT_ANSWER: &str = "
    0a 1b 2c 3d 4e 5f 6a 7b 00 00 00 55 0b 9e 28 54
    0a 12 4b 56 4f 70 65 72 61 74 69 6f 6e 53 65 72
    76 69 63 65 12 07 45 78 65 63 75 74 65 19 01 00
    00 00 00 00 00 00 25 13 00 00 00 2d 95 47 03 61
    32 13 08 ae 02 22 0e 31 32 37 2e 30 2e 30 2e 31
    3a 34 33 39 39";
/// The payload of a get that found `wv`.
const GET_PAYLOAD: &str = "08c8011a027776";
/// The payload of a get that found nothing.
const NOT_FOUND_PAYLOAD: &str = "089403";
/// How a payload with status 500 begins.
const INTERNAL_ERROR_START: &str = "08f403";

const TIMEOUT: Duration = Duration::from_secs(5);

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}

/// As the original's client does: a connection, one request, its answer.
fn ask(cluster: &TestCluster, node: usize, bytes: &[u8]) -> Vec<u8> {
    let mut connection =
        Connection::open(cluster.client(node), TIMEOUT).expect("the node is there");
    connection.send_raw(bytes).expect("sent");
    let answer = connection.read_frame().expect("an answer");
    answer.expect("an answer before the end of the connection")
}

/// The payload behind an envelope with these names and sequence id 1, as in the samples.
fn payload(frame: &[u8]) -> &[u8] {
    // Its tag and its length, one byte each, stand behind 48 bytes of envelope.
    let names = HEADER_BYTES + 48;
    assert_eq!(frame[names], 0x32, "field 6 follows");
    &frame[names + 2..]
}

#[test]
fn captured_bytes_get_the_captured_answer() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let leader = cluster.wait_for_leader(support::cluster::SOON);
    assert_eq!(ask(&cluster, leader, &hex(PUT_REQUEST)), hex(PUT_ANSWER));

    // The retry, which is what the very same bytes are, is answered as the first time.
    assert_eq!(ask(&cluster, leader, &hex(PUT_REQUEST)), hex(PUT_ANSWER));

    let get = |key: &str| {
        let get = request(OperationType::Get, &new_uuid(), key, "");
        request_frame(1, &get)
    };
    let found = ask(&cluster, leader, &get("wk"));
    assert_eq!(payload(&found), hex(GET_PAYLOAD));
    let missing = ask(&cluster, leader, &get("another"));
    assert_eq!(payload(&missing), hex(NOT_FOUND_PAYLOAD));

    // Another client's put of the key: status 500, and more in added fields.
    let again = request(OperationType::Put, &new_uuid(), "wk", "wv");
    let refused = ask(&cluster, leader, &request_frame(1, &again));
    assert!(payload(&refused).starts_with(&hex(INTERNAL_ERROR_START)));
    cluster.assert_alive();
}

#[test]
fn a_follower_redirects_with_the_captured_bytes() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let leader = cluster.wait_for_leader(support::cluster::SOON);
    let follower = (leader + 1) % 3;
    eventually("the follower knows the leader", TIMEOUT, || {
        (cluster.status(follower)?.leader == leader as i64).then_some(())
    });
    let answer = ask(&cluster, follower, &hex(PUT_REQUEST));

    // The sample with the address of this cluster's leader, lengths and checksums as they follow.
    let sample = hex(REDIRECT_ANSWER);
    let address = cluster.client(leader).to_string();
    let mut redirect = hex("08 ae 02 22");
    redirect.push(address.len() as u8);
    redirect.extend_from_slice(address.as_bytes());
    // Service, method and sequence id end where the size begins.
    let size_at = sample.iter().position(|b| *b == 0x25).expect("field 4");
    let mut body = sample[HEADER_BYTES..=size_at].to_vec();
    body.extend_from_slice(&(redirect.len() as u32).to_le_bytes());
    body.push(0x2d);
    body.extend_from_slice(&crc32fast::hash(&redirect).to_le_bytes());
    body.extend_from_slice(&[0x32, redirect.len() as u8]);
    body.extend_from_slice(&redirect);
    assert_eq!(answer, support::wire::frame(&body));
}

#[test]
fn the_expected_redirect_is_built_as_the_sample_was() {
    // The harness itself: it makes the captured frame from the captured address.
    let redirect = raftkv::pb::KvOperationResponse {
        status_code: 302,
        data: Some(raftkv::pb::kv_operation_response::Data::Address(
            "127.0.0.1:4399".to_owned(),
        )),
        ..Default::default()
    };
    let payload = prost::Message::encode_to_vec(&redirect);
    let frame = support::wire::call_frame(support::wire::KV_SERVICE, "Execute", 1, payload);
    assert_eq!(frame, hex(REDIRECT_ANSWER));

    let put = request(
        OperationType::Put,
        "00112233-4455-4677-8899-aabbccddeeff",
        "wk",
        "wv",
    );
    assert_eq!(request_frame(1, &put), hex(PUT_REQUEST));
}

#[test]
fn a_client_that_closes_its_half_after_the_request_gets_its_answer() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let leader = cluster.wait_for_leader(support::cluster::SOON);
    let mut connection = Connection::open(cluster.client(leader), TIMEOUT).expect("it is there");
    connection.send_raw(&hex(PUT_REQUEST)).expect("sent");
    connection.half_close().expect("closed");
    let answer = connection.read_frame().expect("an answer");
    assert_eq!(answer, Some(hex(PUT_ANSWER)));
    // And then the node closes its half too.
    connection.wait_closed().expect("the end of the connection");
    cluster.assert_alive();
}

#[test]
fn one_request_a_connection_works_many_times() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let leader = cluster.wait_for_leader(support::cluster::SOON);
    for number in 0..200 {
        let key = format!("key {number}");
        let put = request(
            OperationType::Put,
            &new_uuid(),
            &key,
            "value\0with any bytes",
        );
        let mut connection =
            Connection::open(cluster.client(leader), TIMEOUT).expect("the leader is there");
        connection.send(1, &put).expect("sent");
        assert_eq!(connection.receive(1).expect("answered"), Answer::Created);
    }
    cluster.assert_alive();
    cluster.assert_no_panic();
}

#[test]
fn a_frame_may_arrive_in_any_pieces_and_several_at_once() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let leader = cluster.wait_for_leader(support::cluster::SOON);
    let mut connection = Connection::open(cluster.client(leader), TIMEOUT).expect("it is there");
    let uuid = new_uuid();
    let mut bytes = Vec::new();
    for sequence in 1..=50_u64 {
        let update = request(OperationType::Update, &uuid, format!("k{sequence}"), "v");
        bytes.extend(request_frame(sequence, &update));
    }
    for piece in bytes.chunks(37) {
        connection.send_raw(piece).expect("sent");
    }
    for sequence in 1..=50 {
        let answer = connection.receive(sequence).expect("answered");
        assert_eq!(answer, Answer::Created, "{sequence}");
    }
}
