//! A put of 16 bytes of key and 100 of value, and its answer: from the operation to the
//! bytes on the wire, and from there to the command in the log.

use std::hint::black_box;

use bytes::Bytes;
use raftkv::client::protocol::{
    Identity, Operation, decode_answer, decode_reply, encode_operation,
};
use raftkv::kv::{Command, Outcome};
use raftkv::mem::Buffer;
use raftkv::net::frame::{FrameDecoder, HEADER_BYTES};
use raftkv::node::Answer;
use raftkv::proto::{Call, CommandBuffer, decode_call, encode_answer_frame};

use super::{Workload, repeated};

pub(super) const WORKLOADS: [Workload; 9] = [
    Workload::new("codec/encode put", 2_000, || encode(uuid())),
    Workload::new("codec/encode put in a session", 2_000, || encode(session())),
    Workload::new("codec/decode put", 2_000, || decode(uuid())),
    Workload::new("codec/decode put in a session", 2_000, || decode(session())),
    Workload::new("codec/encode and decode put", 2_000, || both(uuid())),
    Workload::new("codec/encode and decode put in a session", 2_000, || {
        both(session())
    }),
    Workload::new("codec/encode created", 2_000, || {
        encode_answer(Answer::Applied(Outcome::Created))
    }),
    Workload::new("codec/encode value", 2_000, || {
        encode_answer(Answer::Value(Some(Buffer::from(&[b'v'; 100][..]))))
    }),
    Workload::new("codec/decode created", 2_000, decode_created),
];

fn put() -> Operation {
    Operation::Put {
        key: Bytes::from_static(b"key-000000000042"),
        value: Bytes::from(vec![b'v'; 100]),
    }
}

fn uuid() -> Identity {
    Identity::Uuid("00112233-4455-4677-8899-aabbccddeeff".to_owned())
}

fn session() -> Identity {
    Identity::Session {
        id: 1_000_000,
        sequence: 123_456,
        acked_below: 123_400,
    }
}

fn encode(identity: Identity) -> Box<dyn FnMut(u64)> {
    let (put, mut out) = (put(), Buffer::new());
    repeated(move || {
        out.clear();
        encode_operation(&mut out, 77, black_box(&put), black_box(&identity));
        out.len()
    })
}

/// As a reactor does it: from what the socket gave to the request.
fn decode_frame(frame: &[u8], decoder: &mut FrameDecoder, commands: &mut CommandBuffer) -> Call {
    let mut input = frame;
    let body = decoder.next_body(&mut input).expect("a frame");
    let body = body.expect("all of it");
    decode_call(&body, commands).expect("a call")
}

fn decode(identity: Identity) -> Box<dyn FnMut(u64)> {
    let mut frame = Buffer::new();
    encode_operation(&mut frame, 77, &put(), &identity);
    let (mut decoder, mut commands) = (FrameDecoder::default(), CommandBuffer::new());
    let call = decode_frame(&frame, &mut decoder, &mut commands);
    let raftkv::node::Request::Write { command, .. } = call.request else {
        panic!("a put is a write");
    };
    Command::decode(&command).expect("a command");
    repeated(move || decode_frame(black_box(&frame), &mut decoder, &mut commands))
}

fn both(identity: Identity) -> Box<dyn FnMut(u64)> {
    let (put, mut out) = (put(), Buffer::new());
    let (mut decoder, mut commands) = (FrameDecoder::default(), CommandBuffer::new());
    repeated(move || {
        out.clear();
        encode_operation(&mut out, 77, black_box(&put), black_box(&identity));
        decode_frame(black_box(&out), &mut decoder, &mut commands)
    })
}

fn encode_answer(answer: Answer) -> Box<dyn FnMut(u64)> {
    let mut out = Buffer::new();
    repeated(move || {
        out.clear();
        encode_answer_frame(&mut out, 77, black_box(&answer), |_| None);
        out.len()
    })
}

fn decode_created() -> Box<dyn FnMut(u64)> {
    let mut frame = Buffer::new();
    let created = Answer::Applied(Outcome::Created);
    encode_answer_frame(&mut frame, 77, &created, |_| None);
    let (put, body) = (put(), frame.freeze().slice(HEADER_BYTES..));
    repeated(move || {
        let reply = decode_reply(black_box(&body).clone()).expect("a reply");
        decode_answer(&put, reply.payload).expect("an answer")
    })
}
