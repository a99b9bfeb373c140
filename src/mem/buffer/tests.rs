use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::pb;

/// Fewer under a memory checker, where each takes long.
const CASES: u32 = if cfg!(mem_passthrough) { 4 } else { 64 };

#[test]
fn an_empty_buffer_holds_no_memory() {
    let buffer = Buffer::new();
    assert!(buffer.is_empty());
    assert_eq!((buffer.len(), buffer.capacity()), (0, 0));
    assert!(buffer.freeze().is_empty());
    assert_eq!(Buffer::with_capacity(0).capacity(), 0);
}

#[test]
fn freezing_does_not_copy() {
    let mut buffer = Buffer::with_capacity(100);
    buffer.extend_from_slice(b"frame");
    let start = buffer.as_ptr();
    let bytes = buffer.freeze();
    assert_eq!(&bytes[..], b"frame");
    assert_eq!(bytes.as_ptr(), start);
    assert_eq!(bytes.slice(1..3).as_ptr(), start.wrapping_add(1));
}

#[test]
fn a_message_is_encoded_into_a_growing_buffer() {
    let message = pb::RaftRpcData {
        service_name: "RaftService".into(),
        payload: Bytes::from(vec![7; 100_000]),
        ..Default::default()
    };
    let mut buffer = Buffer::from(&b"head"[..]);
    message.encode(&mut buffer).unwrap();
    assert_eq!(&buffer[..4], b"head");
    assert_eq!(pb::RaftRpcData::decode(&buffer[4..]).unwrap(), message);
}

#[test]
fn a_buffer_reads_what_a_socket_has_and_no_more() {
    let (mut near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    let mut buffer = Buffer::new();
    let error = buffer.read_from(&far, 10).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    near.write_all(b"one").unwrap();
    assert_eq!(buffer.read_from(&far, 10).unwrap(), 3);
    near.write_all(b"two").unwrap();
    assert_eq!(buffer.read_from(&far, 1).unwrap(), 3);
    drop(near);
    assert_eq!(buffer.read_from(&far, 10).unwrap(), 0);
    assert_eq!(&buffer[..], b"onetwo");
}

#[test]
fn spare_room_is_filled_and_taken_in() {
    let mut buffer = Buffer::from(&b"ab"[..]);
    buffer.reserve(3);
    assert!(buffer.spare_capacity_mut().len() >= 3);
    buffer.spare_capacity_mut()[0].write(b'c');
    // SAFETY: two bytes were there, and one was written behind them.
    unsafe { buffer.set_len(3) };
    assert_eq!(&buffer[..], b"abc");
}

#[test]
fn what_one_thread_freezes_another_may_drop() {
    let bytes = thread::spawn(|| Buffer::from(&[5; 50_000][..]).freeze())
        .join()
        .unwrap();
    let other = bytes.clone();
    thread::spawn(move || drop(other)).join().unwrap();
    assert!(bytes.iter().all(|&byte| byte == 5));
}

#[test]
#[should_panic(expected = "a buffer is not longer than the address space")]
fn room_beyond_the_address_space_is_refused() {
    Buffer::from(&b"x"[..]).reserve(usize::MAX);
}

#[derive(Clone, Debug)]
enum Op {
    Extend(Vec<u8>),
    Put(Vec<u8>),
    PutBytes(u8, usize),
    Reserve(usize),
    Truncate(usize),
    Flip(usize),
    Clear,
}

fn ops() -> impl Strategy<Value = Op> {
    let content = || prop::collection::vec(any::<u8>(), 0..2_000);
    prop_oneof![
        6 => content().prop_map(Op::Extend),
        4 => content().prop_map(Op::Put),
        2 => (any::<u8>(), 0..100_000usize).prop_map(|(byte, count)| Op::PutBytes(byte, count)),
        2 => (0..100_000usize).prop_map(Op::Reserve),
        2 => (0..5_000usize).prop_map(Op::Truncate),
        2 => any::<usize>().prop_map(Op::Flip),
        1 => Just(Op::Clear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn a_buffer_holds_what_a_vec_would(ops in prop::collection::vec(ops(), 0..40)) {
        let (mut buffer, mut model) = (Buffer::new(), Vec::new());
        for op in ops {
            match op {
                Op::Extend(bytes) => {
                    buffer.extend_from_slice(&bytes);
                    model.extend_from_slice(&bytes);
                }
                Op::Put(bytes) => {
                    buffer.put(&bytes[..]);
                    model.put(&bytes[..]);
                }
                Op::PutBytes(byte, count) => {
                    buffer.put_bytes(byte, count);
                    model.put_bytes(byte, count);
                }
                Op::Reserve(additional) => {
                    buffer.reserve(additional);
                    prop_assert!(buffer.capacity() - buffer.len() >= additional);
                }
                Op::Truncate(len) => {
                    buffer.truncate(len);
                    model.truncate(len);
                }
                Op::Flip(at) => {
                    if let Some(at) = at.checked_rem(model.len()) {
                        buffer[at] ^= 0xFF;
                        model[at] ^= 0xFF;
                    }
                }
                Op::Clear => {
                    buffer.clear();
                    model.clear();
                }
            }
            prop_assert_eq!(&buffer[..], &model[..]);
        }
        prop_assert_eq!(buffer.freeze(), model);
    }
}
