use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::net::envelope::decode_envelope;
use crate::net::frame::FrameDecoder;

fn id() -> impl Strategy<Value = EntryId> {
    (0u64..1 << 40, 0u64..1 << 40).prop_map(|(term, index)| EntryId::new(term, index))
}

fn entries(prev: EntryId, shape: Vec<(u64, Option<Vec<u8>>)>) -> Vec<Entry> {
    let mut last = prev;
    let mut entries = Vec::new();
    for (step, command) in shape {
        last = EntryId::new(last.term.0 + step, last.index.0 + 1);
        let payload = command.map_or(Payload::Noop, |bytes| Payload::Command(bytes.into()));
        entries.push(Entry { id: last, payload });
    }
    entries
}

fn state() -> impl Strategy<Value = Option<StateHash>> {
    proptest::option::of(
        (1u64..1 << 40, any::<u64>()).prop_map(|(index, hash)| StateHash {
            index: Index(index),
            hash,
        }),
    )
}

fn meta() -> impl Strategy<Value = SnapshotMeta> {
    (id(), any::<u32>(), 1u64 << 30..1 << 40).prop_map(|(last, checksum, total_bytes)| {
        SnapshotMeta {
            last,
            checksum,
            total_bytes,
        }
    })
}

fn body() -> impl Strategy<Value = Body> {
    let command = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..64));
    let shape = proptest::collection::vec((0u64..2, command), 0..8);
    prop_oneof![
        id().prop_map(|last| Body::PreVote { last }),
        any::<bool>().prop_map(|granted| Body::PreVoteReply { granted }),
        (id(), any::<bool>()).prop_map(|(last, transfer)| Body::Vote { last, transfer }),
        any::<bool>().prop_map(|granted| Body::VoteReply { granted }),
        (id(), shape, 0u64..99).prop_map(|(prev, shape, commit)| {
            Body::Append {
                prev,
                entries: entries(prev, shape).into(),
                commit: Index(commit),
            }
        }),
        (0u64..1 << 40).prop_map(|i| Body::AppendReply(Ok(Accepted {
            match_index: Index(i)
        }))),
        (0u64..1 << 40, id()).prop_map(|(i, hint)| {
            Body::AppendReply(Err(Rejected {
                rejected: Index(i),
                hint,
            }))
        }),
        (0u64..99, any::<u64>(), any::<bool>(), state()).prop_map(|(commit, round, lease, at)| {
            Body::Heartbeat {
                last: Index(commit + 1),
                commit: Index(commit),
                round,
                lease,
                state: at.map(|at| StateClaim {
                    at,
                    confirmed: lease,
                }),
            }
        }),
        (any::<u64>(), any::<u32>(), any::<[bool; 2]>(), state()).prop_map(
            |(round, us, [full, memory_full], state)| Body::HeartbeatReply {
                round,
                promise: Duration::from_micros((us / 2).into()),
                disk: Duration::from_micros(us.into()),
                full,
                memory_full,
                state,
            }
        ),
        any::<u64>().prop_map(|context| Body::ReadIndex { context }),
        (any::<u64>(), proptest::option::of(0u64..1 << 40)).prop_map(|(context, index)| {
            Body::ReadIndexReply {
                context,
                index: index.map(Index),
            }
        }),
        Just(Body::TimeoutNow),
        (
            meta(),
            0u64..1 << 20,
            proptest::collection::vec(any::<u8>(), 0..64)
        )
            .prop_map(|(snapshot, offset, data)| {
                Body::Snapshot(SnapshotChunk {
                    snapshot,
                    offset,
                    data: data.into(),
                })
            }),
        (meta(), 0u64..1 << 40, any::<bool>()).prop_map(|(snapshot, next_offset, installed)| {
            Body::SnapshotReply {
                snapshot,
                next_offset,
                installed,
            }
        }),
    ]
}

/// What the other side makes of `message`.
fn through_the_wire(message: &Message) -> Result<Message, PeerError> {
    let mut out = Buffer::default();
    encode_message(&mut out, message, message.call);
    let body = FrameDecoder::default()
        .decode(&mut &out[..])
        .unwrap()
        .expect("a whole frame");
    let envelope = decode_envelope(body).unwrap();
    assert_eq!(envelope.service, RAFT_SERVICE.as_bytes());
    let decode = if message.body.is_request() {
        decode_request
    } else {
        decode_reply
    };
    decode(&link(message.from, message.birth), &envelope)
}

fn link(peer: Server, birth: Birth) -> Link {
    let own = NodeId(5);
    Link { peer, birth, own }
}

/// An envelope of `method` between directories that are not named.
fn envelope(method: &str, payload: Bytes) -> Envelope {
    Envelope {
        method: Bytes::copy_from_slice(method.as_bytes()),
        payload,
        ..Envelope::default()
    }
}

proptest! {
    #[test]
    fn every_message_arrives_as_it_was_sent(
        body in body(), call in any::<u64>(), term in 1u64 << 41..1 << 50, lost in any::<bool>(),
    ) {
        let speaks = !body.is_request();
        let lost_directory = lost && speaks;
        let message = Message { birth: Birth(8), from: Server::new(3, 1), to: Server::new(5, 2), term: Term(term), call, lost_directory, body };
        let arrived = through_the_wire(&message);
        prop_assert_eq!(arrived, Ok(message));
    }

    #[test]
    fn arbitrary_bytes_are_never_taken_for_a_message_with_entries_out_of_order(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        for method in [REQUEST_VOTE, APPEND_ENTRIES, INSTALL_SNAPSHOT] {
            let bytes = Bytes::from(bytes.clone());
            let (link, envelope) = (link(Server::new(0, 1), Birth(1)), envelope(method, bytes));
            let _ = decode_reply(&link, &envelope);
            let request = decode_request(&link, &envelope);
            if let Ok(Message { body: Body::Append { prev, entries, .. }, .. }) = request {
                let mut last = prev;
                for entry in entries.iter() {
                    prop_assert_eq!(entry.id.index, last.index.next());
                    last = entry.id;
                }
            }
        }
    }
}

#[test]
fn a_message_in_the_name_of_another_node_does_not_count() {
    let body = Body::Vote {
        transfer: false,
        last: EntryId::ZERO,
    };
    let message = Message {
        birth: Birth(8),
        from: Server::new(3, 1),
        to: Server::new(5, 2),
        term: Term(1),
        call: 0,
        lost_directory: false,
        body,
    };
    let mut out = Buffer::default();
    encode_message(&mut out, &message, 0);
    let frame = FrameDecoder::default()
        .decode(&mut &out[..])
        .unwrap()
        .unwrap();
    let envelope = decode_envelope(frame).unwrap();
    let decoded = decode_request(&link(Server::new(4, 1), Birth(8)), &envelope);
    assert_eq!(
        decoded,
        Err(PeerError::Invalid("the sender speaks for another node"))
    );
    let decoded = decode_request(&link(Server::new(3, 7), Birth(8)), &envelope);
    let other = PeerError::Invalid("the sender names another directory than it introduced");
    assert_eq!(decoded, Err(other));
}

#[test]
fn a_term_near_the_top_of_the_numbers_does_not_count() {
    let vote = pb::RequestVoteRequest {
        term: i64::MAX,
        ..Default::default()
    };
    let payload = Bytes::from(vote.encode_to_vec());
    let link = link(Server::new(0, 1), Birth(1));
    let decoded = decode_request(&link, &envelope(REQUEST_VOTE, payload));
    assert_eq!(decoded, Err(PeerError::Invalid("a number is out of range")));
}
