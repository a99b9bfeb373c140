use std::io::{self, IoSlice, Write};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use super::*;
use crate::mutation::{Mutation, with};

/// A socket that takes so many bytes, and keeps them.
struct Socket {
    taken: Vec<u8>,
    room: usize,
    calls: usize,
}

impl Socket {
    fn with_room(room: usize) -> Socket {
        Socket {
            taken: Vec::new(),
            room,
            calls: 0,
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.calls += 1;
        if self.room == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut written = 0;
        for slice in slices {
            let now = slice.len().min(self.room);
            self.taken.extend_from_slice(&slice[..now]);
            self.room -= now;
            written += now;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn many_small_frames_share_buffers_and_leave_with_one_call() {
    let mut output = Output::default();
    let mut expected = Vec::new();
    for i in 0..1_000_u32 {
        let frame = i.to_be_bytes().repeat(10);
        output.write_with(|buffer| buffer.extend_from_slice(&frame));
        expected.extend_from_slice(&frame);
    }
    assert_eq!(output.queued_bytes(), 40_000);
    assert_eq!(output.chunks.len(), 3);
    let mut socket = Socket::with_room(usize::MAX);
    assert!(output.write_to(&mut socket).unwrap());
    assert!(output.is_empty());
    assert_eq!(output.queued_bytes(), 0);
    assert_eq!((socket.taken, socket.calls), (expected, 1));
}

#[test]
fn order_is_kept_among_copied_and_shared_bytes_however_little_a_call_takes() {
    let mut output = Output::default();
    let mut expected = Vec::new();
    for i in 0..200_u8 {
        let bytes = vec![i; if i % 3 == 0 { 2_000 } else { 20 }];
        expected.extend_from_slice(&bytes);
        match i % 2 {
            0 => output.push(bytes.into()),
            _ => output.write_with(|buffer| buffer.extend_from_slice(&bytes)),
        }
    }
    assert!(output.chunks.len() > WRITEV_BUFFERS);
    let mut socket = Socket::with_room(0);
    while !output.is_empty() {
        let before = socket.taken.len();
        socket.room = 1_777;
        while output.write_to(&mut socket).unwrap() && !output.is_empty() {}
        assert!(socket.taken.len() - before <= 1_777);
        assert_eq!(output.queued_bytes(), expected.len() - socket.taken.len());
    }
    assert_eq!(socket.taken, expected);
}

/// An event in the life of a connection's output.
#[derive(Clone, Debug)]
enum Act {
    Push(usize),
    Write(usize),
    /// The socket takes this many bytes.
    Room(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let len = || prop_oneof![0..100_usize, 900..1_200_usize, 0..20_000_usize];
    let act = prop_oneof![
        len().prop_map(Act::Push),
        len().prop_map(Act::Write),
        len().prop_map(Act::Room),
        Just(Act::Room(usize::MAX)),
    ];
    vec(act, 1..80)
}

/// All that was queued arrives once and in order, and what is left is counted.
fn delivers(acts: &[Act]) -> Result<(), TestCaseError> {
    let mut output = Output::default();
    let mut socket = Socket::with_room(0);
    let mut queued = Vec::new();
    for act in acts.iter().chain(&[Act::Room(usize::MAX)]) {
        match *act {
            Act::Push(len) | Act::Write(len) => {
                // No two bytes that are near each other are the same.
                let bytes: Vec<u8> = (queued.len()..queued.len() + len)
                    .map(|at| (at % 251) as u8)
                    .collect();
                queued.extend_from_slice(&bytes);
                if matches!(act, Act::Push(_)) {
                    output.push(bytes.into());
                } else {
                    output.write_with(|buffer| buffer.extend_from_slice(&bytes));
                }
            }
            Act::Room(room) => {
                socket.room = room;
                while !output.is_empty() && output.write_to(&mut socket).expect("no error") {}
            }
        }
        let taken = socket.taken.len();
        prop_assert!(
            queued.starts_with(&socket.taken),
            "{taken} bytes are not those queued"
        );
        prop_assert_eq!(output.queued_bytes(), queued.len() - taken);
    }
    prop_assert_eq!(socket.taken.len(), queued.len());
    Ok(())
}

proptest! {
    #[test]
    fn whatever_a_socket_takes_at_a_time_all_arrives_once_and_in_order(acts in acts()) {
        delivers(&acts)?;
    }
}

#[test]
fn a_partial_write_that_is_forgotten_is_found() {
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: 0,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let found = with(Mutation::PartialWriteForgotten, || {
        runner.run(&acts(), |acts| delivers(&acts))
    });
    assert!(found.is_err(), "{found:?}");
}

#[test]
fn a_full_socket_takes_nothing_and_loses_nothing() {
    let mut output = Output::default();
    output.push(Bytes::from_static(b"answer"));
    let mut socket = Socket::with_room(0);
    assert!(!output.write_to(&mut socket).unwrap());
    assert_eq!(output.queued_bytes(), 6);
}

#[test]
fn a_writer_that_writes_nothing_queues_nothing() {
    let mut output = Output::default();
    output.write_with(|_| {});
    output.push(Bytes::new());
    assert!(output.is_empty());
}

#[test]
fn five_thousand_idle_connections_take_two_megabytes() {
    assert!(size_of::<Connection>() * 5_000 <= 2 << 20);
}
